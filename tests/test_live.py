"""The live page in a real Chromium: it shows what ``/metrics`` says, and outlives the service."""

from __future__ import annotations

import json
import re
import signal
import socket
import struct
import sys
import textwrap
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest

import browser
from commands import Running, poolscope
from peers import HOST, eventually, fin, keep_alive
from poolscope import catalog, scrape
from poolscope.advice import words

pytestmark = [
    pytest.mark.skipif(not browser.CHROMIUM, reason=browser.REASON),
    pytest.mark.timeout(120),
]

SERVICE = """
    import sys, requests, urllib3
    bare, small, odd = sys.argv[1:]
    narrow = urllib3.PoolManager(maxsize=1).connection_from_url(small)
    def ask(url):
        requests.get(url)
    def play():
        for _ in range(20):
            ask(bare)
        for _ in range(10):
            several = [narrow.request("GET", "/", preload_content=False) for _ in range(3)]
            for one in several:
                one.drain_conn()
                one.release_conn()
        import socket
        class Connection(urllib3.connection.HTTPConnection):
            def _new_conn(self):
                made = socket.socket(socket.AF_UNIX)
                made.connect(odd)
                return made
        class Pool(urllib3.HTTPConnectionPool):
            ConnectionCls = Connection
        with Pool("localhost") as pool:
            pool.socket_path = odd
            pool.request("GET", "/")
    for line in sys.stdin:
        play()
        print("played", flush=True)
"""
#: A name that would be markup if somebody took it for that.
ODD = "<img src=x onerror=alert(1)>"


def goodbye(peer):
    """Answer once and hang up."""
    peer.request()
    peer.answer()
    fin(peer)


@pytest.fixture
def page(serve, tmp_path):
    """Return a page that shows a service, the service, and the upstreams."""
    script = tmp_path / "main.py"
    script.write_text(textwrap.dedent(SERVICE))
    path = str(tmp_path / ODD)
    servers = serve(keep_alive), serve(keep_alive), serve(goodbye, path=path)
    arguments = servers[0].url, servers[1].url, path
    with (
        Running(sys.executable, script, *arguments, cwd=tmp_path) as service,
        browser.Browser(tmp_path / "profile") as shown,
    ):
        shown.resize(1200, 900)
        shown.open(service.url.removesuffix("metrics"))
        yield shown, service, servers


def play(service, server):
    """Let it happen, and wait until the metrics have heard of all that the server has seen."""
    service.tell("play")
    assert service.line() == "played"
    closed = "poolscope_connections_closed_total"
    assert eventually(lambda: service.total(closed, server_port=server.port) == server.accepted)


#: What the page says of each upstream.
SAID = """
    Object.fromEntries([...document.querySelectorAll("[data-upstream]")].map((one) => [
        one.dataset.upstream,
        {
            numbers: Object.fromEntries([...one.querySelectorAll(".bar")].map((bar) =>
                [bar.dataset.name, Number(bar.lastChild.textContent.replaceAll(",", ""))])),
            answered: one.querySelector("p")?.textContent,
            findings: [...one.querySelectorAll("[data-finding]")].map((one) => one.dataset.finding),
            text: one.innerText,
        },
    ]))
"""


def on_metrics(service):
    """Return what ``/metrics`` says of each upstream: causes and reasons."""
    readings = scrape.read(service.scrape())
    return {
        words.upstream(origin._asdict(), 200): {
            **readings.by(catalog.OPENED, origin),
            **readings.by(catalog.CLOSED, origin),
        }
        for origin in readings.origins()
    }


def settled(shown, service):
    """Wait until the page shows what the metrics say; return what it says."""

    def agree():
        said = shown.ask(SAID)
        return {name: one["numbers"] for name, one in said.items()} == on_metrics(service)

    assert eventually(agree), (shown.ask(SAID), on_metrics(service))
    return shown.ask(SAID)


def test_it_shows_what_the_metrics_say_and_goes_on(page):
    shown, service, (bare, small, odd) = page
    shown.until("document.getElementById('about').textContent.includes('no outbound HTTP')")
    for round_ in (1, 2):
        play(service, bare)
        said = settled(shown, service)
        first, second = said[bare.url], said[small.url]
        assert first["numbers"] == {
            "first": 1, "new_pool": 20 * round_ - 1, "collected": 20 * round_,
        }  # fmt: skip
        assert first["answered"] == f"{20 * round_} requests answered, 0 failed"
        assert first["findings"] == ["PoolscopeSessionPerRequest"]
        assert f"Where: main.py:6 in ask, {20 * round_ - 1} times." in first["text"]
        assert second["findings"] == ["PoolscopePoolTooSmall"]
        assert "PoolManager(maxsize=3)" in second["text"]
    assert bare.accepted == 40
    assert said[f"unix socket {odd.path}"]["findings"] == []
    # Its name has not become markup, nothing came from elsewhere, and nobody complained.
    assert shown.ask("document.images.length") == 0
    base = service.url.removesuffix("metrics")
    loaded = shown.ask("performance.getEntriesByType('resource').map((one) => one.name)")
    assert set(loaded) == {f"{base}state"}
    assert shown.complaints == []


