"""No name that somebody else chose breaks what is shown: a test for each surface, by one list."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import textwrap
import urllib.request
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

import browser
import scripted
from commands import Running, poolscope, run
from nasty import NAMES
from peers import HOST, eventually, keep_alive
from poolscope import catalog, scrape
from poolscope import events as ev
from poolscope.advice import words
from poolscope.backends import prometheus
from poolscope.cli import live, main, report
from poolscope.cli.serve import Endpoint
from poolscope.collector import Attached
from poolscope.readings import Readings
from poolscope.summary import summarize
from scripted import API

#: What a terminal may get; a test takes the report's own colours out before.
COLOURS = ("\x1b[1m", "\x1b[1;31m", "\x1b[1;33m", "\x1b[0m")
EVENTS = [
    event
    for name in NAMES.values()
    for event in (
        *scripted.session_per_call(API._replace(address=name)),
        ev.AskedFor(API._replace(address=name), name, name, "12", "new_pool"),
        ev.Held(API._replace(address=name), name, name, "12"),
    )
] + [ev.Faulted(name) for name in NAMES.values()]


def tame(text):
    """Assert that a terminal just prints a text, line by line."""
    for code in COLOURS:
        text = text.replace(code, "")
    odd = {char for char in text if char != "\n" and not char.isprintable()}
    assert not odd
    return text


class Screen(io.TextIOWrapper):
    """A terminal with an encoding."""

    def __init__(self, encoding):
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict", newline="\n")

    def isatty(self):
        return True


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii", "cp1252"])
@pytest.mark.parametrize("as_json", [False, True])
def test_the_report_is_printed_on_any_terminal(encoding, as_json):
    screen = Screen(encoding)
    report.print_report(scripted.summary(EVENTS), screen, as_json=as_json)
    text = tame(screen.buffer.getvalue().decode(encoding))
    if as_json:
        told = {one["address"] for one in json.loads(text)["origins"]}
        assert told == set(NAMES.values())
    else:
        assert max(map(len, text.splitlines())) <= 2 * 100_100  # a line of code's whole name


@pytest.mark.parametrize("name", NAMES)
def test_what_comes_from_a_page_of_metrics_is_bounded_where_it_is_shown(name):
    escaped = NAMES[name].replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    labels = (
        "server_address", "server_port", "url_scheme", "poolscope_client", "code_file_path",
        "code_function_name", "code_line_number", "poolscope_cause",
    )  # fmt: skip
    spelled = ",".join(f'{label}="{escaped}"' for label in labels)
    page = (
        f"poolscope_connections_by_callsite_total{{{spelled}}} 12\n"
        f'poolscope_requests_failed_total{{server_address="{escaped}",poolscope_client="x"}} 12\n'
    )
    readings = scrape.read(page)
    [one, other] = readings.origins()
    assert one.address == other.address == NAMES[name][:1000]
    screen = Screen("utf-8")
    report.print_report(summarize(readings), screen, as_json=False)
    assert len(tame(screen.buffer.getvalue().decode())) < 10_000


@pytest.mark.parametrize("name", NAMES)
def test_every_label_of_a_page_of_metrics_may_be_anything(name):
    escaped = NAMES[name].replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    for cause in ("first", escaped):
        rows = []
        for metric in catalog.CATALOG:
            labels = dict.fromkeys(metric.labels, escaped)
            labels |= {label: "true" for label in labels if "reused" in label}
            labels |= {label: cause for label in labels if "cause" in label}
            spelled = ",".join(f'{label}="{value}"' for label, value in labels.items())
            if metric.kind == "histogram":
                spelled += ',le="+Inf"'
            bucket = "_bucket" if metric.kind == "histogram" else ""
            rows.append(f"{metric.prometheus_name}{bucket}{{{spelled}}} 50\n")
        readings = scrape.read("".join(rows))
        screen = Screen("utf-8")
        report.print_report(summarize(readings), screen, as_json=False)
        text = tame(screen.buffer.getvalue().decode())
        assert "poolscope: 50 requests" in text
        assert len(text) < 20_000


ARGUMENTS = [
    ["{}"],
    ["report", "{}"],
    ["report", "http://localhost:1/{}"],
    ["report", "--prometheus", "localhost:1", "--window", "{}"],
    ["report", "--prometheus", "localhost:1", "--job", "{}"],
    ["report", "a", "{}"],
    ["run", "--{}", "true"],
    ["run", "--port", "{}", "true"],
    ["run", "--allow-host", "{}", "true"],
    ["run", "--otlp", "{}", "true"],
    ["run", "--max-origins", "{}", "true"],
    ["run", "{}"],
    ["dashboards", "/dev/null/{}"],
    ["dashboards", "new", "--grafana-url", "{}"],
]


@pytest.mark.parametrize("words_", ARGUMENTS, ids=" ".join)
def test_what_is_refused_is_one_sentence(words_, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in NAMES.values():
        if name in (NAMES["null"], NAMES["half a letter"]):  # which no argument can hold
            continue
        with contextlib.suppress(SystemExit):
            assert main([word.replace("{}", name) for word in words_]) != 0
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("poolscope: ")
        assert err.count("\n") == 1
        assert len(tame(err)) < 2100
        assert not list(tmp_path.iterdir())


SPEAK = """
    import json, os, socket, sys
    names = json.loads(sys.argv[1])
    for name in names:
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(os.environ["POOLSCOPE_RUN_SOCKET"])
            said = {"pid": 1, "executable": name, "refused": name}
            stranger.sendall(json.dumps(said).encode() + b"\\n")
    print("said", flush=True)
    sys.stdin.read()
