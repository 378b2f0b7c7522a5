"""The endpoint of ``poolscope run`` and strangers: what it answers, to whom, how many at once."""

from __future__ import annotations

import contextlib
import gzip
import os
import resource
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from commands import Running, counts_of, own_counts, report_in
from peers import HOST, PATIENCE, eventually, keep_alive
from poolscope.cli import listener
from poolscope.cli.serve import Endpoint

SECURITY = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src "
    "'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
PATHS = ("/", "/state", "/metrics")


def metrics():
    """Return a registry with one thing in it."""
    registry = CollectorRegistry()
    Counter("things", "Things.", registry=registry).inc(3)
    return registry


class Where(NamedTuple):
    """An endpoint in another process."""

    port: int


@pytest.fixture
def serving():
    """Open endpoints that live as long as the test."""
    with contextlib.ExitStack() as stack:

        def serving(host=HOST, allowed=(), registry=None):
            state = {"origins": []}
            endpoint = Endpoint(host, 0, registry or metrics(), lambda: state, allowed)
            stack.callback(endpoint.close)
            return endpoint

        yield serving


def exchange(endpoint, request):
    """Send these bytes and return all that comes back: the status, the headers and the body."""
    with socket.create_connection((HOST, endpoint.port), timeout=PATIENCE) as client:
        client.sendall(request)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *rows = head.decode().split("\r\n")
    return int(line.split(" ")[1]), dict(row.split(": ", 1) for row in rows), body


def ask(endpoint, path="/metrics", host="localhost", method="GET"):
    request = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"
    return exchange(endpoint, request.encode("latin-1"))


def test_every_path_is_answered_with_the_same_precautions(serving):
    endpoint = serving()
    for path, kind in zip(PATHS, ("text/html", "application/json", "text/plain")):
        status, headers, body = ask(endpoint, path)
        assert status == 200
        assert headers.pop("Content-Type").split(";")[0] == kind
        assert int(headers.pop("Content-Length")) == len(body)
        assert headers.pop("Date").endswith(" GMT")
        assert headers == SECURITY
    assert b"things_total 3.0" in body


def test_head_is_get_without_the_body(serving):
    endpoint = serving()
    for path in (*PATHS, "/other"):
        status, headers, _body = ask(endpoint, path)
        headers.pop("Date")
        again, same, nothing = ask(endpoint, path, method="HEAD")
        same.pop("Date")
        assert (again, same, nothing) == (status, headers, b"")


@pytest.mark.parametrize("path", [*PATHS, "/other"])
def test_there_is_nothing_to_do_but_get(serving, path):
    endpoint = serving()
    for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "CONNECT", "get", "X-Y"):
        status, headers, _ = ask(endpoint, path, method=method)
        assert (status, headers.pop("Allow")) == (405, "GET, HEAD")
        assert headers.items() > SECURITY.items()


def test_a_body_that_nobody_asked_for_does_not_cost_the_answer(serving):
    """Closed with something unread, a socket takes back what was sent."""
    endpoint = serving()
    size = 300_000
    head = f"POST /state HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
    assert exchange(endpoint, head.encode() + b"x" * size)[0] == 405


#: Who may not be asked for, and is not: whatever the path.
BAD_HOSTS = {
    "evil.example": 403,
    "evil.example:9464": 403,
    "127.0.0.1.evil.example": 403,
    "localhost.evil.example": 403,
    "evil.localhost.example": 403,
    "notlocalhost": 403,
    "127.1": 403,
    "2130706433": 403,
    "127.0.0.1.": 200,  # an address still
    "evil@127.0.0.1": 400,
    "localhost@evil.example": 400,
    "evil:pass@localhost:80": 400,
    "": 400,
    ":9464": 400,
    "localhost:port": 400,
    "localhost:-1": 400,
    "localhost:80:80": 400,
    "localhost,evil.example": 400,
    "localhost evil.example": 400,
    "localhost/": 400,
    "http://localhost": 400,
    "localhost..": 400,
    "..": 400,
    ".": 400,
    ".localhost": 400,
    "[::1": 400,
    "::1": 400,
    "[::1%lo]": 400,
    "[fe80::1%25eth0]": 400,
    "[zz]": 400,
    "[localhost]": 400,
    "[1:2]": 403,
    "l\xf6calhost": 400,
    "localhost\x00": 400,
    "localhost\x01.evil.example": 400,
}
GOOD_HOSTS = (
    "localhost", "LOCALHOST", "localhost.", "Localhost:9464", "localhost:", "app.localhost",
    "127.0.0.1", "127.0.0.1:1", "127.8.9.1", "10.1.2.3:9464", "[::1]", "[::1]:9464",
    "[2001:DB8::1]", "[::ffff:127.0.0.1]", " localhost\t",
)  # fmt: skip


