"""A server that means no good: what it answers by name, for who reads pages of metrics."""

from __future__ import annotations

import gzip
import json

from peers import Peer

OURS = 'server_address="a",server_port="80",url_scheme="http",poolscope_client="urllib3"'
OPENED = f'poolscope_connections_opened_total{{{OURS},poolscope_cause="first"}}'
GOOD = (
    f"{OPENED} 3\n"
    f'poolscope_request_duration_seconds_bucket{{{OURS},poolscope_reused="true",le="0.1"}} 30\n'
    f'poolscope_request_duration_seconds_bucket{{{OURS},poolscope_reused="true",le="+Inf"}} 30\n'
    f'poolscope_request_duration_seconds_sum{{{OURS},poolscope_reused="true"}} 1.5\n'
)
#: What no terminal may be sent, and where it can stand.
ESCAPES = "\x1b]0;owned\x07\x1b[31m\x9b2J"


def page(text, *headers, status="200 OK"):
    """Return a whole answer."""
    body = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    rows = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(rows).encode("latin-1") + body


def moved(place, status="302 Found"):
    """Return an answer that leads on to another place."""
    return page("", f"Location: {place}", status=status)


def found(*rows):
    """Return what a Prometheus server answers."""
    return page(json.dumps({"data": {"result": rows}}))


def row(value, **labels):
    """Return a row of such an answer."""
    return {"metric": dict.fromkeys(("server_address", "poolscope_client"), "a") | labels,
            "value": [1.5, value]}  # fmt: skip


_TIMES = "no full answer within"
_CUT = "the answer ends before its end"
_NO_HTTP = "what answers does not speak HTTP"
_NO_METRICS = "answers, but not with Prometheus metrics"
_NO_PROMETHEUS = "answers, but not as a Prometheus server does"
_ELSEWHERE = "where poolscope does not follow"

#: Bytes that come at once, by name, and what is said of them to who wanted a page of metrics.
ANSWERS = {
    "escapes in the reason": (page("", status=f"500 {ESCAPES}"), "HTTP status 500 ("),
    "escapes in the reason of a log-in": (page("", status=f"401 {ESCAPES}"), "wants a log-in"),
    "a long reason": (page("", status="500 " + "a" * 60_000), "HTTP status 500 (aaa"),
    "a status that is no number": (b"HTTP/1.1 ok\r\n\r\n", _NO_HTTP),
    "a status beyond all": (b"HTTP/1.1 99999 ok\r\n\r\n", _NO_HTTP),
    "half a page": (page(GOOD, status="206 Partial Content"), "HTTP status 206"),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", "HTTP status 204"),
    "HTTP/0.9": (GOOD.encode(), _NO_HTTP),
    "HTTP/2": (b"\0\0\x12\4\0\0\0\0\0" + b"\0" * 18, _NO_HTTP),
    "TLS": (b"\x15\x03\x01\x00\x02\x02\x46", _NO_HTTP),
    "nothing": (b"", _NO_HTTP),
    "a head without an end": (b"HTTP/1.1 200 OK\r\nA: b", _NO_METRICS),
    "a header without an end": (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000, _NO_HTTP),
    "headers without an end": (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 10_000, _NO_HTTP),
    "headers that are none": (b"HTTP/1.1 200 OK\r\n\x1b[31m\r\n\0\r\n\r\n", _NO_METRICS),
    "a length that is too short": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n" + GOOD.encode(),
        _NO_METRICS,
    ),
    "a length that is too long": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + GOOD.encode(),
        _CUT,
    ),
    "a length beyond all": (
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n" + GOOD.encode(),
        _CUT,
    ),
    "chunks that are none": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + GOOD.encode(),
        _CUT,
    ),
    "chunks without an end": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nup 1\n\r\n",
        _CUT,
    ),
    "a chunk beyond all": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 15 + b"\r\nup 1\n",
        _CUT,
    ),
    "a chunk of less than nothing": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nup 1\n\r\n0\r\n\r\n",
        "can't be read",
    ),
    "gzip": (
        page(gzip.compress(GOOD.encode()), "Content-Encoding: gzip"),
        "compressed, which nobody asked for",
    ),
    "a bomb": (
        page(gzip.compress(b"\0" * 10_000_000), "Content-Encoding: GZIP"),
        "compressed, which nobody asked for",
    ),
    "a coding of its own": (page(GOOD, "Content-Encoding: \x1b[31m"), "which nobody asked for"),
    "a file": (moved("file:///etc/passwd"), _ELSEWHERE),
    "a place on another host": (moved("http://169.254.169.254/latest"), _ELSEWHERE),
    "a place with a password": (moved("http://me:secret@127.0.0.1/"), _ELSEWHERE),
    "a place that is none": (moved(f"http://[{ESCAPES}"), _ELSEWHERE),
    "no place": (page("", status="302 Found"), "leads on and on"),
    "itself": (moved("/metrics"), "leads on and on"),
    "itself, for ever": (moved("/metrics", "308 Permanent Redirect"), "leads on and on"),
    "rubbish": (page(bytes(range(256)) * 100), _NO_METRICS),
    "what is no UTF-8": (page(b"\xff\xfe\n" + GOOD.encode()), _NO_METRICS),
    "UTF-16": (page(GOOD.encode("utf-16")), _NO_METRICS),
    "JSON that is deep": (page("[" * 1_000_000), _NO_METRICS),
    "braces without an end": (page(OPENED[:-1]), _NO_METRICS),
    "labels that are none": (page(OPENED[:-1] + ",,=,} 3\n"), _NO_METRICS),
    "an OpenMetrics page that is none": (page(f"# TYPE x x\n{GOOD}# EOF\n"), _NO_METRICS),
    "a value that is none": (page(f"{OPENED} many\n"), _NO_METRICS),
    "escapes": (page(ESCAPES), _NO_METRICS),
    "too many upstreams": (
        page("".join(OPENED.replace('"a"', f'"{n}"') + " 1\n" for n in range(10_001))),
        "more than 10,000 upstreams",
    ),
}  # fmt: skip

