"""Holds the reading of metrics pages: what was told comes back, and every error says what to do."""

import socket
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

import scripted
from poolscope import catalog, fetching, scrape
from poolscope import events as ev
from poolscope.backends import prometheus
from poolscope.cli import report
from poolscope.summary import summarize
from poolscope.table import render
from scripted import API

ODD = ev.Origin('/run/a "b"\\c\n.sock', "", "http", "urllib3")
EVENTS = [
    *scripted.idle_race(),
    *scripted.small_pool(ODD),
    ev.Waited(API, scripted.histogram(0.3, 7)),
    ev.Waited(API, scripted.histogram(30.0, 1)),
    ev.WaitTimedOut(API),
    ev.Created(API, 3.0, "tls"),
    ev.Handshake(API, 0.5, error="tls"),
    ev.Busy(API, 12.75),
    ev.Faulted("somewhere"),
    ev.Levels(API, active=1, idle=2, pending=3, max=4, pools=5, age_sum=6.5, oldest_age=7.5),
]


def page(generate=generate_latest, events=EVENTS):
    registry = CollectorRegistry()
    prometheus.observer(registry, lambda: None).tell(events)
    Gauge("foreign", "Somebody else's.", ["kind"], registry=registry).labels("x").set(5)
    return generate(registry).decode()


def same(one, other):
    """Compare summaries; a page names the origins in an order of its own."""
    for told in (one, other):
        for name in ("seconds", "most_pools_open"):  # a page knows what is there now
            told.pop(name)
        for origin in told["origins"]:
            del origin["pool"]["size"]
        told["origins"].sort(key=lambda origin: origin["address"])
    return one == other


@pytest.mark.parametrize("generate", [generate_latest, generate_openmetrics])
def test_what_was_told_comes_back(generate):
    read = summarize(scrape.read(page(generate)))
    assert same(read, summarize(scripted.told(EVENTS)))


def test_series_that_differ_in_foreign_labels_add_up():
    pages = []
    for pid in (1, 2):
        text = page().replace('poolscope_client="', f'pid="{pid}",poolscope_client="')
        pages.append(text.replace("7.5\n", "2.5\n") if pid == 2 else text)
    lines = "\n".join(pages).splitlines()
    both = scrape.read("\n".join(line for line in lines if not line.startswith("#")) + "\n")
    read, told = summarize(both), summarize(scripted.told(EVENTS))
    mine, other = (
        next(one for one in told["origins"] if one["port"] == "443") for told in (read, told)
    )
    assert mine["requests"]["answered"] == 2 * other["requests"]["answered"]
    assert mine["pool"]["waits"] == 2 * other["pool"]["waits"]
    assert mine["pool"]["max"] == 8
    assert mine["latency"] == other["latency"]
    assert mine["lifetime"]["mean"] == other["lifetime"]["mean"]
    assert mine["lifetime"]["idle_when_dropped"]["stale"]["count"] == 106
    assert mine["lifetime"]["oldest_age"] == 7.5


LABELS = 'server_address="a",server_port="80",url_scheme="http"'
FOREIGN = f"""\
# TYPE http_client_open_connections gauge
http_client_open_connections{{{LABELS},http_connection_state="idle"}} 5
"""
OURS = LABELS + ',poolscope_client="urllib3"'


def test_semantic_convention_series_of_others_are_passed_over():
    readings = scrape.read(FOREIGN)
    assert not readings.origins()


def test_other_buckets_and_broken_values_are_read_as_far_as_they_go():
    name = "poolscope_request_duration_seconds"
    readings = scrape.read(
        f'{name}_bucket{{{OURS},le="0.02"}} 3\n'
        f'{name}_bucket{{{OURS},le="7"}} 5\n'
        f'{name}_bucket{{{OURS},le="+Inf"}} 6\n'
        f"{name}_sum{{{OURS}}} NaN\n"
        f"poolscope_connection_max{{{OURS}}} NaN\n"
        f"poolscope_connection_age_sum_seconds{{{OURS}}} 4\n"
    )
    (origin,) = readings.origins()
    latency = readings.distribution(catalog.REQUEST, origin)
    filled = {
        bound: count for bound, count in zip((*latency.bounds, "more"), latency.counts) if count
    }
    assert filled == {0.025: 3, 10.0: 2, "more": 1}
    assert latency.sum == 0
    assert readings.total(catalog.AGE_SUM, origin) == 4
    assert readings.total(catalog.MAX, origin) == 0


# ---- fetching

