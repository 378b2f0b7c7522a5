"""What all processes have open, added up by origin; a change costs its own share."""

from __future__ import annotations

import math
from collections.abc import Hashable

from poolscope.events import Levels, Origin

_COUNTED = ("active", "idle", "pending", "max", "pools", "stale")
_PER_SECOND = 1_000_000  # ages are added up as whole microseconds, which leave nothing behind


class AllLevels:
    """The sums of what each process has told last."""

    def __init__(self) -> None:
        self._told: dict[Hashable, dict[Origin, Levels]] = {}
        self._sums: dict[Origin, _Sum] = {}
        self._changed: dict[Origin, _Sum] = {}
        self._records: list[Levels] = []

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
        if now.origin in self._changed and total.falls_from_a_record(before, now):
            self._records.append(total.levels())
        total.change(key, before, now)
        self._changed[now.origin] = total

    def take(self) -> list[Levels]:
        """Return the sums that have changed since the last time."""
        changed, self._changed = self._changed, {}
        return [total.levels() for total in changed.values()]

    def take_records(self) -> list[Levels]:
        """Return what there was before some of it went, where it was more than ever before."""
        records, self._records = self._records, []
        return records

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

    def falls_from_a_record(self, before: Levels | None, now: Levels) -> bool:
        """Tell whether it has more or larger pools than ever, and is to lose some.

        Who is told now and then must not miss what there was.
        """
        if before is None or now.pools >= before.pools:
            return False
        pools, largest = self._pools()
        is_one = pools > self._most_pools or largest > self._largest_pool
        self._most_pools = max(pools, self._most_pools)
        self._largest_pool = max(largest, self._largest_pool)
        return is_one

    def _pools(self) -> tuple[int, int]:
        most, pools = self._counts[3], self._counts[4]
        return pools, math.ceil(most / pools) if pools else 0

    def levels(self) -> Levels:
        """Return the sum."""
        return Levels(
            self.origin,
            **dict(zip(_COUNTED, self._counts)),
            age_sum=self._ages / _PER_SECOND,
            oldest_age=max(self._oldest.values(), default=0.0),
        )