#: The same for who wanted the answers of a Prometheus server.
PROMETHEUS = {
    "a page of metrics": (page(GOOD), _NO_PROMETHEUS),
    "deep JSON": (page("[" * 1_000_000), _NO_PROMETHEUS),
    "deep JSON with an end": (
        page('{"data":{"result":' + "[" * 500_000 + "]" * 500_000 + "}}"), _NO_PROMETHEUS,
    ),
    "another JSON": (page("[]"), _NO_PROMETHEUS),
    "no data": (page('{"data": null}'), _NO_PROMETHEUS),
    "rows that are none": (found(1, 2), _NO_PROMETHEUS),
    "a row without a value": (found({"metric": {}}), _NO_PROMETHEUS),
    "labels that are none": (found({"metric": 5, "value": [1, "1"]}), _NO_PROMETHEUS),
    "a label that is no text": (found(row("1", server_address=["a"])), _NO_PROMETHEUS),
    "values that are no numbers": (
        found(row("many"), row(None), row([1]), row({}), row("1e999"), row("NaN"), row("-3")),
        "has no series of poolscope",
    ),
    "a number that is too long": (
        page('{"data": {"result": [{"metric": {}, "value": [1, ' + "9" * 1_000_000 + "]}]}}"),
        "has no series of poolscope",
    ),
    "a bad query": (page("", status=f"422 {ESCAPES}"), "HTTP status 422"),
}  # fmt: skip

#: Pages of which a report can be made, though something in them is odd.
ODD = {
    "good": "",
    "values that no counter has": f"{OPENED.replace('first', 'growth')} -5\n",
    "values beyond all counting": f"{OPENED.replace('first', 'growth')} 1e308\n",
    "values that are no numbers": f"{OPENED.replace('first', 'growth')} NaN\n",
    "buckets that are none": f'poolscope_request_duration_seconds_bucket{{{OURS},le="x"}} 5\n',
    "a line that is no number": (
        f'poolscope_connections_by_callsite_total{{{OURS},code_file_path="a.py",'
        'code_function_name="f",code_line_number="twelve",poolscope_cause="new_pool"} 5\n'
        f'poolscope_connections_held_total{{{OURS},code_file_path="a.py",'
        f'code_function_name="f",code_line_number="{"9" * 5000}"}} 5\n'
    ),
    "names that a terminal obeys": OPENED.replace('"a"', f'"{ESCAPES}"') + " 9\n"
    + OPENED.replace("first", ESCAPES) + " 9\n"
    + f'poolscope_faults_total{{poolscope_where="{ESCAPES}"}} 1\n',
    "a name that is long": OPENED.replace('"a"', '"' + "a" * 100_000 + '"') + " 9\n",
}  # fmt: skip


def drip(peer: Peer) -> None:
    """Send a byte now and then, for ever."""
    for byte in b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100_000:
        if peer.server.stopping:
            return
        peer.sock.send(bytes([byte]))
        peer.sock.settimeout(0.05)
        try:
            if not peer.sock.recv(1):
                return
        except TimeoutError:
            pass


def endless(peer: Peer) -> None:
    """Send a page that has no end."""
    peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
    while not peer.server.stopping:
        peer.sock.sendall(b"# a comment\n" * 100_000)


def again_and_again(peer: Peer) -> None:
    """Say that the answer will come."""
    while not peer.server.stopping:
        peer.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def answering(*answers):
    """Return a handler that answers each request with the next of these, the last one for ever."""
    remaining = list(answers)

    def handler(peer: Peer) -> None:
        if peer.request() is not None:
            peer.send(remaining.pop(0) if len(remaining) > 1 else remaining[0])

    return handler