def test_a_private_endpoint_answers_for_this_machine_alone(serving):
    """A page from elsewhere whose name leads here all of a sudden must not read this one."""
    endpoint = serving()
    for path in (*PATHS, "/other"):
        good = 404 if path == "/other" else 200
        expected = BAD_HOSTS | dict.fromkeys(GOOD_HOSTS, 200)
        expected = {host: good if one == 200 else one for host, one in expected.items()}
        assert {host: ask(endpoint, path, host)[0] for host in expected} == expected


def test_a_host_that_is_refused_learns_nothing(serving):
    endpoint = serving()
    for path in (*PATHS, "/other"):
        status, headers, body = ask(endpoint, path, "evil.example")
        assert (status, body) == (
            403,
            b"Ask for localhost or the address, or allow the name: poolscope run --allow-host.\n",
        )
        assert headers.items() > SECURITY.items()


def test_names_that_are_allowed_are_answered(serving):
    endpoint = serving(allowed=("Pod-1.shop", ".example.com"))
    hosts = {
        "pod-1.shop:9464": 200, "POD-1.SHOP.": 200, "a.example.com": 200, "a.b.example.com": 200,
        "pod-2.shop": 403, "x.pod-1.shop": 403, "example.com": 403, "badexample.com": 403,
    }  # fmt: skip
    assert {host: ask(endpoint, host=host)[0] for host in hosts} == hosts


def test_the_rules_are_the_same_on_ipv6(serving):
    try:
        endpoint = serving("::1")
    except OSError:
        pytest.skip("there is no IPv6 here")
    hosts = {"[::1]": 200, "[::1]:9464": 200, "localhost": 200, "evil.example": 403, "shop": 403}
    for host, status in hosts.items():
        with socket.create_connection(("::1", endpoint.port), timeout=PATIENCE) as client:
            client.sendall(f"GET /state HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert client.recv(12) == f"HTTP/1.1 {status}".encode(), host


def test_names_are_allowed_by_options_or_else_by_a_variable():
    environ = os.environ | {"POOLSCOPE_ALLOW_HOST": "one.example, .two.example,"}
    hosts = ("one.example", "a.two.example", "three.example", "four.example")
    for options, expected in (
        ((), [200, 200, 403, 403]),
        (("--allow-host", "three.example", "--allow-host", "four.example"), [403, 403, 200, 200]),
    ):
        with Running("sleep", "30", options=options, env=environ) as running:
            where = Where(urlsplit(running.url).port)
            assert [ask(where, host=host)[0] for host in hosts] == expected


def test_any_name_can_be_allowed(serving):
    assert ask(serving(allowed=("*",)), host="shop.example")[0] == 200


def test_an_endpoint_that_is_opened_up_answers_names_that_no_stranger_can_have(serving):
    """Whoever owns a name in the public DNS can lead it to any address, also to a private one."""
    endpoint = serving("0.0.0.0")
    hosts = {
        "shop": 200, "shop:9464": 200, "SHOP.": 200, "shop_1": 200, "shop.default.svc": 200,
        "shop.default.svc.cluster.local": 200, "shop.internal": 200, "host.local": 200,
        "router.home.arpa": 200, "localhost": 200, "10.1.2.3": 200, socket.gethostname(): 200,
        "evil.example": 403, "shop.example.com": 403, "local": 200, "notlocal.com": 403,
        f"{socket.gethostname()}.evil.example": 403, "internal.evil.example": 403,
    }  # fmt: skip
    for path in PATHS:
        assert {host: ask(endpoint, path, host)[0] for host in hosts} == hosts
    assert {host: ask(endpoint, host=host)[0] for host in BAD_HOSTS if BAD_HOSTS[host] == 400} == {
        host: 400 for host in BAD_HOSTS if BAD_HOSTS[host] == 400
    }


def test_an_endpoint_that_is_opened_up_answers_the_machines_own_name(serving, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "Node-1.shop.example")
    endpoint, private = serving("0.0.0.0"), serving()
    assert ask(endpoint, host="node-1.shop.example:9464")[0] == 200
    assert ask(endpoint, host="node-2.shop.example")[0] == 403
    assert ask(private, host="node-1.shop.example")[0] == 403


def test_the_name_that_it_was_opened_with_is_answered(serving, monkeypatch):
    found = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, *rest, **more: found(HOST, *rest, **more))
    endpoint = serving("metrics.shop.example")
    hosts = {"metrics.shop.example": 200, "Metrics.Shop.Example.": 200, "shop.example": 403}
    assert {host: ask(endpoint, host=host)[0] for host in hosts} == hosts


