"""The calling code gives a body up half-way: what it says, whichever way, is `unread`."""

from __future__ import annotations

import contextlib
import gc
import json
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import requests
import urllib3
from urllib3.exceptions import HTTPError

from peers import HOST, eventually, fin, rst

PART = b"one\ntwo\n" * 32
CHUNK = b"%x\r\n%b\r\n" % (len(PART), PART)


def chunks(peer):
    """Answer with chunks, and go on when asked to: the last one never comes."""
    for _ in peer:
        peer.answer(CHUNK * 4, "Transfer-Encoding: chunked", length=-1)


def lengthy(peer):
    """Answer with half of a body whose length is known."""
    for _ in peer:
        peer.answer(PART * 4, length=8 * len(PART))


def get(pool, **options):
    return pool.request("GET", "/", retries=False, preload_content=False, **options)


def leave(body):
    for _ in body:
        break


def fail(body):
    with contextlib.suppress(LookupError):
        for _ in body:
            raise LookupError


def throw(error):
    def thrower(body):
        next(body)
        with contextlib.suppress(type(error), HTTPError):
            body.throw(error)

    return thrower


def throw_again(body):
    """Throw in what has been raised, and caught, before."""
    next(body)
    try:
        raise_it(TimeoutError())
    except TimeoutError as error:
        with contextlib.suppress(TimeoutError, HTTPError):
            body.throw(error)


def close(body):
    next(body)
    body.close()


ENDS = {
    "leave": leave,
    "fail": fail,
    "close": close,
    "throw": throw(ValueError()),
    "throw KeyboardInterrupt": throw(KeyboardInterrupt()),
    "throw an error like the wire's": throw(ConnectionResetError()),
    "throw a time-out": throw(TimeoutError()),
    "throw one that was caught": throw_again,
}
BODIES = {
    "stream": lambda response: response.stream(16),
    "stream a chunk at a time": lambda response: response.stream(None),
    "read_chunked": lambda response: response.read_chunked(),
    "for": iter,
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("end", ENDS)
def test_a_body_of_chunks_that_is_given_up_is_unread(scope, serve, body, end):
    server = serve(chunks)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        for _ in range(3):
            ENDS[end](BODIES[body](get(pool)))
            gc.collect()
        assert eventually(lambda: sum(seen.closed.values()) == 3)
        assert seen.closed == {"unread": 3}
        assert seen.opened == {"first": 1, "replaced_unread": 2}
        assert seen.failed == {}
    seen.agrees_with(server)


@pytest.mark.parametrize("handler", [chunks, lengthy])
@pytest.mark.parametrize("end", [leave, fail, close])
@pytest.mark.parametrize("way", ["iter_content", "iter_lines", "raw", "with"])
def test_a_body_that_is_given_up_through_requests_is_unread(scope, serve, handler, way, end):
    server = serve(handler)
    seen = scope.of(server)
    with requests.Session() as session:
        for _ in range(3):
            with contextlib.ExitStack() as stack:
                response = session.get(server.url, stream=True)
                if way == "with":
                    stack.enter_context(response)
                elif way == "raw":
                    end(response.raw.stream(16))
                    del response
                    continue
                end(response.iter_lines(16) if way == "iter_lines" else response.iter_content(16))
                del response
            gc.collect()
        gc.collect()
        assert eventually(lambda: sum(seen.closed.values()) == 3)
        assert seen.closed == {"unread": 3}
    seen.agrees_with(server)


def read_a_part(response):
    response.read(16)
    response.close()


def read_a_part_at_once(response):
    if not hasattr(response, "read1"):
        pytest.skip(reason="this urllib3 has no read1")
    response.read1(16)
    response.close()


def dropped(response):
    response.read(16)


def dropped_in_a_with_block(response):
    with contextlib.suppress(LookupError), contextlib.closing(response):
        response.read(16)
        raise LookupError


@pytest.mark.parametrize("handler", [chunks, lengthy])
@pytest.mark.parametrize(
    "part", [read_a_part, read_a_part_at_once, dropped, dropped_in_a_with_block]
)
def test_a_response_that_is_closed_half_read_is_unread(scope, serve, handler, part):
    server = serve(handler)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        for _ in range(3):
            part(get(pool))
            gc.collect()
        assert eventually(lambda: sum(seen.closed.values()) == 3)
        assert seen.closed == {"unread": 3}
        assert seen.idle_times == {}
    seen.agrees_with(server)


def released(handler, scope, serve, *, keep):
    """Give a connection back three times with a part of the body left, and use it again."""
    server = serve(handler)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        for _ in range(3):
            response = get(pool)
            response.read(16)
            response.release_conn()
            if not keep:
                del response
            time.sleep(0.02)
            with contextlib.suppress(HTTPError):
                get(pool).drain_conn()
            gc.collect()
    return seen, server


@pytest.mark.parametrize("keep", [True, False])
def test_a_connection_given_back_with_its_body_unread_is_not_dropped(scope, serve, keep):
    def long(peer):
        for _ in peer:
            peer.answer(b"x" * 100_000)

    seen, server = released(long, scope, serve, keep=keep)
    assert seen.closed == {"unread": 3, "pool_closed": 1}
    assert seen.idle_times == {}
    assert seen.failed == {}
    seen.agrees_with(server)


def test_a_connection_whose_body_was_read_bit_by_bit_is_found_dropped(scope, serve):
    def last(peer):
        peer.request()
        peer.answer(PART)

    server = serve(last)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        for number in range(3):
            response = get(pool)
            read_bit = getattr(response, "read1", response.read)
            while read_bit(16):
                pass
            server.wait(closed=number + 1)
        pool._put_conn(pool._get_conn())
    assert seen.closed == {"stale": 3}
    assert seen.idle_times == {"stale": 3}
    seen.agrees_with(server)


def test_a_request_on_a_connection_with_an_unread_body_fails_for_that(scope, serve):
    """The rest of the body is in a buffer, so that urllib3 finds nothing in its way."""

    def short(peer):
        for _ in peer:
            peer.answer(PART, length=2 * len(PART))

    seen, _ = released(short, scope, serve, keep=True)
    assert seen.closed == {"unread": 3}
    assert seen.requests == {"first": 3, "reused": 0}
    assert seen.failed == {("reused", "other"): 3}


# ---- interrupted while it reads


class Enough(Exception):  # noqa: N818 - as people call such things
    """A time limit of the calling code's own."""


#: How often in a row a thread must be found to wait: what is there already is read at once.
LOOKS = 10


def is_reading(thread):
    """Tell whether a thread waits for a body's bytes."""
    frame = sys._current_frames().get(thread)
    waits = frame is not None and frame.f_code.co_name in ("readinto", "read")
    while frame is not None:
        if frame.f_globals.get("__name__") == "urllib3.response":
            return waits
        frame = frame.f_back
    return False


@contextlib.contextmanager
def interrupted(error):
    """Send this thread a signal when it waits for a body; its handler raises the error."""

    def handler(_number, _frame):
        raise error

    def send():
        deadline, looks = time.monotonic() + 10, 0
        while looks < LOOKS and time.monotonic() < deadline:
            looks = looks + 1 if is_reading(main) else 0
            time.sleep(0.005)
        signal.pthread_kill(main, signal.SIGUSR1)

    main = threading.get_ident()
    before = signal.signal(signal.SIGUSR1, handler)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)