PAGES = {
    "/metrics": (200, page()),
    "/other": (200, "up 1\n"),
    "/html": (200, "<!doctype html>\n<title>Welcome</title>\n"),
    "/json": (200, '{"status": "UP"}'),
    "/empty": (200, ""),
    "/private": (401, "no"),
    "/broken": (500, "oops"),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        status, body = PAGES.get(self.path, (404, ""))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def silent():
    """Yield an address where connections are taken and nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("url", ["{}", "{}/metrics", "http://{}", "http://{}/", "{}/metrics#top"])
def test_short_urls_are_completed(address, url):
    read = summarize(scrape.fetch(url.format(address)))
    assert same(read, summarize(scripted.told(EVENTS)))


def test_this_machine_is_never_asked_through_a_proxy(address, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    port = address.partition(":")[2]
    assert scrape.fetch(address).origins()
    assert scrape.fetch(f"localhost:{port}").origins()


SENTENCES = {
    "/html": " answers, but not with Prometheus metrics; check the port and the path, which is "
    "/metrics in most services.",
    "/nowhere": " answers with the HTTP status 404 (Not Found): check the path, which is "
    "/metrics in most services.",
    "/private": " answers with the HTTP status 401 (Unauthorized): it wants a log-in; give a "
    "URL that shows the metrics without one.",
    "/broken": " answers with the HTTP status 500 (Internal Server Error): look into the "
    "service's log, or try again.",
    "/other": " shows metrics, but none of poolscope: either the service does not call "
    "poolscope.instrument() (or was not started by `poolscope run`), or it has not made an "
    "HTTP request through urllib3 yet.",
}


@pytest.mark.parametrize("path", SENTENCES)
def test_a_page_without_readings_says_what_to_do(address, path):
    with pytest.raises(scrape.ScrapeError) as caught:
        scrape.fetch(address + path)
    assert str(caught.value) == f"http://{address}{path}{SENTENCES[path]}"


@pytest.mark.parametrize("path", ["/json", "/empty"])
def test_other_pages_are_not_metrics_either(address, path):
    with pytest.raises(scrape.ScrapeError, match="not with Prometheus metrics"):
        scrape.fetch(address + path)


@pytest.mark.parametrize(
    "url",
    [
        "", "foo bar", "http://", ":9464", "localhost:99999", "localhost:port", "http://[::1",
        "ftp://example.com/metrics", "file:///etc/passwd", "http://a\nb/",
        "http://localhost/münchen",
    ],
)  # fmt: skip
def test_what_is_no_url_is_refused(url):
    with pytest.raises(scrape.ScrapeError) as caught:
        scrape.fetch(url)
    assert str(caught.value) == (
        f"{url!r} is not the URL of a metrics page; give one such as "
        "http://localhost:9464/metrics or host:port."
    )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("me:secret@localhost", "...@localhost"),
        ("http://me:se/cr?et#@localhost:1/x", "http://...@localhost:1/x"),
        ("ftp://host/metrics?token=secret", "ftp://host/metrics?..."),
        ("ftp://host/#secret", "ftp://host/?..."),
        ("ftp://" + "a" * 500, "ftp://" + "a" * 191 + "..."),
    ],
)
def test_no_secret_of_a_url_is_shown(url, shown):
    with pytest.raises(scrape.ScrapeError) as caught:
        scrape.fetch(url)
    assert str(caught.value).startswith(f"{shown!r} is not the URL of a metrics page; ")


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(scrape.ScrapeError) as caught:
        scrape.fetch(address)
    assert str(caught.value) == (
        f"http://{address}/metrics can't be read (Connection refused); check the host and port, "
        "and that the service is running and shows its metrics there."
    )


def test_nobody_answers(silent):
    with pytest.raises(scrape.ScrapeError, match=r"can't be read \(no full answer within 0.1 s\)"):
        scrape.fetch(silent, timeout=0.1)


def test_somebody_who_speaks_something_else():
    def speak(listener):
        peer = listener.accept()[0]
        with peer:
            peer.recv(1000)
            peer.sendall(b"220 mail.example.com ESMTP\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=speak, args=(listener,))
        thread.start()
        with pytest.raises(scrape.ScrapeError, match="what answers does not speak HTTP"):
            scrape.fetch(f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join()


def test_the_command_prints_the_report(address, capsys):
    def fetched():
        readings = scrape.fetch(address)
        readings.seconds = None  # the page is some seconds old, or none
        return readings

    assert report.run(fetched, as_json=False) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (render(summarize(scrape.read(page())), colour=False), "")


def test_the_command_says_why_there_is_none(address, capsys):
    assert report.run(partial(scrape.fetch, f"{address}/nowhere"), as_json=True) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"poolscope: http://{address}/nowhere answers with the HTTP status 404")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("date", "seconds"),
    [("Sat, 21 Nov 2026 12:00:10 GMT", 10.0), ("", None), ("yesterday", None),
     ("Sat, 21 Nov 2026 11:00:00 GMT", None)],
)  # fmt: skip
def test_how_long_a_service_has_counted_is_told_by_its_own_clock(monkeypatch, date, seconds):
    noon = 1795262400  # 2026-11-21 12:00 UTC
    text = f"""
poolscope_pools_opened_total{{server_address="a",url_scheme="http",poolscope_client="urllib3"}} 1
poolscope_pools_opened_created{{server_address="a",poolscope_client="urllib3"}} {noon}
poolscope_connections_opened_created{{server_address="a",poolscope_client="urllib3"}} {noon + 5}
process_created 1
"""
    page = scrape.Page(text, fetching._timestamp(date))
    monkeypatch.setattr(scrape, "get", lambda _url, _timeout: page)
    assert scrape.fetch("http://service/metrics").seconds == seconds