#: What is no request for a page of ours: the bytes, and the status.
BAD_REQUESTS = {
    b"GET /metrics HTTP/1.1\r\n\r\n": 400,  # no Host
    b"GET /metrics HTTP/1.0\r\n\r\n": 400,
    b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n": 400,
    b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nhost: evil.example\r\n\r\n": 400,
    b"GET /metrics HTTP/1.1\r\nHost : localhost\r\n\r\n": 400,
    b"GET /metrics HTTP/1.1\r\n Host: localhost\r\n\r\n": 400,
    b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n evil.example\r\n\r\n": 400,
    b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nno header\r\n\r\n": 400,
    b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nA: \x00\r\n\r\n": 400,
    b"GET /metrics HTTP/1.1\nHost: localhost\n\r\n\r\n": 400,
    b"GET http://localhost/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n": 400,
    b"GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n": 400,
    b"GET evil.example:80 HTTP/1.1\r\nHost: localhost\r\n\r\n": 400,
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n": 400,
    b"GET //metrics HTTP/1.1\r\nHost: localhost\r\n\r\n": 404,
    b"GET //evil.example/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n": 404,
    b"GET /../metrics HTTP/1.1\r\nHost: localhost\r\n\r\n": 404,
    b"GET /./metrics HTTP/1.1\r\nHost: localhost\r\n\r\n": 404,
    b"GET /metrics/ HTTP/1.1\r\nHost: localhost\r\n\r\n": 404,
    b"GET /%6detrics HTTP/1.1\r\nHost: localhost\r\n\r\n": 404,
    b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n": 404,
    b"GET /metrics#x HTTP/1.1\r\nHost: localhost\r\n\r\n": 404,
    b"GET /metrics\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n": 400,
    b"GET /m\xc3\xa9trics HTTP/1.1\r\nHost: localhost\r\n\r\n": 400,
    b"GET /metrics /x HTTP/1.1\r\nHost: localhost\r\n\r\n": 400,
    b"GET  /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n": 400,
    b"GET /metrics HTTP/2.0\r\nHost: localhost\r\n\r\n": 400,
    b"GET /metrics\r\nHost: localhost\r\n\r\n": 400,
    b"\r\n\r\n": 400,
    b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n": 400,  # TLS
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": 400,
    b"GET /" + b"a" * 20_000: 414,
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n": 414,
    b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 20_000: 431,
    b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 4_000 + b"\r\n": 431,
    b"GET /metrics HTTP/1.1\r\nHost: " + b"a" * 20_000 + b"\r\n\r\n": 431,
    b"GET /metrics?name[]=\r\xff HTTP/1.1\r\nHost: localhost\r\n\r\n": 400,
}