def preload(pool):
    pool.request("GET", "/", retries=False)


def read(pool):
    get(pool).read()


def stream(pool):
    for _ in get(pool).stream(16, decode_content=True):
        pass


@pytest.mark.parametrize("handler", [chunks, lengthy])
@pytest.mark.parametrize("way", [preload, read, stream])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, SystemExit, Enough, RuntimeError, TimeoutError], ids=str
)
def test_a_body_whose_reading_is_interrupted_is_unread(scope, serve, handler, way, error):
    """The wire was fine: a key, an end, or an alarm's exception of whatever class ended it."""
    server = serve(handler)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        with pytest.raises((error, HTTPError)), interrupted(error):
            way(pool)
        gc.collect()
        assert eventually(lambda: seen.closed)
        assert seen.closed == {"unread": 1}
        assert seen.failed == {}
        assert seen.requests == {"first": 1, "reused": 0}
    seen.agrees_with(server)


GREENLET = """
    from gevent import monkey
    monkey.patch_all()
    import json, sys
    import gevent, urllib3
    import poolscope
    poolscope.instrument(())
    pool = urllib3.HTTPConnectionPool("127.0.0.1", int(sys.argv[1]))
    for preload in (False, True):
        with gevent.Timeout(0.3, False):
            pool.request("GET", "/", preload_content=preload, retries=False).read()
    worker = gevent.spawn(lambda: pool.request("GET", "/", retries=False))
    gevent.sleep(0.3)
    worker.kill()
    print(json.dumps(poolscope.snapshot()["origins"][0]["connections"]["closed_by_reason"]))
"""


def test_a_greenlet_whose_time_is_up_leaves_its_body_unread(serve):
    pytest.importorskip("gevent", reason="gevent is not installed")
    server = serve(chunks)
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(GREENLET), str(server.port)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"unread": 3}
    assert (server.accepted, server.answered) == (3, 3)


# ---- and what the calling code has not given up


def ends_with(data, last):
    def handler(peer):
        for _ in peer:
            peer.answer(data, "Transfer-Encoding: chunked", length=-1)
            last(peer)
            return

    return handler


def stay(peer):
    peer.until_hung_up()


def bad_gzip(peer):
    for _ in peer:
        peer.answer(CHUNK, "Content-Encoding: gzip", "Transfer-Encoding: chunked", length=-1)


BROKEN = {
    "cut off in a chunk": (ends_with(CHUNK + b"40\r\nhalf", fin), "reset"),
    "cut off between chunks": (ends_with(CHUNK, fin), "reset"),
    "reset": (ends_with(CHUNK, rst), "reset"),
    "silent": (ends_with(CHUNK, stay), "timeout"),
    "no chunk": (ends_with(CHUNK + b"what?\r\n", stay), "error"),
    "no first chunk": (ends_with(b"what?\r\n", stay), "error"),
    "no gzip": (bad_gzip, "error"),
}


@pytest.mark.parametrize("way", [preload, read, stream])
@pytest.mark.parametrize("broken", BROKEN)
def test_a_body_that_breaks_off_is_not_the_calling_codes(scope, serve, broken, way):
    handler, reason = BROKEN[broken]
    if broken == "no gzip" and way is not stream:
        pytest.skip(reason="all is read before it is decoded")
    server = serve(handler)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port, timeout=0.3) as pool:
        with pytest.raises(HTTPError):
            way(pool)
        gc.collect()
        assert eventually(lambda: seen.closed)
        assert seen.closed == {reason: 1}
        assert seen.failed == {}
    seen.agrees_with(server)


def raise_it(error):
    raise error


def test_who_gives_a_body_up_while_it_handles_another_error_is_told_the_same(scope, serve):
    server = serve(chunks)
    seen = scope.of(server)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        for error in (TimeoutError, ConnectionResetError, KeyboardInterrupt):
            with contextlib.suppress(error):
                try:
                    raise_it(error)
                finally:
                    leave(get(pool).stream(16))
                    gc.collect()
        assert seen.closed == {"unread": 3}
    seen.agrees_with(server)
