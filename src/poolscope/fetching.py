"""Gets a page from a server that may be slow, broken or hostile: bounded in bytes and in time."""

from __future__ import annotations

import http.client
import ipaddress
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urljoin, urlsplit

_LIMIT = 64 * 1024 * 1024  # bytes; no metrics page is that long, but an endless answer is
_OK = 200
_NOT_FOUND = 404
_MOVED = (301, 302, 303, 307, 308)
_HOPS = 5
_SHOWN = 200  # characters of a URL
_REASON = 80  # characters of what a server says of its status
_EXAMPLE = "http://localhost:9464/metrics"

_USER = re.compile(r"^(.*?://)?.*@", re.DOTALL)
_HIDDEN = re.compile(r"[?#].+", re.DOTALL)

_Found = TypeVar("_Found")


class Page(NamedTuple):
    """What a server answers, and when by its own clock (0.0 if it does not say)."""

    text: str
    date: float


class ScrapeError(ValueError):
    """There are no readings to be had; the message is one sentence that says what to do."""


class MeaninglessError(ScrapeError):
    """What was asked for can't be meant."""


class NotFoundError(ScrapeError):
    """A server answers, but has nothing at that path."""


def without_secrets(url: str) -> str:
    """Spell a URL as it may be shown: without user, password and query, which may hold a token."""
    # A password may have any character in it, so all that is before the last @ goes.
    shown = _HIDDEN.sub("?...", _USER.sub(r"\1...@", url))
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 3]}..."


def within(seconds: float, url: str, work: Callable[[], _Found]) -> _Found:
    """Return what ``work`` returns, or give up on it: :exc:`ScrapeError`.

    A server that sends a byte now and then keeps every time-out for a single answer, as does
    what is slow to be parsed. So the work is done in a thread that can be left alone.
    """
    outcome: SimpleQueue[tuple[_Found | None, BaseException | None]] = SimpleQueue()

    def done() -> None:
        try:
            outcome.put((work(), None))
        except BaseException as error:  # noqa: BLE001 - raised again, where it is waited for
            outcome.put((None, error))

    threading.Thread(target=done, name="poolscope-fetch", daemon=True).start()
    try:
        found, error = outcome.get(timeout=seconds)
    except Empty:
        raise ScrapeError(_unreachable(url, _late(seconds))) from None
    if error is not None:
        raise error
    return found  # type: ignore[return-value] # there was no error


def complete(url: str, path: str = "/metrics") -> str:
    """Return the whole URL that a short one stands for. Raises :exc:`MeaninglessError`."""
    whole = url.strip()
    if "://" not in whole:
        whole = f"http://{whole}"
    try:
        parts = urlsplit(whole)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, brackets that don't match
        is_good = False
    is_plain = all(char.isprintable() and char != " " for char in whole)
    if not is_good or not is_plain or parts.username is not None:  # urllib takes no user names
        raise MeaninglessError(_malformed(url))
    if parts.path in ("", "/"):
        parts = parts._replace(path=path)
    return parts._replace(fragment="").geturl()


def get(url: str, timeout: float) -> Page:
    """Return what is at a complete URL, as long as it takes: see :func:`within`.

    ``timeout`` is for each wait. Is led on to other places of the same host alone. Raises
    :exc:`ScrapeError`.
    """
    at = url
    for _ in range(_HOPS + 1):
        try:
            return _page(at, timeout)
        except _MovedError as moved:
            at = _next(at, moved.place)
    raise ScrapeError(
        f"{without_secrets(url)} leads on and on, and to nothing; give the URL that it should "
        "lead to."
    )