@pytest.mark.parametrize("request_", BAD_REQUESTS, ids=lambda one: repr(one[:50]))
def test_what_is_no_request_is_refused(serving, request_):
    status, headers, body = exchange(serving(), request_)
    assert status == BAD_REQUESTS[request_]
    assert headers.items() > SECURITY.items()
    assert b"things" not in body


def test_a_scrape_is_negotiated_as_prometheus_does(serving):
    endpoint = serving()
    rows = "Accept: application/openmetrics-text;version=1.0.0\r\nAccept-Encoding: gzip\r\n"
    path = "/metrics?name[]=things_total"
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{rows}\r\n"
    _, headers, body = exchange(endpoint, request.encode())
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=")
    assert headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(body).endswith(b"things_total 3.0\n# EOF\n")


def test_a_page_that_cannot_be_made_is_the_only_one(serving, capfd):
    registry = metrics()
    Gauge("broken", "Raises.", registry=registry).set_function(lambda: 1 / 0)
    endpoint = serving(registry=registry)
    assert ask(endpoint)[0] == 500
    assert ask(endpoint, "/state")[0] == 200
    assert capfd.readouterr() == ("", "")


# ---- under attack


def threads():
    return [one for one in threading.enumerate() if one.name.startswith("poolscope-endpoint")]


def descriptors():
    """Count the descriptors of this process."""
    return sum(1 for _ in Path("/dev/fd").iterdir())


def hang(stack, endpoint, number, said=b""):
    """Connect so many clients that say no more than this."""
    clients = []
    for _ in range(number):
        client = stack.enter_context(socket.socket())
        client.settimeout(PATIENCE)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((HOST, endpoint.port))
        with contextlib.suppress(OSError):  # hung up on already
            client.sendall(said)
        clients.append(client)
    return clients


@pytest.mark.parametrize("said", [b"", b"GET /metrics HT", b"G" * 10_000])
def test_a_thousand_clients_that_hang_cost_one_thread_and_a_few_descriptors(serving, said):
    """Whoever has been there longest makes room; so that those who ask are answered meanwhile."""
    endpoint = serving()
    before = descriptors()
    with contextlib.ExitStack() as stack:
        clients = hang(stack, endpoint, 1000, said)
        assert ask(endpoint)[0] == 200
        assert len(threads()) == 1
        assert descriptors() - before - len(clients) <= 32
        assert clients[0].recv(1) == b""  # hung up on
    assert eventually(lambda: descriptors() == before)
    assert ask(endpoint)[0] == 200


class Wide:
    """A collector with a page of 8 MB: more than a kernel holds of an answer to a slow reader."""

    def collect(self):
        gauge = Gauge("wide", "Wide.", ["name"], registry=None)
        for number in range(1000):
            gauge.labels(f"{number:08000}").set(number)
        return gauge.collect()


def test_slow_readers_are_bounded_in_bytes_and_do_not_stop_others(serving, monkeypatch):
    registry = CollectorRegistry()
    registry.register(Wide())
    monkeypatch.setattr(listener, "_UNSENT", 20_000_000)
    endpoint = serving(registry=registry)
    request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            [client] = hang(stack, endpoint, 1, request)
            assert client.recv(1) == b"H"
        kept = [one.unsent for one in endpoint._listener._clients.values() if one.unsent]
        assert 0 < sum(map(len, kept)) <= 20_000_000
        assert ask(endpoint, "/state")[0] == 200
        assert len(ask(endpoint)[2]) > 8_000_000
        assert len(threads()) == 1


@pytest.fixture
def hurried(monkeypatch):
    """Have no patience with clients."""
    init = listener.Listener.__init__
    monkeypatch.setattr(listener.Listener, "__init__", lambda *args: init(*args, patience=0.05))


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("said", [b"", b"GET /metrics HT"])
def test_a_request_that_does_not_come_is_waited_for_for_a_while(serving, said):
    endpoint = serving()
    with contextlib.ExitStack() as stack:
        [client] = hang(stack, endpoint, 1, said)
        assert client.recv(1) == b""
    assert ask(endpoint)[0] == 200


