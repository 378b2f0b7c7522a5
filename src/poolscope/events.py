"""What can happen: the frozen events that a drain yields, and their plain-JSON spelling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, get_args


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

    ``sums`` holds the sum per bucket, so that a bucket's mean is exact too. ``examples`` are
    single samples among them by bucket, each with the OpenTelemetry context it was taken in.
    """

    counts: tuple[int, ...]
    sums: tuple[float, ...]
    examples: Mapping[int, tuple[float, Any]] = MappingProxyType({})


class OriginSeen(NamedTuple):
    """The process meets this origin for the first time."""

    origin: Origin


class OriginLeft(NamedTuple):
    """An origin gave its slot up; what it has counted is another one's (``_other``) from now on.

    Its levels are those of nothing by then, and it does not come back.
    """

    origin: Origin
    heir: Origin


class PoolOpened(NamedTuple):
    """A pool was put to use."""

    origin: Origin


class Opened(NamedTuple):
    """A TCP (or Unix) connection was established."""

    origin: Origin
    cause: str


class AskedFor(NamedTuple):
    """A connection that need not have been opened, and the line of code that asked for it.

    Where an unread response has cost the one before it is that response's line; empty where
    nobody looked in time.
    """

    origin: Origin
    path: str
    function: str
    line: str
    cause: str


class Held(NamedTuple):
    """A response has kept its connection for too long, and the line that asked for it.

    Empty where that is not known.
    """

    origin: Origin
    path: str = ""
    function: str = ""
    line: str = ""


class Created(NamedTuple):
    """A connection became usable, or failed to (``error``), after this many seconds."""

    origin: Origin
    seconds: float
    error: str = ""


class Handshake(NamedTuple):
    """A TLS handshake ended, well or with ``error``."""

    origin: Origin
    seconds: float
    version: str = ""
    resumed: str = ""
    error: str = ""


class Answered(NamedTuple):
    """Requests got their response headers; latencies in seconds over ``DURATION_BOUNDS``."""

    origin: Origin
    reused: bool
    latency: Histogram


class Failed(NamedTuple):
    """A request got no response headers."""

    origin: Origin
    reused: bool
    error: str


class Waited(NamedTuple):
    """Checkouts from a blocking pool; waits in seconds over ``DURATION_BOUNDS``."""

    origin: Origin
    wait: Histogram


class WaitTimedOut(NamedTuple):
    """A checkout from a blocking pool gave up."""

    origin: Origin


class FoundDropped(NamedTuple):
    """A connection turned out to be dropped after having been idle for ``seconds``."""

    origin: Origin
    reason: str
    seconds: float


class Busy(NamedTuple):
    """Connections were checked out for this many seconds, added up."""

    origin: Origin
    seconds: float


class Closed(NamedTuple):
    """A connection is done with: how long it lived in seconds, how many requests it served."""

    origin: Origin
    reason: str
    seconds: float
    requests: int


class Levels(NamedTuple):
    """What is open at an origin at the moment of the drain; ages in seconds."""

    origin: Origin
    active: int = 0
    idle: int = 0
    pending: int = 0
    max: int = 0
    pools: int = 0
    age_sum: float = 0.0
    oldest_age: float = 0.0
    #: Idle ones whose peer has hung up already.
    stale: int = 0


class Faulted(NamedTuple):
    """Our own code failed at this hook or observer; the application went on."""

    where: str


#: What happens at an origin.
Event = (
    OriginSeen | OriginLeft | PoolOpened | Opened | AskedFor | Held | Created | Handshake
    | Answered | Failed | Waited | WaitTimedOut | FoundDropped | Busy | Closed | Levels
)  # fmt: skip
AnyEvent = Event | Faulted

EVENT_TYPES: tuple[type[AnyEvent], ...] = get_args(AnyEvent)


def to_plain(events: Sequence[AnyEvent]) -> list[list[Any]]:
    """Spell events as lists of plain values, ready for ``json.dumps``; no contexts of spans."""
    return [[type(event).__name__, *map(_plain, event)] for event in events]


def _plain(value: Any) -> Any:
    return value[:2] if isinstance(value, Histogram) else value
