"""What all processes tell, as if it were one: names and places bounded, levels added up."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from time import monotonic

from poolscope import events as ev
from poolscope.backlog import Row
from poolscope.callsites import CallSite, CallSites
from poolscope.levels import AllLevels
from poolscope.origins import OTHER, Origins

_PLACES = 100  # where processes' own code failed that are told apart
_ELSEWHERE = "_other"


class Merger:
    """Bounds the names of all processes as those of one are bounded."""

    def __init__(self, max_origins: int) -> None:
        self.levels = AllLevels()
        self._origins = Origins(max_origins)
        self._sites = CallSites()
        self._places: set[str] = set()

    def heard(self, who: Hashable, rows: Sequence[Row]) -> list[ev.AnyEvent]:
        """Return what is to be told of what one process has said at once."""
        told: list[ev.AnyEvent] = []
        for moment in _moments(rows):
            news = {event.origin: event for _, event in moment if isinstance(event, ev.Levels)}
            self.levels.keep_peak(who, news)
            for count, event in moment:
                told += [one for one in self.merged(who, event) for _ in range(count)]
        return told

    def merged(self, who: Hashable, event: ev.AnyEvent) -> Iterator[ev.AnyEvent]:
        """Yield what is to be told of an event of one process; levels wait to be taken."""
        if isinstance(event, ev.Faulted):
            yield ev.Faulted(self._place(event.where))
            return
        if isinstance(event, ev.OriginLeft):
            return  # of one process: others may go on with it
        own = event.origin
        state, _ = self._origins.find(own)
        if isinstance(event, ev.Opened):
            if state.origin.address == OTHER != own.address:
                yield from self._make_room(own)
                state, _ = self._origins.find(own)
            state.had_connections = True
        if not isinstance(event, ev.Levels) or event.active or event.idle:
            state.closed_at = monotonic()  # not before now, at least
        if state.origin != own:
            event = event._replace(origin=state.origin)
        if isinstance(event, ev.Levels):
            self.levels.put(who, own, event)
        elif isinstance(event, ev.AskedFor | ev.Held) and event.path:
            site = self._sites.known(CallSite(event.path, event.function, event.line))
            yield event._replace(**site._asdict())
        else:
            yield event

    def _make_room(self, own: ev.Origin) -> Iterator[ev.AnyEvent]:
        """Have an origin that no process uses give its slot up to one that connects."""
        victim = self._origins.claim(own, monotonic())
        if victim is not None:
            heir, _ = self._origins.find(victim.origin)
            self.levels.move(victim.origin, heir.origin)
            yield from self.levels.take()
            self.levels.drop(victim.origin)
            yield ev.OriginLeft(victim.origin, heir.origin)
            yield ev.OriginSeen(own)

    def _place(self, where: str) -> str:
        if where not in self._places and len(self._places) >= _PLACES:
            return _ELSEWHERE
        self._places.add(where)
        return where


def _moments(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Take rows apart in which an origin's levels are told twice: there was more before."""
    moment: list[Row] = []
    seen: set[ev.Origin] = set()
    for row in rows:
        if isinstance(row[1], ev.Levels):
            if row[1].origin in seen:
                yield moment
                moment, seen = [], set()
            seen.add(row[1].origin)
        moment.append(row)
    yield moment
