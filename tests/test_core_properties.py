"""The core against a naive model: whatever happens in whatever order, both count the same.

``HYPOTHESIS_PROFILE=long HYPOTHESIS_EXAMPLES=20000`` searches further, anew each time; without,
the same hundred histories are played again and again, so that CI never flakes.
"""

from __future__ import annotations

import logging
import math
import os

import pytest
from hypothesis import HealthCheck, Phase, settings

from core_machine import Core
from poolscope import origins
from stage import Plan

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
HTTP = ("http", 0, False, 2)  # a pool: its kind, host, whether it blocks, its size
UNIX = ("unix", 1, False, 2)

TestCore = pytest.mark.timeout(0 if LONG else 60)(Core.TestCase)
TestCore.settings = settings(
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "100")),
    stateful_step_count=100 if LONG else 50,
    derandomize=not LONG,
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """Say nothing of too many origins, a thousand times; and let none of them be idle for long.

    That depends on when a drain comes, which the model does not know.
    """
    monkeypatch.setattr(origins, "_LONG", math.inf)
    log = logging.getLogger("poolscope")
    log.disabled = True
    yield
    log.disabled = False


# ---- histories that were counted wrongly once


@pytest.fixture
def core():
    core = Core()
    core.begin(100, [HTTP])
    yield core
    core.teardown()


def test_busy_time_goes_on_when_a_drain_comes_before_the_connection_is_open(core):
    core.request(0, Plan(), None, (2, 0.25))
    core.stage.scope.drain()
    core.step(0, 4, 0.25)
    core.stage.scope.drain()
    core.step(0, 1, 3.0)
    core.compare()


def test_a_late_observer_hears_levels_that_do_not_change(core):
    core.request(0, Plan(body="unread"), None, (100, 0.25))
    core.compare()
    core.late_observer()
    core.compare()


def test_busy_time_goes_on_when_a_request_is_given_up_for_another(core):
    core.request(0, Plan(answer="given up"), None, (100, 0.25))
    core.compare()


def test_busy_time_goes_on_when_a_response_outlives_the_reuse_of_its_connection_object(core):
    core.request(0, Plan(answer="close", body="held"), None, (100, 0.25))
    core.request(0, Plan(), None, (100, 0.25))
    core.compare()
    core.detach()
    core.attach()
    core.time_passes(3.0)
    core.compare()


def test_the_oldest_connection_may_be_noticed_after_younger_ones(core):
    core.stage.new_pool(*UNIX)
    core.request(1, Plan(), None, (3, 0.25))
    core.request(1, Plan(), None, (100, 0.25))
    core.go_on(0, (1, 0.25))
    core.compare()


def test_an_adopted_unix_connection_is_filed_under_its_path(core):
    core.stage.new_pool(*UNIX)
    core.request(1, Plan(), None, (100, 0.25))
    core.fork(really=True)
    core.request(1, Plan(), None, (3, 0.25))
    core.request(1, Plan(), None, (100, 0.25))
    core.compare()
    core.go_on(0, (100, 0.25))
    core.end_pool(1, "close", HTTP)
    core.compare()