@pytest.mark.usefixtures("hurried")
def test_a_reader_that_is_slow_is_hung_up_on_in_the_end(serving):
    registry = CollectorRegistry()
    registry.register(Wide())
    endpoint = serving(registry=registry)
    with contextlib.ExitStack() as stack:
        request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
        [client] = hang(stack, endpoint, 1, request)
        assert client.recv(1) == b"H"
        assert eventually(lambda: not endpoint._listener._clients)


def test_it_closes_at_once_though_clients_hang(serving):
    endpoint = serving()
    with contextlib.ExitStack() as stack:
        clients = hang(stack, endpoint, 3) + hang(stack, endpoint, 3, b"GET ")
        assert eventually(lambda: len(endpoint._listener._clients) == 6)
        endpoint.close()
        assert [client.recv(1) for client in clients] == [b""] * 6
        assert not threads()
        with pytest.raises(ConnectionRefusedError):
            hang(stack, endpoint, 1)


def test_it_may_be_closed_again(serving):
    endpoint = serving()
    endpoint.close()
    endpoint.close()


TALK = """
    import subprocess, sys
    import requests
    for line in sys.stdin:
        code = f"import requests; requests.get({sys.argv[1]!r})"
        children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(int(line))]
        print([child.wait() for child in children].count(0), flush=True)
"""


@pytest.mark.parametrize("said", [b"", b"GET /metrics HTTP/1.1\r\n"])
def test_under_few_descriptors_the_account_and_the_endpoint_live_on(serve, said):
    """Clients of the endpoint never take what the command's processes need to be heard."""
    server = serve(keep_alive)
    opened = "poolscope_connections_opened_total"
    talk = (sys.executable, "-c", textwrap.dedent(TALK), server.url)
    few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))  # noqa: E731 - two numbers
    with Running(*talk, limit=few) as running, contextlib.ExitStack() as stack:
        where = Where(urlsplit(running.url).port)
        hang(stack, where, 61, said)
        running.tell(8)
        assert running.line() == "8"
        assert eventually(lambda: running.total(opened) == server.accepted == 8)
        hang(stack, where, 200, said)
        assert running.total(opened) == 8
        stack.close()
        assert running.total(opened) == 8
        running.process.stdin.close()
        errors = running.process.stderr.read()
        assert running.process.wait(PATIENCE) == 0
    assert errors.startswith("{"), errors  # the report, and nothing else
    assert counts_of(report_in(errors), server) == own_counts(server)


def test_clients_that_hang_do_not_keep_the_command():
    with Running(sys.executable, "-c", "input()") as running, contextlib.ExitStack() as stack:
        clients = hang(stack, Where(urlsplit(running.url).port), 20)
        running.tell("")
        assert running.end()[0] == 0
        assert {client.recv(1) for client in clients} == {b""}


def test_no_descriptor_at_all_is_waited_for(serving):
    """A client is not accepted then, and not forgotten."""
    endpoint = serving()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        [client] = hang(stack, endpoint, 1)
        assert eventually(lambda: endpoint._listener._clients)
        other = stack.enter_context(socket.socket())
        other.settimeout(PATIENCE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            other.connect((HOST, endpoint.port))
            other.sendall(b"GET /state HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(1) == b""  # it made room, in vain
            assert eventually(lambda: endpoint._listener._paused_until)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert other.recv(12) == b"HTTP/1.1 200"


SOMEBODY = """
    import os, socket, sys
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    for path in (sys.argv[1], os.path.dirname(sys.argv[1])):
        try:
            if path.endswith("collector"):
                socket.socket(socket.AF_UNIX).connect(path)
            else:
                os.listdir(path)
        except PermissionError:
            print("refused")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_does_not_reach_what_processes_say():
    look = "import os; print(os.environ['POOLSCOPE_RUN_SOCKET'], flush=True); input()"
    with Running(sys.executable, "-c", look) as running:
        path = running.line()
        command = [sys.executable, "-c", textwrap.dedent(SOMEBODY), path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr) == ("refused\n" * 2, "")