class _MovedError(Exception):
    """What was asked for is said to be elsewhere."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.place = place


class _Stay(urllib.request.HTTPRedirectHandler):
    """Leaves it to :func:`get` where to go on."""

    def http_error_302(self, *_: Any, **__: Any) -> None:
        """Do nothing, so that the answer is taken as it is."""

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _page(url: str, timeout: float) -> Page:
    # A proxy could not reach what this machine calls itself.
    proxies: dict[str, str] | None = {} if is_loopback(urlsplit(url).hostname or "") else None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _Stay)
    request = urllib.request.Request(url, headers={"Accept": "text/plain;version=0.0.4, */*;q=0.5"})  # noqa: S310 - complete() lets http and https through only
    try:
        with opener.open(request, timeout=timeout) as response:
            return _read(url, response)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in _MOVED:
            raise _MovedError(error.headers.get("Location") or "") from error
        kind = NotFoundError if error.code == _NOT_FOUND else ScrapeError
        raise kind(_refusal(url, error.code, str(error.reason))) from error
    except TimeoutError as error:
        raise ScrapeError(_unreachable(url, _late(timeout))) from error
    except urllib.error.URLError as error:
        reason: Any = error.reason
        why = _late(timeout)
        if not isinstance(reason, TimeoutError):
            why = getattr(reason, "strerror", None) or str(reason)
        raise ScrapeError(_unreachable(url, str(why))) from error
    except (http.client.InvalidURL, UnicodeError) as error:
        raise MeaninglessError(_malformed(url)) from error
    except http.client.IncompleteRead as error:
        raise ScrapeError(_unreachable(url, _CUT_OFF)) from error
    except ScrapeError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "strerror", None) or "what answers does not speak HTTP"
        raise ScrapeError(_unreachable(url, why)) from error


_CUT_OFF = "the answer ends before its end"


def _read(url: str, response: Any) -> Page:
    if response.status != _OK:
        raise ScrapeError(_refusal(url, response.status, response.reason))
    coding = response.headers.get("Content-Encoding", "identity")
    if coding.strip().lower() not in ("identity", ""):
        raise ScrapeError(_unreachable(url, "the answer is compressed, which nobody asked for"))
    content = response.read(_LIMIT + 1)
    if len(content) > _LIMIT:
        limit = f"the answer is longer than {_LIMIT // 1024**2} MB"
        raise ScrapeError(_unreachable(url, limit))
    if response.length:  # bytes that were promised
        raise ScrapeError(_unreachable(url, _CUT_OFF))
    text = content.decode("utf-8", "replace")
    return Page(text, _timestamp(response.headers.get("Date", "")))


def _next(url: str, place: str) -> str:
    """Return where to go on: on the same host, and not from https to http."""
    here = urlsplit(url)
    try:
        found = complete(urljoin(url, place))
        there = urlsplit(found)
    except ValueError:
        found, there = "", urlsplit("")
    is_downgrade = here.scheme == "https" and there.scheme == "http"
    if not found or there.hostname != here.hostname or is_downgrade:
        raise ScrapeError(
            f"{without_secrets(url)} leads on to {without_secrets(place)!r}, where poolscope does "
            "not follow; give that URL if it is the right one."
        )
    return found


def _timestamp(date: str) -> float:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError, OSError):  # a date that is none
        return 0.0


def _late(seconds: float) -> str:
    return f"no full answer within {seconds:g} s"


def _malformed(url: str) -> str:
    return (
        f"{without_secrets(url)!r} is not the URL of a metrics page; give one such as {_EXAMPLE} "
        "or host:port."
    )


def _refusal(url: str, status: int, reason: str) -> str:
    said = reason if len(reason) <= _REASON else f"{reason[:_REASON]}..."
    answer = f"{without_secrets(url)} answers with the HTTP status {status} ({said})"
    if status in (401, 403):
        return f"{answer}: it wants a log-in; give a URL that shows the metrics without one."
    if status == _NOT_FOUND:
        return f"{answer}: check the path, which is /metrics in most services."
    return f"{answer}: look into the service's log, or try again."


def _unreachable(url: str, why: str) -> str:
    said = why if len(why) <= _SHOWN else f"{why[:_SHOWN]}..."
    return (
        f"{without_secrets(url)} can't be read ({said}); check the host and port, and that the "
        "service is running and shows its metrics there."
    )


def is_loopback(host: str) -> bool:
    """Tell whether a host, by its name or address, is what this machine calls itself."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
