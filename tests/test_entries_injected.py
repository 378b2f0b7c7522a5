"""A fault at every line of ours that a host comes to by other ways than requests.

``test_urllib3_injected`` does the same for requests, ``test_drain_faults`` for what a drain makes
of them; the last test here holds the three to it that together they come to every function.
"""

from __future__ import annotations

import sys

import pytest

import poolscope
from entries import ENTRIES, REPAIRED, VERBS, Stage
from injection import kinds_for, raising, ways_of
from peers import keep_alive
from poolscope.clients.urllib3 import Client
from poolscope.scope import Scope

#: Whatever is raised within these stays there, by whatever way they were come to.
SHIELDED = {"_shielded", "_tell"}


#: Functions whose own lines may fail unseen, and why; that all goes on afterwards holds for them.
EXEMPT = {
    "_run": "the bottom of our own thread: Python tells of it, and the next request starts another",
    "_answer": "as _run, from which it is called",
    "_before_fork": "Python drops what is raised before a fork; but for these lines it is shielded",
    "_after_in_parent": "as before a fork",
    "_after_in_child": "as before a fork; what it calls unshielded makes locks and empty tables",
    "_exit": "Python tells of what is raised there, and ends as it would have",
    "create_module": "its line is the call of the host's own loader",
    "exec_module": "as create_module",
    "_observe": "an SDK shields its callbacks, and logs what they raise",
}
#: Here a fault is told in other ways than by a count: to the verb's caller, in the log, to `run`.
UNCOUNTED = {*VERBS, "an_attachment_by_run", "collect", "_observe"}
#: Lines that can't fail, though an injection can make them.
CANT_FAIL = {
    # They store to an attribute that is there already.
    "self._draining = False",
    "self._draining = was_draining",
    "self.attached = False",
    "self._teller = ident",
    "self._teller = 0",
    "self.opened_sum = 0.0  # rounding errors don't outlive the connections",
    "self.beating = False",
    "self.beating = True",
    # It looks at a local, or compares two numbers.
    "if is_held:",
    "if self._teller == ident:  # not another one, which has had its turn since",
    # It is held.
    "lock.release()",
}


@pytest.fixture
def stage(scope, serve, tmp_path, monkeypatch):
    """Set the stage, with nobody to drain but the test."""
    monkeypatch.syspath_prepend(tmp_path)
    stage = Stage(scope, serve(keep_alive), tmp_path)
    poolscope._process.pulse.stop()
    monkeypatch.setattr(poolscope._process.pulse, "wake", lambda: None)
    return stage


@pytest.fixture
def unraisable(monkeypatch):
    """Return what Python could tell nobody but stderr."""
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: told.append(repr(what.exc_value)))
    return told


#: What a request comes to.
HOOKS = {
    side.__name__
    for hook in Client(Scope(1), None).hooks
    for side in (hook.before, hook.after)
    if side is not None
} | {"_pool_gone", "_carrier_gone", "body_gone"}


def key_of(point, around):
    """Name what is tried at a point: by which way it was come to matters outside of shields."""
    return point[1:] if SHIELDED & set(around) else point


def faults():
    return sum(poolscope.snapshot()["faults"].values())


def points_on(stage, name, tried):
    """Return the points to which a way in comes every time, and none before has come."""
    ways = []
    for _ in range(2):
        stage.again(name)
        ways.append(dict(ways_of(lambda: ENTRIES[name](stage))))
    return [
        point
        for point, around in ways[0].items()
        if point in ways[1]
        and point.entry not in HOOKS
        and point.text not in CANT_FAIL
        and around[0] != "_shield"
        and key_of(point, around) not in tried
        and not tried.add(key_of(point, around))
    ]


def wrongs(stage, name, point, kind, usually, unraisable):
    """Yield what goes wrong when one is raised at a point, and afterwards."""
    process = poolscope._process
    before = faults()
    stage.again(name)
    unraisable.clear()
    raised = False
    with raising(point, kind) as struck:
        try:
            if ENTRIES[name](stage) != usually:
                yield "the host gets something else"
        except kind:
            raised = True
    is_exempt = struck and (struck[0] in EXEMPT or struck[-1] == "_after_in_child")
    if raised and name not in VERBS and not is_exempt:
        yield "reaches the host"
    if unraisable and not is_exempt:
        yield f"Python tells of {unraisable}"
    stage.again("taking_out_and_putting_in" if name in REPAIRED else "")
    gains = stage.gains()
    if gains != [1, 1, 2]:
        yield f"traffic gains {gains}"
    if not process.attached or len(process.scope.observers) != 3:
        yield f"told are {process.scope.observers}"
    if gains is None or not struck or is_exempt or {name, struck[-1]} & UNCOUNTED:
        return
    if faults() != before + 1:
        yield f"{faults() - before} faults"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ENTRIES)
def test_a_fault_at_any_line_on_any_way_in_stays_ours(scope, stage, unraisable, tried, name):
    stage.again(name)
    usually = ENTRIES[name](stage)
    found = {}
    for point, kind in kinds_for(points_on(stage, name, tried)):
        if several := list(wrongs(stage, name, point, kind, usually, unraisable)):
            found[f"{point} ({point.text})"] = several
        if "traffic gains None" in several:  # it hangs, and so would all that follow
            break
    assert not found, "\n".join(f"{point}: {several}" for point, several in found.items())
    scope.faults = poolscope.snapshot()["faults"]
