"""A fault at every line of ours that runs on the host's stack: the host never knows."""

from __future__ import annotations

import logging
import sys
import traceback

import pytest

import poolscope
from injection import kinds_for, points_of, raising
from scenarios import SCENARIOS, Player

# It looks into the host's exceptions, which may do anything, and shields itself.
SHIELDS_ITSELF = "_inside"
# What the garbage collector calls.
CALLBACK = "gone"


class Reports(logging.Handler):
    """Keeps what is logged, and on which functions' behalf."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def emit(self, record):
        on_behalf_of = {frame.name for frame in traceback.extract_stack()}
        self.rows.append((record.args[0], on_behalf_of))


@pytest.fixture
def reports(monkeypatch):
    """Return the rows of a log that was never told of any fault."""
    handler = Reports()
    monkeypatch.setattr(logging.getLogger("poolscope"), "handlers", [handler])
    monkeypatch.setattr(poolscope._process.scope, "_told_faults", set())
    return handler.rows


def faults():
    return sum(poolscope.snapshot()["faults"].values())


def levels():
    return [
        (row["connections"]["active"], row["connections"]["idle"], row["pool"]["pending"])
        for row in poolscope.snapshot()["origins"]
    ]


def awake(process):
    """Forget the faults, so that no hook goes dormant, and begin without a heartbeat."""
    process.pulse.stop()
    for patch in process.patchers["urllib3"].patches:
        patch.fault_count = 0


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_fault_at_any_line_of_ours_stays_ours(scope, world, reports, monkeypatch, tried, name):
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    player, process = Player(world, name), poolscope._process
    scope.detach()
    natively = player.play()
    assert natively[1] == player.counts
    scope.attach()
    # Its thread is started and stopped, but the drains are ours: which lines run is then certain.
    monkeypatch.setattr(process.pulse, "_beat", lambda: None)
    monkeypatch.setattr(process, "drain", process.scope.drain)
    assert player.play() == natively
    process.pulse.stop()
    points = [point for point in points_of(player.play) if point not in tried]
    tried.update(points)
    for point, kind in kinds_for(points):
        awake(process)
        before = faults(), levels()
        with raising(point, kind) as struck:
            assert player.play() == natively, point
        assert struck, point
        assert (faults() - before[0]) == (SHIELDS_ITSELF not in struck), point
        assert levels() == before[1], point
        assert process.pulse._running.locked() == process.pulse.beating, point
        assert unraisable == [], point
    process.pulse.stop()
    scope.faults = poolscope.snapshot()["faults"]
    assert sorted(where for where, _ in reports) == sorted(scope.faults)
    for _, on_behalf_of in reports:
        assert not on_behalf_of & {"urlopen", "hooked", CALLBACK}
