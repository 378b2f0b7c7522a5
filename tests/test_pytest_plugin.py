"""The pytest plugin: a budget for connections, a fixture, and a report on the whole run."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from nasty import NAMES
from peers import keep_alive

PLUGIN = "poolscope.pytest_plugin"
#: Other plugins that are installed here only take their time, ours is named; and what this run
#: was told is not for the suites in it.
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}


@pytest.fixture
def server(serve, tls):
    return serve(keep_alive, tls=tls)


@pytest.fixture
def suite(server, tmp_path):
    """Write a test file and run it, as a user's suite that has poolscope installed."""

    def run(text, *options, **environ):
        head = f"""
            import pytest, requests
            URL = {server.url!r}
            def ask(session=requests):
                assert session.get(URL, verify=False).text == "ok"
        """
        file = tmp_path / "test_it.py"
        file.write_text(textwrap.dedent(head) + textwrap.dedent(text))
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-W", "ignore", "--strict-markers",
             "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", tmp_path, "-p", PLUGIN,
             *options, file],
            cwd=tmp_path, env=os.environ | ALONE | environ,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


BARE = """
    @pytest.mark.connections({})
    def test_orders():
        for _ in range(5):
            ask()
"""
ONE = """
    @pytest.mark.connections(per_request=0.2, opened=1, handshakes=1)
    def test_orders():
        with requests.Session() as session:
            for _ in range(5):
                ask(session)
"""


def test_a_test_within_its_budget_passes(suite, server):
    result = suite(ONE)
    assert "1 passed" in result.stdout, result.stdout
    assert (server.accepted, server.answered) == (1, 5)


def test_a_failure_names_the_upstream_the_numbers_and_the_line(suite, server):
    result = suite(BARE.format("per_request=0.2, opened=2, handshakes=3"))
    assert result.returncode == 1
    assert "1 failed" in result.stdout
    said = result.stdout.partition("more connections than the budget allows\n")[2]
    assert said.startswith(
        "per request: 1, allowed 0.2\nopened: 5, allowed 2\nhandshakes: 5, allowed 3\n"
        f"{server.url}: 5 requests, 5 connections, 5 TLS handshakes\n"
        "    4 opened without need at test_it.py:5 in ask (new_pool)\n"
    ), result.stdout
    assert "Traceback" not in result.stdout
    assert server.accepted == 5


def several(*limits):
    """Return a test for each of the limits, in one file: a run of pytest takes its time."""
    return "".join(
        BARE.format(each).replace("test_orders", f"test_{number}")
        for number, each in enumerate(limits)
    )


def test_what_is_allowed_is_allowed(suite):
    result = suite(several("per_request=1", "opened=5", "handshakes=5", "opened=5.0"))
    assert "4 passed" in result.stdout, result.stdout


def test_a_bad_limit_is_one_sentence(suite):
    limits = {
        "": "connections() takes its limits by name: per_request, opened, handshakes.",
        "3": "connections() takes its limits by name: per_request, opened, handshakes.",
        "sockets=3": "connections() knows per_request, opened, handshakes, not 'sockets'.",
        "opened='3'": "connections(opened=...) must be a number from 0 on, not '3'.",
        "opened=-1": "connections(opened=...) must be a number from 0 on, not -1.",
    }
    result = suite(several(*limits))
    assert "5 failed" in result.stdout
    said = [line for line in result.stdout.splitlines() if line.startswith("connections(")]
    assert said == list(limits.values())
    assert "Traceback" not in result.stdout


def test_each_test_has_a_budget_of_its_own(suite):
    result = suite(ONE + ONE.replace("test_orders", "test_again"))
    assert "2 passed" in result.stdout, result.stdout


def test_a_test_that_fails_by_itself_says_only_why(suite):
    result = suite(BARE.format("opened=1") + "        assert not 'this'\n")
    assert "assert not 'this'" in result.stdout
    assert "budget" not in result.stdout


def test_the_fixture_can_be_asked_at_any_time(suite, server):
    result = suite(
        """
        def test_it(connections):
            assert (connections.requests, connections.opened) == (0, 0)
            assert connections.per_request == 0
            with requests.Session() as session:
                for _ in range(4):
                    ask(session)
                assert (connections.requests, connections.opened) == (4, 1)
                assert connections.handshakes == 1
                assert connections.per_request == 0.25
        """
    )
    assert "1 passed" in result.stdout, result.stdout
    assert server.answered == 4


def test_the_whole_run_can_be_reported_on(suite):
    text = "".join(f"\ndef test_{name}():\n    for _ in range(6): ask()\n" for name in "ab")
    result = suite(text, "--poolscope")
    assert "2 passed" in result.stdout
    assert "12 requests to 1 upstream over 12 connections" in result.stdout
    assert "test_it.py:5 in ask, 11 times" in result.stdout
    assert "poolscope" not in suite(text).stdout


@pytest.mark.parametrize("option", ["--dist=load", "--dist=each"])
def test_the_workers_of_a_run_are_reported_on_together(suite, server, option):
    """Budgets hold in each of them."""
    text = "".join(f"\ndef test_{name}():\n    for _ in range(6): ask()\n" for name in "abcd")
    text += textwrap.dedent(BARE.format("opened=1"))
    result = suite(text, "--poolscope", "-p", "xdist.plugin", "-n", "2", option)
    assert f"{server.answered} requests to 1 upstream over {server.accepted} conn" in result.stdout
    assert server.accepted == server.answered == (4 * 6 + 5) * (2 if "each" in option else 1)
    assert "more connections than the budget allows" in result.stdout


def test_a_worker_that_crashes_is_named(suite, server):
    text = "import os\ndef test_a(): ask()\ndef test_b(): os._exit(3)\n"
    result = suite(text, "--poolscope", "-p", "xdist.plugin", "-n", "1", "--max-worker-restart=0")
    assert "Without these workers, which crashed: gw0." in result.stdout
    assert server.answered == 1


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_files_may_be_called_anything(suite, server, encoding):
    """In a budget's failure and in the report, whatever the terminal can take."""
    names = [name for name in NAMES.values() if not {"\0", "\udcff"} & set(name)]
    text = f"""
        @pytest.mark.connections(opened=1)
        def test_it():
            for name in {names!a}:
                space = {{"ask": ask}}
                exec(compile("def again():\\n    for _ in range(12): ask()", name, "exec"), space)
                space["again"]()
    """
    result = suite(text, "--poolscope", "--tb=line", PYTHONIOENCODING=encoding)
    assert result.returncode == 1
    assert f"opened: {12 * len(names)}, allowed 1" in result.stdout
    assert f"{12 * len(names)} requests to 1 upstream" in result.stdout
    assert all(line.isprintable() for line in result.stdout.split("\n"))
    assert max(map(len, result.stdout.split("\n"))) < 2000
    assert server.accepted == 12 * len(names)


def test_a_suite_that_does_not_ask_is_left_alone(suite):
    result = suite(
        """
        def test_it():
            import sys
            import urllib3
            assert "wrapt" not in sys.modules
            assert "connectionpool" in urllib3.HTTPConnectionPool.close.__code__.co_filename
        """,
    )
    assert "1 passed" in result.stdout, result.stdout


def test_disabled_beats_every_budget(suite):
    result = suite(BARE.format("opened=1"), POOLSCOPE_DISABLED="1")
    assert "1 passed" in result.stdout, result.stdout
