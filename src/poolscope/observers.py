"""The interface of everybody who listens: every method is optional and does nothing."""

from __future__ import annotations

from collections.abc import Sequence

from poolscope import events as ev


class Observer:
    """Override what you want to hear.

    Methods are called from a drain, never on the application's request path, by one thread at a
    time. An observer that raises, or that takes too long, loses what it was being told, and then
    hears of all origins and their levels anew; the fault is counted, and logged once. Durations
    are told, counts are deltas, levels are read: no observer needs to keep totals.
    """

    #: Whether it may wait for a lock. In a forked child it is told by a thread that can be left
    #: behind then: what a thread of the parent has held when it forked is held there for ever.
    may_block: bool = True

    def tell(self, events: Sequence[ev.AnyEvent]) -> None:
        """Called once a drain with everything that it yielded, in order."""
        for event in events:
            getattr(self, _METHODS[type(event)])(event)

    def forked(self) -> None:
        """Called in a forked child, which starts its own history: forget the parent's."""

    def ended(self) -> None:
        """Called after the last drain: the process ends, or poolscope was taken out of it."""

    def origin_seen(self, event: ev.OriginSeen) -> None:
        """Called when the process meets an origin for the first time."""

    def origin_left(self, event: ev.OriginLeft) -> None:
        """Called when an origin gave its slot up: what it has counted is its heir's."""

    def pool_opened(self, event: ev.PoolOpened) -> None:
        """Called when a pool was put to use."""

    def opened(self, event: ev.Opened) -> None:
        """Called when a connection was opened, with the cause."""

    def asked_for(self, event: ev.AskedFor) -> None:
        """Called with the line of code that asked for a connection without need."""

    def held(self, event: ev.Held) -> None:
        """Called when a response has kept its connection for too long."""

    def created(self, event: ev.Created) -> None:
        """Called when a connection became usable, or failed to."""

    def handshake(self, event: ev.Handshake) -> None:
        """Called when a TLS handshake ended."""

    def answered(self, event: ev.Answered) -> None:
        """Called with the latencies of requests that were answered."""

    def failed(self, event: ev.Failed) -> None:
        """Called when a request got no answer."""

    def waited(self, event: ev.Waited) -> None:
        """Called with the waits of checkouts from blocking pools."""

    def wait_timed_out(self, event: ev.WaitTimedOut) -> None:
        """Called when a checkout gave up waiting."""

    def found_dropped(self, event: ev.FoundDropped) -> None:
        """Called when an idle connection turned out to be dropped."""

    def busy(self, event: ev.Busy) -> None:
        """Called with the seconds that connections were checked out."""

    def closed(self, event: ev.Closed) -> None:
        """Called when a connection is done with, with the reason."""

    def levels(self, event: ev.Levels) -> None:
        """Called with what is open at an origin, when that has changed."""

    def faulted(self, event: ev.Faulted) -> None:
        """Called when poolscope's own code failed."""


_METHODS = {
    ev.OriginSeen: "origin_seen",
    ev.OriginLeft: "origin_left",
    ev.PoolOpened: "pool_opened",
    ev.Opened: "opened",
    ev.AskedFor: "asked_for",
    ev.Held: "held",
    ev.Created: "created",
    ev.Handshake: "handshake",
    ev.Answered: "answered",
    ev.Failed: "failed",
    ev.Waited: "waited",
    ev.WaitTimedOut: "wait_timed_out",
    ev.FoundDropped: "found_dropped",
    ev.Busy: "busy",
    ev.Closed: "closed",
    ev.Levels: "levels",
    ev.Faulted: "faulted",
}
