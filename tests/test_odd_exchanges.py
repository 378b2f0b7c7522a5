"""Exotic answers and exotic requests: the host and the server see what they see without us."""

from __future__ import annotations

import io
import zlib

import pytest
import urllib3
from urllib3._collections import HTTPHeaderDict

from outcomes import attempt, natively_and_attached
from peers import HOST, fin

OK = b"HTTP/1.1 200 OK\r\n"
TWO = b"Content-Length: 2\r\n\r\nok"

#: Answers that have headers, so that they count, and keep the connection.
ANSWERS = {
    "a length in two headers": OK + b"Content-Length: 2\r\n" + TWO,
    "headers twice": OK + b"X-A: 1\r\nX-A: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n" + TWO,
    "a folded header": OK + b"X-A: 1\r\n\t and more\r\n" + TWO,
    "bytes beyond ASCII": OK + b"X-A: \xe4\xff\x80\r\n" + TWO,
    "a header without a value": OK + b"X-A:\r\n" + TWO,
    "no reason": b"HTTP/1.1 200 \r\n" + TWO,
    "not even a blank": b"HTTP/1.1 200\r\n" + TWO,
    "bare line feeds": (OK + b"X-A: 1\r\n" + TWO).replace(b"\r\n", b"\n"),
    "a status nobody knows": b"HTTP/1.1 799 Hm\r\n" + TWO,
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "not modified": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 20\r\n\r\n",
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n" + OK + TWO,
    "two interim answers": b"HTTP/1.1 100 A\r\n\r\nHTTP/1.1 100 B\r\nX-A: 1\r\n\r\n" + OK + TWO,
    "chunks with trailers": OK
    + b"Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\nX-Trailer: 1\r\n\r\n",
    "chunks and a length": OK + b"Transfer-Encoding: chunked\r\n" + b"Content-Length: 9\r\n\r\n"
    b"2\r\nok\r\n0\r\n\r\n",
    "rubbish for gzip": OK + b"Content-Encoding: gzip\r\n" + TWO,
    "deflated": OK
    + b"Content-Encoding: deflate\r\nContent-Length: 10\r\n\r\n"
    + zlib.compress(b"ok"),
}
#: Answers after which the connection is of no more use, with headers ...
LAST_ANSWERS = {
    "a length with a semicolon": OK + b"Content-Length: 2;\r\n\r\nok",
    "a length, twice": OK + b"Content-Length: 2, 2\r\n\r\nok",
    "a length below zero": OK + b"Content-Length: -2\r\n\r\nok",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "two lengths in one": OK + b"Content-Length: 2, 3\r\n\r\nok",
    "half of the headers": OK + b"X-A: 1\r\n",
    "no length": OK + b"\r\nok",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n" + TWO,
    "close, and keep alive": OK + b"Connection: close, keep-alive\r\n" + TWO,
    "a line that is no header": OK + b"no header\r\n" + TWO,
    "a header without a name": OK + b": nothing\r\n" + TWO,
    "a chunk too big to be true": OK + b"Transfer-Encoding: chunked\r\n\r\nffffffffffff\r\nok",
    "early hints": b"HTTP/1.1 103 Early Hints\r\nX-A: 1\r\n\r\n" + OK + TWO,
}
#: ... and without.
NO_ANSWERS = {
    "nothing at all": b"",
    "an empty line": b"\r\n",
    "HTTP/0.9": b"<html>ok</html>",
    "another protocol": b"SSH-2.0-OpenSSH\r\n",
    "a version to come": b"HTTP/9.9 200 OK\r\n" + TWO,
    "a status of letters": b"HTTP/1.1 abc OK\r\n" + TWO,
    "a status of two figures": b"HTTP/1.1 20 OK\r\n" + TWO,
    "too many headers": OK + b"X-A: 1\r\n" * 101 + TWO,
    "a header too long": OK + b"X-A: " + b"a" * 70_000 + b"\r\n" + TWO,
}


def answering(data, *, counts=True, stays=True):
    """Answer every request with these bytes."""

    def handler(peer):
        for _ in peer:
            if counts:
                peer.count()
            peer.send(data)
            if not stays:
                fin(peer)
                return

    return handler


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("data", "counts", "stays"),
    [
        pytest.param(data, counts, stays, id=name)
        for table, counts, stays in (
            (ANSWERS, True, True),
            (LAST_ANSWERS, True, False),
            (NO_ANSWERS, False, False),
        )
        for name, data in table.items()
    ],
)
def test_an_answer_is_what_it_is_natively(scope, serve, data, counts, stays, method):
    def play(server):
        with urllib3.HTTPConnectionPool(HOST, server.port, timeout=5) as pool:
            seen = []
            for number in range(2):
                seen.append(attempt(pool.request, method, "/", retries=False))
                if not stays:
                    server.wait(closed=number + 1)
            return seen

    stays = stays and method == "GET"  # a body that HEAD does not expect is in the way
    handler = answering(data, counts=counts, stays=stays)
    natively, attached, server = natively_and_attached(scope, serve, handler, play)
    assert attached == natively
    scope.of(server).agrees_with(server)


# ---- requests