def test_it_is_the_report(page):
    shown, service, (bare, *_) = page
    play(service, bare)
    said = settled(shown, service)
    told = json.loads(poolscope("report", service.url, "--json").stdout)["origins"]
    assert [one["findings"] for one in said.values()] == [
        [finding["id"] for finding in origin["findings"]] for origin in told
    ]


#: The colours of every kind of text, and of what it stands on.
COLOURS = """
    ["p.problem", ".finding p", ".faint", ".verdict.costly", ".signal b", ".signal small", "code", "h3"].map((kind) => {
        const one = document.querySelector(kind);
        let on = one;
        while (getComputedStyle(on).backgroundColor === "rgba(0, 0, 0, 0)") on = on.parentElement;
        return [kind, getComputedStyle(one).color, getComputedStyle(on).backgroundColor];
    })
"""  # noqa: E501 - a script


def luminance(colour):
    """Return the relative luminance of a CSS colour (WCAG 2.2)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """Return the contrast ratio of two colours, from 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_and_can_be_read(page, width, dark):
    """At phone width, in light and dark: no text is fainter than WCAG's AA wants."""
    shown, service, (bare, *_) = page
    shown.resize(width, 800)
    shown.dark(on=dark)
    play(service, bare)
    settled(shown, service)
    assert shown.ask("document.documentElement.scrollWidth") == width
    colours = shown.ask(COLOURS)
    assert (luminance(colours[0][2]) < 0.5) == dark
    assert [row for row in colours if contrast(row[1], row[2]) < 4.5] == []


def test_it_keeps_what_it_knows_when_the_service_is_gone(page):
    shown, service, (bare, *_) = page
    play(service, bare)
    known = settled(shown, service)
    assert shown.ask("document.getElementById('gone').hidden")
    service.process.stdin.close()
    shown.until("!document.getElementById('gone').hidden")
    assert "The command has ended" in shown.ask("document.getElementById('gone').textContent")
    assert shown.ask(SAID).keys() == known.keys()


def test_a_service_that_hangs_is_noticed_and_its_return_as_well(page):
    shown, service, (bare, *_) = page
    play(service, bare)
    settled(shown, service)
    service.send(signal.SIGSTOP)
    shown.until("!document.getElementById('gone').hidden")
    service.send(signal.SIGCONT)
    shown.until("document.getElementById('gone').hidden")


def test_who_has_something_in_focus_keeps_it(page):
    """Nor does what somebody has folded unfold by itself."""
    shown, service, (bare, small, _) = page
    play(service, bare)
    settled(shown, service)
    shown.ask(f"document.querySelector('[data-upstream=\"{small.url}\"] summary').focus()")
    shown.ask("document.activeElement.click()")
    looks = "performance.getEntriesByType('resource').length"
    seen = shown.ask(looks)
    shown.until(f"{looks} > {seen} + 1")
    assert shown.ask("document.activeElement.tagName") == "SUMMARY"
    assert shown.ask("document.activeElement.parentElement.open") is False
    assert shown.ask(SAID)[small.url]["numbers"] == {}
    shown.ask("document.activeElement.click()")
    assert settled(shown, service)[small.url]["findings"] == ["PoolscopePoolTooSmall"]


def test_a_selection_is_not_taken_away(page):
    """What is to be copied stays, and is brought up to date when it is let go of."""
    shown, service, (bare, *_) = page
    play(service, bare)
    settled(shown, service)
    shown.ask("getSelection().selectAllChildren(document.querySelector('[data-finding]'))")
    selected = shown.ask("getSelection().toString()")
    looks = "performance.getEntriesByType('resource').length"
    seen = shown.ask(looks)
    play(service, bare)
    shown.until(f"{looks} > {seen} + 1")
    assert shown.ask("getSelection().toString()") == selected
    shown.ask("getSelection().removeAllRanges()")
    assert settled(shown, service)[bare.url]["numbers"]["collected"] == 40


def test_processes_are_named_without_their_arguments(page):
    shown, service, (bare, *_) = page
    play(service, bare)
    settled(shown, service)
    state = json.loads(urllib.request.urlopen(service.url.replace("metrics", "state")).read())
    [process] = state["processes"]
    assert (process["program"], state["ended"]) == ("main.py", 0)
    assert ODD not in json.dumps(state["processes"])
    assert str(process["pid"]) in shown.ask("document.getElementById('processes').innerText")


def test_other_addresses_are_not_found(page):
    _, service, _ = page
    for name in ("", "state"):
        request = urllib.request.Request(service.url.replace("metrics", name), method="HEAD")
        with urllib.request.urlopen(request) as answer:
            assert (answer.status, answer.read()) == (200, b"")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(service.url.replace("metrics", "other"))


def test_clients_that_hang_up_leave_standard_error_alone(page):
    _, service, (bare, *_) = page
    for said in (b"", b"GET /state HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        with socket.create_connection((HOST, urlsplit(service.url).port)) as client:
            client.sendall(said)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    play(service, bare)
    service.process.stdin.close()
    assert "Exception" not in service.process.stderr.read()
    assert service.process.wait() == 0
