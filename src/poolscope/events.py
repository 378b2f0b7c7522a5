"""What can happen: the frozen events that a drain yields, and their plain-JSON spelling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple


class Origin(NamedTuple):
    """Where a pool's connections go, and the client library that owns them.

    ``port`` is text because a Unix socket has none: there it is empty and ``address`` is the
    socket's path.
    """

    address: str
    port: str
    scheme: str
    client: str


class Histogram(NamedTuple):
    """Samples added up per bucket; one more bucket than bounds, the last without an end.

    ``sums`` holds the sum per bucket, so that a bucket's mean is exact too.
    """

    counts: tuple[int, ...]
    sums: tuple[float, ...]


@dataclass(frozen=True)
class Event:
    """Something that happened at an origin since the last drain."""

    origin: Origin


@dataclass(frozen=True)
class OriginSeen(Event):
    """The process meets this origin for the first time."""


@dataclass(frozen=True)
class PoolOpened(Event):
    """A pool was put to use."""


@dataclass(frozen=True)
class Opened(Event):
    """A TCP (or Unix) connection was established."""

    cause: str


@dataclass(frozen=True)
class Created(Event):
    """A connection became usable, or failed to (``error``), after this many seconds."""

    seconds: float
    error: str = ""


@dataclass(frozen=True)
class Handshake(Event):
    """A TLS handshake ended, well or with ``error``."""

    seconds: float
    version: str = ""
    resumed: str = ""
    error: str = ""


@dataclass(frozen=True)
class Answered(Event):
    """Requests got their response headers; latencies in seconds over ``DURATION_BOUNDS``."""

    reused: bool
    latency: Histogram


@dataclass(frozen=True)
class Failed(Event):
    """A request got no response headers."""

    reused: bool
    error: str


@dataclass(frozen=True)
class Waited(Event):
    """Checkouts from a blocking pool; waits in seconds over ``DURATION_BOUNDS``."""

    wait: Histogram


@dataclass(frozen=True)
class WaitTimedOut(Event):
    """A checkout from a blocking pool gave up."""


@dataclass(frozen=True)
class FoundDropped(Event):
    """A connection turned out to be dropped after having been idle for ``seconds``."""

    reason: str
    seconds: float


@dataclass(frozen=True)
class Busy(Event):
    """Connections were checked out for this many seconds, added up."""

    seconds: float


@dataclass(frozen=True)
class Closed(Event):
    """A connection is done with: how long it lived in seconds, how many requests it served."""

    reason: str
    seconds: float
    requests: int


@dataclass(frozen=True)
class Levels(Event):
    """What is open at an origin at the moment of the drain; ages in seconds."""

    active: int = 0
    idle: int = 0
    pending: int = 0
    max: int = 0
    pools: int = 0
    age_sum: float = 0.0
    oldest_age: float = 0.0


@dataclass(frozen=True)
class Faulted:
    """Our own code failed at this hook or observer; the application went on."""

    where: str


AnyEvent = Event | Faulted

EVENT_TYPES: tuple[type[AnyEvent], ...] = (
    OriginSeen, PoolOpened, Opened, Created, Handshake, Answered, Failed, Waited, WaitTimedOut,
    FoundDropped, Busy, Closed, Levels, Faulted,
)  # fmt: skip
_BY_NAME = {kind.__name__: kind for kind in EVENT_TYPES}
_NESTED = {"origin": Origin, "latency": Histogram, "wait": Histogram}


def to_plain(events: Sequence[AnyEvent]) -> list[list[Any]]:
    """Spell events as lists of plain values, ready for ``json.dumps``."""
    return [
        [type(event).__name__, *(getattr(event, field.name) for field in fields(event))]
        for event in events
    ]


def from_plain(rows: Sequence[Sequence[Any]]) -> list[AnyEvent]:
    """Read back what :func:`to_plain` spelled; raises ``KeyError`` or ``TypeError`` on rubbish."""
    events = []
    for name, *values in rows:
        kind = _BY_NAME[name]
        names = [field.name for field in fields(kind)]
        events.append(kind(*(_read(field, value) for field, value in zip(names, values))))
    return events


def _read(field: str, value: Any) -> Any:
    if field not in _NESTED:
        return value
    kind = _NESTED[field]
    return kind(*(tuple(part) if isinstance(part, list) else part for part in value))
