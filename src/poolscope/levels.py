"""What all processes have open, added up by origin; a change costs its own share."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

from poolscope.events import Levels, Origin

_COUNTED = ("active", "idle", "pending", "max", "pools", "stale")
_PER_SECOND = 1_000_000  # ages are added up as whole microseconds, which leave nothing behind


class AllLevels:
    """The sums of what each process has told last."""

    def __init__(self) -> None:
        self._told: dict[Hashable, dict[Origin, Levels]] = {}
        self._sums: dict[Origin, _Sum] = {}
        self._changed: dict[Origin, _Sum] = {}
        self._pools = self._most_pools = 0
        self._peaks: list[list[Levels]] = []

    def keep_peak(self, who: Hashable, news: Mapping[Origin, Levels]) -> None:
        """Keep what there is now, if these levels of a process end more than there ever was.

        ``news`` are by its own names for origins, and of one moment; :meth:`put` comes after. Who
        is told now and then must not miss what there was, nor hear of two moments as if of one.
        """
        told = self._told.get(who, {})
        ends = False
        for own, now in news.items():
            before = told.get(own)
            if before is not None and now.pools < before.pools:
                ends |= self._sums[before.origin].is_a_record() or self._pools > self._most_pools
        if ends:
            self._most_pools = max(self._pools, self._most_pools)
            self._peaks.append([total.levels() for total in self._changed.values()])

    def put(self, who: Hashable, own: Origin, levels: Levels) -> None:
        """Take in what a process tells of an origin: ``own`` is its own name for it."""
        told = self._told.setdefault(who, {})
        before = told.get(own)
        if any(levels[1:]):
            told[own] = levels
        else:
            told.pop(own, None)
        self._change((who, own), before, levels)

    def forget(self, who: Hashable) -> None:
        """Let a process go, and all that it had open."""
        self.keep_peak(who, {own: Levels(own) for own in self._told.get(who, {})})
        for own, levels in self._told.pop(who, {}).items():
            self._change((who, own), levels, Levels(levels.origin))

    def move(self, origin: Origin, heir: Origin) -> None:
        """Count what is open at an origin as another one's."""
        for who, told in self._told.items():
            for own in [own for own, levels in told.items() if levels.origin == origin]:
                self.put(who, own, told[own]._replace(origin=heir))

    def drop(self, origin: Origin) -> None:
        """Forget an origin: its name does not come back."""
        self._sums.pop(origin, None)
        self._changed.pop(origin, None)

    def _change(self, key: Hashable, before: Levels | None, now: Levels) -> None:
        if before is not None and before.origin != now.origin:
            self._change(key, before, Levels(before.origin))
            before = None
        total = self._sums.get(now.origin)
        if total is None:
            total = self._sums[now.origin] = _Sum(now.origin)
        self._pools += now.pools - (0 if before is None else before.pools)
        total.change(key, before, now)
        self._changed[now.origin] = total

    def take(self) -> list[Levels]:
        """Return the sums that have changed since the last time."""
        changed, self._changed = self._changed, {}
        return [total.levels() for total in changed.values()]

    def take_peaks(self) -> list[list[Levels]]:
        """Return the sums of each moment at which there was more than ever before."""
        peaks, self._peaks = self._peaks, []
        return peaks

    def tell_again(self) -> None:
        """Take all sums for changed: somebody has missed them."""
        self._changed = dict(self._sums)


class _Sum:
    """The sum for one origin."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self._counts = [0] * len(_COUNTED)
        self._ages = 0
        self._oldest: dict[Hashable, float] = {}
        self._most_pools = self._largest_pool = 0

    def change(self, key: Hashable, before: Levels | None, now: Levels) -> None:
        """Put one process's levels in the place of those before."""
        if before is not None:
            self._add(before, -1)
        self._add(now, 1)
        if now.oldest_age:
            self._oldest[key] = now.oldest_age
        else:
            self._oldest.pop(key, None)

    def _add(self, levels: Levels, sign: int) -> None:
        counts = (
            levels.active,
            levels.idle,
            levels.pending,
            levels.max,
            levels.pools,
            levels.stale,
        )
        self._counts = [total + sign * count for total, count in zip(self._counts, counts)]
        self._ages += sign * round(levels.age_sum * _PER_SECOND)

    def is_a_record(self) -> bool:
        """Tell whether it has more or larger pools than it had when this was asked before."""
        most, pools = self._counts[3], self._counts[4]
        largest = math.ceil(most / pools) if pools else 0
        is_one = pools > self._most_pools or largest > self._largest_pool
        self._most_pools = max(pools, self._most_pools)
        self._largest_pool = max(largest, self._largest_pool)
        return is_one

    def levels(self) -> Levels:
        """Return the sum."""
        return Levels(
            self.origin,
            **dict(zip(_COUNTED, self._counts)),
            age_sum=self._ages / _PER_SECOND,
            oldest_age=max(self._oldest.values(), default=0.0),
        )