"""


def test_who_could_not_be_attached_may_be_called_anything():
    command = (sys.executable, "-c", textwrap.dedent(SPEAK), json.dumps(list(NAMES.values())))
    result = run(*command, options=("--no-report",), input="")
    assert (result.returncode, result.stdout) == (0, "said\n")
    lines = tame(result.stderr).splitlines()[1:]
    assert len(lines) == len(NAMES)
    assert {line[:27] for line in lines} == {"poolscope: not attached to "}
    assert max(map(len, lines)) < 2100


SITES = """
    import json, os, sys
    import requests
    code = "def ask(url):\\n    for _ in range(12):\\n        requests.get(url)\\n"
    for name in json.loads(sys.argv[2]):
        space = {"requests": requests}
        exec(compile(code, name, "exec"), space)
        space["ask"](sys.argv[1])
    print("asked", flush=True)
    sys.stdin.read()
"""
FILES = [name for key, name in NAMES.items() if key not in ("null", "half a letter")]


def test_lines_of_code_may_be_in_files_that_are_called_anything(serve, tmp_path):
    """In the metrics, on the page and in the report."""
    server = serve(keep_alive)
    script = tmp_path / "pro\udcff\x1b[31m\u202egram.py"
    script.write_text(textwrap.dedent(SITES))
    environ = os.environ | {"PYTHONIOENCODING": "ascii"}
    with Running(sys.executable, script, server.url, json.dumps(FILES), env=environ) as running:
        assert running.line() == "asked"
        opened = "poolscope_connections_opened_total"
        assert eventually(lambda: running.total(opened) == server.accepted == 12 * len(FILES))
        readings = scrape.read(running.scrape())
        [origin] = readings.origins()
        told = {values[0] for values, _ in readings.further(catalog.BY_CALLSITE, origin)}
        assert told == {name if len(name) < 300 else f"...{'a' * 297}" for name in FILES}
        with urllib.request.urlopen(running.url.replace("metrics", "state")) as answer:
            state = json.load(answer)
        tame(state["command"])
        [process] = state["processes"]
        assert process["program"] == "pro??[31m?gram.py"
        running.process.stdin.close()
        errors = running.process.stderr.read()
    tame(errors)
    assert json.loads(errors)["origins"][0]["requests"]["answered"] == server.answered


def test_a_report_of_a_run_is_printed_where_only_ascii_can_be(serve, tmp_path):
    server = serve(keep_alive)
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SITES))
    for variables in (
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"LC_ALL": "POSIX"},
        {"PYTHONIOENCODING": "ascii"},
    ):
        result = poolscope(
            "run", "--port", 0, "--", sys.executable, script, server.url, json.dumps(FILES),
            env=os.environ | variables, text=False, input=b"",
        )  # fmt: skip
        assert (result.returncode, result.stdout) == (0, b"asked\n")
        text = tame(result.stderr.decode())
        assert f"poolscope: {12 * len(FILES)} requests to 1 upstream" in text
        assert "Where: " in text


@pytest.mark.skipif(not browser.CHROMIUM, reason=browser.REASON)
def test_the_page_shows_names_as_text(tmp_path):
    """Each upstream is there, in letters that stay where they are; nothing became markup."""
    registry, kept = CollectorRegistry(), Readings()
    alike = scripted.session_per_call(API._replace(address="\0\1"))
    alike += scripted.session_per_call(API._replace(address="\2\3"))
    for observer in (prometheus.observer(registry, lambda: None), kept):
        observer.tell([*EVENTS, *alike])
    processes = tuple(Attached(5, name, name) for name in NAMES.values())
    collector = SimpleNamespace(processes=processes, attached=len(processes))
    program = "".join(NAMES.values())
    endpoint = Endpoint(HOST, 0, registry, lambda: live.state(program, kept, registry, collector))
    try:
        with browser.Browser(tmp_path / "profile") as shown:
            shown.open(f"http://{HOST}:{endpoint.port}/")
            there = "document.querySelectorAll('[data-upstream]').length"
            shown.until(f"{there} === {len(NAMES) + 2}")
            names = shown.ask(
                "[...document.querySelectorAll('[data-upstream] h2')].map((one) => one.textContent)"
            )
            text = shown.ask("document.body.textContent")
            rows = shown.ask("document.querySelectorAll('#processes tr').length")
            assert shown.ask("document.images.length") == 0
            assert shown.complaints == []
    finally:
        endpoint.close()
    assert sorted(names) == sorted(
        words.upstream(API._replace(address=name)._asdict())
        for name in (*NAMES.values(), "??", "??")
    )
    assert rows == len(NAMES) + 1
    tame(text)
