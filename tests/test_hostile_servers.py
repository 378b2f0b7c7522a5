"""``poolscope report`` and servers that mean no good: one sentence, or a report, and in time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from urllib.parse import parse_qs, urlsplit

import promql_parser
import pytest

from commands import CLI, poolscope
from hostile import (
    ANSWERS,
    GOOD,
    ODD,
    PROMETHEUS,
    again_and_again,
    answering,
    drip,
    endless,
    found,
    moved,
    page,
    row,
)
from peers import HOST, PATIENCE, silence
from poolscope import catalog, fetching, history, scrape
from poolscope.cli import main


@pytest.fixture
def said(capsys):
    """Run a verb; return the exit status and what it has said."""

    def said(*arguments):
        status = main([*map(str, arguments)])
        return status, *capsys.readouterr()

    return said


def is_tame(text):
    """Tell whether a terminal just prints a text."""
    return all(char.isprintable() for char in text.replace("\n", ""))


def one_sentence(result, server, path):
    """Return what was said instead of a report."""
    status, out, err = result
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"poolscope: http://{HOST}:{server.port}{path}")
    assert is_tame(err), err
    assert len(err) < 700
    return err


@pytest.mark.parametrize("name", ANSWERS)
def test_a_bad_answer_is_one_sentence(serve, said, name):
    answer, sentence = ANSWERS[name]
    server = serve(answering(answer))
    for options in ((), ("--json",)):
        err = one_sentence(said("report", server.url, *options), server, "/metrics")
        assert sentence in err
        assert "secret" not in err


@pytest.mark.parametrize("name", [*ANSWERS, *PROMETHEUS])
def test_a_bad_answer_of_a_prometheus_is_one_sentence(serve, said, name):
    server = serve(answering((ANSWERS | PROMETHEUS)[name][0]))
    err = one_sentence(said("report", "--prometheus", server.url), server, "")
    if name in PROMETHEUS:
        assert PROMETHEUS[name][1] in err


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_in_a_page_is_passed_over(serve, said, name):
    server = serve(answering(page(GOOD + ODD[name])))
    status, out, err = said("report", server.url)
    assert (status, err) == (0, "")
    assert is_tame(out), out
    assert max(map(len, out.splitlines())) < 2500
    status, out, err = said("report", server.url, "--json")
    assert (status, err) == (0, "")
    assert is_tame(out), out
    [origin] = [one for one in json.loads(out)["origins"] if one["address"] == "a"]
    assert origin["requests"]["answered"] == 30
    assert origin["connections"]["opened_by_cause"]["first"] == 3


@pytest.mark.parametrize("handler", [drip, again_and_again, silence], ids=lambda one: one.__name__)
def test_an_answer_that_never_comes_has_an_end(serve, handler):
    """Each of its bytes comes in time."""
    server = serve(handler)
    for fetch in (scrape.fetch, lambda url, timeout: history.fetch(url, "1h", timeout=timeout)):
        with pytest.raises(scrape.ScrapeError, match=r"\(no full answer within 0.3 s\)"):
            fetch(server.url, timeout=0.3)


def test_who_waits_may_interrupt(serve):
    """Without a traceback, and with the status that a shell gives."""
    server = serve(silence)
    command = [*CLI, "report", server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        server.wait(accepted=1)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE) == (b"", b"")
        assert process.returncode == 130


def test_a_page_that_has_no_end_is_too_long(serve, monkeypatch):
    monkeypatch.setattr(fetching, "_LIMIT", 5 * 1024 * 1024)
    server = serve(endless)
    with pytest.raises(scrape.ScrapeError, match="the answer is longer than 5 MB"):
        scrape.fetch(server.url)


def test_a_page_that_is_as_long_as_allowed_is_read(serve, monkeypatch):
    monkeypatch.setattr(fetching, "_LIMIT", len(GOOD))
    assert scrape.fetch(serve(answering(page(GOOD))).url).origins()
    with pytest.raises(scrape.ScrapeError, match="the answer is longer than"):
        scrape.fetch(serve(answering(page(GOOD + "\n"))).url)


@pytest.mark.parametrize("status", ["301 A", "302 A", "303 A", "307 A", "308 A"])
def test_another_place_on_the_same_host_is_followed(serve, status):
    other = serve(answering(page(GOOD)))
    server = serve(answering(moved("/metrics/", status), moved(f"{other.url}/x", status)))
    assert scrape.fetch(server.url).origins()
    assert (server.accepted, other.accepted) == (2, 1)


def test_another_host_is_not_asked(serve):
    other = serve(answering(page(GOOD)))
    server = serve(answering(moved(f"http://localhost:{other.port}/metrics?token=secret")))
    with pytest.raises(scrape.ScrapeError) as caught:
        scrape.fetch(server.url)
    assert str(caught.value) == (
        f"{server.url}/metrics leads on to 'http://localhost:{other.port}/metrics?...', where "
        "poolscope does not follow; give that URL if it is the right one."
    )
    assert other.accepted == 0


def test_what_was_encrypted_is_not_followed_to_what_is_not():
    assert fetching._next("http://shop/metrics", "https://shop/") == "https://shop/metrics"
    with pytest.raises(scrape.ScrapeError, match="where poolscope does not follow"):
        fetching._next("https://shop/metrics", "http://shop/metrics")


def test_a_prometheus_is_asked_for_whatever_a_job_is_called(serve, said):
    """In PromQL, which Prometheus' own grammar reads back."""
    asked = []

    def handler(peer):
        for request in peer:
            query = parse_qs(urlsplit(request.target).query, strict_parsing=True)["query"][0]
            asked.append(query[query.index("{") : query.rindex("}") + 1])
            peer.send(found(row("3", poolscope_cause="first")))

    server = serve(handler)
    for job in ("shop", 'a"b\\c', "m\xfcnchen \N{PILE OF POO}", "a\x1bb\nc\x7f"):
        asked.clear()
        status, out, err = said("report", "--prometheus", server.url, "--job", job)
        assert (status, err) == (0, ""), job
        assert is_tame(out)
        for selector in asked:
            [matcher] = promql_parser.parse(f"up{selector}").matchers.matchers
            assert (matcher.name, matcher.value) == ("job", job)
        assert len(asked) > len(catalog.CATALOG)
    status, out, err = said("report", "--prometheus", server.url, "--job", "\udcff")
    assert (status, out) == (2, "")
    assert err == "poolscope: '\\udcff' is not the name of a job.\n"


@pytest.mark.parametrize("window", ["", "1", "0s", "1y", "1h1m", "٣h", "9" * 400 + "s"])
def test_what_is_no_window_is_refused(said, window):
    status, out, err = said("report", "--prometheus", "localhost:1", "--window", window)
    assert (status, out) == (2, "")
    assert "is not a window of time" in err


def test_a_password_in_a_url_is_not_repeated(said):
    for option in ((), ("--prometheus",)):
        for url in ("http://me:secret@localhost:1/", "me:secret@host", "http://me:sec/ret@x"):
            status, out, err = said("report", *option, url)
            assert (status, out) == (2, "")
            assert "sec" not in err
            assert "...@" in err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_report_is_printed_whatever_the_terminal_can_take(serve, encoding):
    name = '"m\xfcnchen.\N{PILE OF POO}.example"'
    server = serve(answering(page(GOOD.replace('"a"', name).replace(" 30", " 4"))))
    for options in ((), ("--json",)):
        result = poolscope(
            "report",
            server.url,
            *options,
            text=False,
            env=os.environ | {"PYTHONIOENCODING": encoding},
        )
        assert (result.returncode, result.stderr) == (0, b"")
        assert b"nchen." in result.stdout
        result.stdout.decode(encoding)
