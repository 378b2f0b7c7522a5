"""The lines between the command's processes and ``poolscope run``: written, read with distrust."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from poolscope import catalog
from poolscope import events as ev
from poolscope.backlog import MOST, Row

#: Bytes: a line is ended as soon as it is longer than the first, and not read beyond the second.
_FULL, LONGEST = 1 << 15, 1 << 20

_TEXT = 16_384  # characters; the longest path, every letter of it spelled out
_ADDRESS = 1000  # characters of an origin's; the processes shorten them to less
_NAME = 200  # characters of what is only shown
_COUNT = 2**53  # what a float still counts
_SECONDS = 1e10

#: As the standard library names them, of TLS the number alone.
_VERSIONS = {"", "1", "1.1", "1.2", "1.3", "SSLv2", "SSLv3"}
_REPLACED = tuple(f"replaced_{reason}" for reason in catalog.REASONS)
_CHOICES = {
    "cause": {*catalog.NEEDED_CAUSES, "new_pool", *_REPLACED},
    "reason": set(catalog.REASONS),
    "error": {
        "", "dns", "refused", "timeout", "tls", "proxy", "connect", "reset", "protocol", "other",
    },
    "resumed": {"", "true", "false"},
}  # fmt: skip


class RubbishError(ValueError):
    """A line that nobody can understand."""


class Hello(NamedTuple):
    """A process says that it is there. Its token is its own; its number may be another's later."""

    token: str
    pid: int
    python: str
    program: str


class Message(NamedTuple):
    """What a line says."""

    hello: Hello | None
    #: The executable of a Python that could not be attached, and why.
    refused: tuple[str, str] | None
    #: Whether nothing is missing, as the process is about to end.
    bye: bool
    rows: list[Row]
    #: Whether there were others, which could not be understood.
    is_incomplete: bool


# ---- writing


def greeting(hello: Hello) -> bytes:
    """Spell who is there."""
    return _line(hello._asdict())


def good_bye() -> bytes:
    """Spell that nothing is missing."""
    return _line({"bye": True})


def spelled(rows: Iterable[Row]) -> Iterator[bytes]:
    """Spell rows as lines of a limited length."""
    parts: list[str] = []
    size = 0
    for count, event in rows:
        parts.append(json.dumps([count, *ev.to_plain([event])[0]]))
        size += len(parts[-1])
        if size > _FULL:
            yield _lines_of(parts)
            parts, size = [], 0
    if parts:
        yield _lines_of(parts)


def _lines_of(parts: list[str]) -> bytes:
    return f'{{"rows": [{", ".join(parts)}]}}\n'.encode()


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


# ---- reading


def read(line: bytes) -> Message:
    """Read a line, whoever wrote it.

    Raises :exc:`RubbishError`; rows that can't be understood are left out.
    """
    try:
        said = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise RubbishError(type(error).__name__) from None
    if not isinstance(said, dict):
        raise RubbishError(f"a {type(said).__name__} is no message")
    rows = said.get("rows", [])
    if not isinstance(rows, list) or not said.keys() & {"rows", "pid", "bye"}:
        raise RubbishError("nothing is said")
    found = [row for row in map(_row, rows) if row is not None]
    hello = refused = None
    if "refused" in said:
        refused = (_shown(said.get("executable")), _shown(said["refused"]))
    elif "pid" in said:
        hello = _hello(said)
    return Message(hello, refused, said.get("bye") is True, found, len(found) < len(rows))


def _refuse(constant: str) -> float:
    raise ValueError(constant)


def _hello(said: dict[str, Any]) -> Hello:
    try:
        pid = _whole(said["pid"])
        token = _text(said["token"])
    except (KeyError, ValueError):
        raise RubbishError("a greeting without a name") from None
    return Hello(token[:_NAME], pid, _shown(said.get("python")), _shown(said.get("program")))


def _shown(value: object) -> str:
    """Make what is for people alone harmless to a page and a terminal."""
    text = value if isinstance(value, str) else ""
    return "".join(c if c.isprintable() else "?" for c in text[:_NAME])


def _row(row: Any) -> Row | None:
    """Read a row; None if it can't be understood."""
    try:
        count, name, *values = row
        kind = _KINDS[name]
        fields = kind._fields
        if type(count) is not int or not 0 < count <= MOST or len(values) != len(fields):
            return None
        return count, kind(*(_FIELDS[name](value) for name, value in zip(fields, values)))
    except (TypeError, ValueError, KeyError, OverflowError):
        return None


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _TEXT:
        raise ValueError
    value.encode()  # half a surrogate would spoil a whole scrape
    return value


def _digits(value: Any) -> str:
    if value and not (isinstance(value, str) and len(value) < _NAME and value.isdecimal()):
        raise ValueError
    return _text(value)


def _choice(field: str) -> Callable[[Any], str]:
    choices = _CHOICES[field]

    def read(value: Any) -> str:
        if value not in choices:
            raise ValueError
        return value  # type: ignore[no-any-return] # it is one of them

    return read


def _version(value: Any) -> str:
    """Read a protocol's version; a socket of the host's own may have called it anything."""
    return value if value in _VERSIONS else _text(value)[:0]


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _COUNT:
        raise ValueError
    return value


def _seconds(value: Any) -> float:
    if type(value) not in (float, int) or not 0 <= value <= _SECONDS:
        raise ValueError
    return float(value)


def _age(value: Any) -> float:
    """Read an age, which a connection that was opened amid a drain may have below nothing."""
    return _seconds(max(0.0, value))


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError  # noqa: TRY004 - as all others
    return value


def _origin(value: Any) -> ev.Origin:
    return _origin_of(*value)


@lru_cache(maxsize=1000)  # they come with every row, and are few
def _origin_of(address: Any, port: Any, scheme: Any, client: Any) -> ev.Origin:
    for part in (address, port, scheme, client):
        if len(_text(part)) > _ADDRESS:
            raise ValueError
    return ev.Origin(address, port, scheme, client)


def _histogram(value: Any) -> ev.Histogram:
    counts, sums = value
    size = len(catalog.DURATION_BOUNDS) + 1
    if len(counts) != size or len(sums) != size:
        raise ValueError
    return ev.Histogram(tuple(map(_whole, counts)), tuple(map(_seconds, sums)))


_KINDS = {kind.__name__: kind for kind in ev.EVENT_TYPES}
_FIELDS: dict[str, Callable[[Any], Any]] = {
    "origin": _origin,
    "heir": _origin,
    **{name: _choice(name) for name in _CHOICES},
    **dict.fromkeys(("path", "function", "where"), _text),
    "line": _digits,
    "version": _version,
    **dict.fromkeys(("requests", "active", "idle", "pending", "max", "pools", "stale"), _whole),
    "seconds": _seconds,
    **dict.fromkeys(("age_sum", "oldest_age"), _age),
    "reused": _yes_or_no,
    **dict.fromkeys(("latency", "wait"), _histogram),
}