def headers_of_all_kinds(pool, do):
    do(pool.urlopen, "GET", "/", None, None)
    do(pool.urlopen, "POST", "/", b"body", {"X-A": "1;"})
    do(pool.urlopen, "POST", "/", body="text", headers=HTTPHeaderDict({"X-A": "1"}))
    do(pool.request, "GET", "/", None, {"X-A": "1"})
    do(pool.request, "GET", "/", headers={b"X-Bytes": b"1", "X-Text": b"2"})
    do(pool.request, "GET", "/", headers={"Host": "elsewhere", "Connection": "close"})
    do(pool.request, "GET", "/", headers={"X-Bad": "1\r\nX-Worse: 2"})


def header_dict_with_several(pool, do):
    headers = HTTPHeaderDict()
    headers.add("X-A", "1")
    headers.add("X-A", "2")
    do(pool.urlopen, "GET", "/", headers=headers)


def limits_that_are_none(pool, do):
    do(pool.request, "GET", "/", timeout=None, retries=None)
    do(pool.request, "GET", "/", timeout=urllib3.Timeout(None), retries=0)
    do(pool.request, "GET", "/", retries=False, pool_timeout=None)
    do(pool.request, "GET", "/", retries=urllib3.Retry(0, redirect=0), body=None)
    do(pool.request, "GET", "/", retries=urllib3.Retry(3, status_forcelist=[200]))
    do(pool.request, "GET", "/", timeout="soon")
    do(pool.request, "GET", "/", retries="often")


def bodies_of_all_kinds(pool, do):
    do(pool.urlopen, "PUT", "/", body=io.BytesIO(b"file"), headers={"Content-Length": "4"})
    do(pool.urlopen, "PUT", "/", body=bytearray(b"array"))
    do(pool.urlopen, "POST", "/", body=iter([b"one", b"two"]), headers={"Content-Length": "6"})
    do(pool.request, "POST", "/", fields={"a": "1"}, encode_multipart=False)


def methods_and_targets(pool, do):
    do(pool.request, "get", "/")
    do(pool.request, "OPTIONS", "*")
    do(pool.request, "GET", "http://elsewhere.example/", assert_same_host=False)
    do(pool.request, "GET", "http://elsewhere.example/")
    do(pool.request, "GET", "/a b?c=ä#d")
    do(pool.request, "GE T", "/")


def released_twice(pool, do):
    response = pool.request("GET", "/", preload_content=False)
    do(response.read)
    do(response.release_conn)
    do(response.release_conn)
    do(response.close)
    do(response.close)
    do(response.release_conn)
    do(pool.request, "GET", "/")


def closed_before_it_is_released(pool, do):
    response = pool.request("GET", "/", preload_content=False)
    do(response.close)
    do(response.release_conn)
    do(response.read)
    do(pool.request, "GET", "/")


def drained(pool, do):
    response = pool.request("GET", "/", preload_content=False)
    do(response.drain_conn)
    do(response.drain_conn)
    do(response.release_conn)
    do(pool.request, "GET", "/")


def streamed_by_half(pool, do):
    response = pool.request("GET", "/", preload_content=False)
    do(next, response.stream(1))
    do(response.release_conn)
    do(response.close)
    do(pool.request, "GET", "/")
    do(list, pool.request("GET", "/", preload_content=False).stream(1))


def kept(pool, do):
    response = pool.urlopen("GET", "/", preload_content=True, release_conn=False)
    do(pool.request, "GET", "/")
    do(response.release_conn)
    do(pool.request, "GET", "/")


def released_at_once(pool, do):
    response = pool.urlopen("GET", "/", preload_content=False, release_conn=True)
    do(response.read)
    do(pool.request, "GET", "/")


def redirected(pool, do):
    for number in (301, 303, 307):
        do(pool.request, "POST", f"/{number}", body=b"body")
        do(pool.request, "GET", f"/{number}", redirect=False)
    do(pool.request, "GET", "/loop", retries=2)
    do(pool.request, "GET", "/loop", retries=urllib3.Retry(1, raise_on_redirect=False))
    do(pool.request, "GET", "/away", retries=1)


def without_a_body_to_decode(pool, do):
    do(pool.request, "GET", "/", decode_content=False, enforce_content_length=False)
    response = pool.request("HEAD", "/", preload_content=False)
    do(response.read)
    do(response.release_conn)


REQUESTS = (
    *(headers_of_all_kinds, header_dict_with_several, limits_that_are_none, bodies_of_all_kinds),
    *(methods_and_targets, released_twice, closed_before_it_is_released, drained),
    *(redirected, streamed_by_half, kept, released_at_once, without_a_body_to_decode),
)


def tolerant(peer):
    """Answer, elsewhere if asked for that, and without a body if asked for the headers."""
    places = {"/loop": "/loop", "/away": "http://elsewhere.example/"}
    for request in peer:
        status = request.target[1:] if request.target[1:].isdigit() else ""
        place = places.get(request.target, "/" if status else "")
        if place:
            peer.answer(b"", f"Location: {place}", status=f"{status or 302} There")
        else:
            peer.answer(b"" if request.method == "HEAD" else b"ok")


@pytest.mark.parametrize("steps", REQUESTS)
@pytest.mark.parametrize("options", [{}, {"block": True, "maxsize": 2}], ids=["", "blocking"])
def test_a_request_is_what_it_is_natively(scope, serve, steps, options):
    def play(server):
        with urllib3.HTTPConnectionPool(HOST, server.port, **options) as pool:
            seen = []

            def do(call, *args, **kwargs):
                seen.append(attempt(call, *args, **kwargs))

            steps(pool, do)
            return seen

    natively, attached, server = natively_and_attached(scope, serve, tolerant, play)
    assert attached == natively
    scope.of(server).agrees_with(server)
