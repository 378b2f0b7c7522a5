"""Every alert fires when it should, and stays silent when it should; promtool is the judge."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from poolscope import catalog
from poolscope.catalog import Metric
from watching import DASHBOARDS, RULES, alerts

HAS_PROMTOOL = shutil.which("promtool")
pytestmark = pytest.mark.skipif(not HAS_PROMTOOL, reason="promtool is missing (apt: prometheus)")

COMMON = (
    'job="shop", instance="a", server_address="api", server_port="443", url_scheme="https", '
    'poolscope_client="urllib3"'
)
A_MINUTE = 600  # requests
LAST = 60  # minute


@dataclass
class Minute:
    """What happens in one minute at the upstream: by how much each series grows, or is."""

    grows: dict[str, float] = field(default_factory=dict)
    levels: dict[str, float] = field(default_factory=dict)

    def __or__(self, other):
        return Minute(self.grows | other.grows, self.levels | other.levels)

    def at(self, share):
        """Return the same with less traffic."""
        return Minute({key: value * share for key, value in self.grows.items()}, self.levels)


def series(metric, more="", suffix="", common=COMMON):
    return f"{metric.prometheus_name}{suffix}{{{', '.join(filter(None, (common, more)))}}}"


def samples(metric: Metric, seconds, number, more=""):
    """Return what a histogram grows by: so many samples of so many seconds."""
    found = {}
    for bound in (*metric.bounds, float("inf")):
        le = "+Inf" if bound == float("inf") else f"{bound:g}"
        label = ", ".join(filter(None, (more, f'le="{le}"')))
        found[series(metric, label, "_bucket")] = number if seconds <= bound else 0
    found[series(metric, more, "_sum")] = seconds * number
    found[series(metric, more, "_count")] = number
    return found


def answered(first=0, seconds=0.02):
    """Return requests, of which some were first ones that took so long."""
    return samples(catalog.REQUEST, 0.009, A_MINUTE - first, 'poolscope_reused="true"') | samples(
        catalog.REQUEST, seconds, first, 'poolscope_reused="false"'
    )


def opened(cause, number):
    return {series(catalog.OPENED, f'poolscope_cause="{cause}"'): number}


def closed(reason, number, lived=60):
    return {series(catalog.CLOSED, f'poolscope_reason="{reason}"'): number} | samples(
        catalog.LIFETIME, lived, number
    )


def failed(error, number, reused="true"):
    label = f'poolscope_reused="{reused}", error_type="{error}"'
    return {series(catalog.FAILED, label): number}


HEALTHY = Minute(
    answered(first=1) | opened("growth", 1) | closed("stale", 1),
    {series(catalog.POOLS_OPEN): 1, series(catalog.PENDING): 0},
)

#: What has to be wrong for an alert to fire, alone.
WRONG = {
    "PoolscopeConnectionChurn": opened("replaced_server_close", 200),
    "PoolscopeHandshakeShare": samples(catalog.HANDSHAKE, 0.05, 200, 'error_type=""'),
    "PoolscopeFirstRequestSlow": answered(60, 0.4) | opened("growth", 60),
    "PoolscopePoolTooSmall": closed("pool_full", 30),
    "PoolscopePoolWait": samples(catalog.WAIT_TIME, 0.2, A_MINUTE),
    "PoolscopePoolWaitTimeouts": {series(catalog.TIMEOUTS): 1},
    "PoolscopeShortLifetimes": closed("explicit", 60, lived=0.3),
    "PoolscopeIdleTimeoutRace": failed("reset", 6)
    | samples(catalog.IDLE_TIME, 4, 6, 'poolscope_reason="reset"'),
    "PoolscopeSessionPerRequest": opened("new_pool", 90),
    "PoolscopeUnreadResponses": closed("unread", 60),
    "PoolscopeHeldConnections": {series(catalog.HELD, 'code_file_path="app.py"'): 30},
    "PoolscopeApplicationCloses": opened("replaced_explicit", 40)
    | opened("replaced_pool_closed", 20),
    "PoolscopeServerCloses": closed("server_close", 60),
    "PoolscopeRequestTimeouts": failed("timeout", 30),
    "PoolscopeRequestsCutOff": failed("reset", 10, "false") | failed("protocol", 10),
    "PoolscopePoolEviction": opened("replaced_evicted", 60),
    "PoolscopeConnectFailures": failed("connect", 60, "false"),
}
#: Those that are not about traffic are below, one by one.
ELSEWHERE = {
    "PoolscopePoolExhausted",
    "PoolscopeBlind",
    "PoolscopeFaults",
    "PoolscopeOtherUpstreams",
}


def written(minutes, restart=None):
    """Write down what Prometheus scrapes once a minute; counters begin anew at ``restart``."""
    names = dict.fromkeys(name for minute in minutes for name in (*minute.grows, *minute.levels))
    rows = {name: [] for name in names}
    totals = dict.fromkeys(names, 0.0)
    for number, minute in enumerate(minutes):
        if number == restart:
            totals = dict.fromkeys(names, 0.0)
        for name, row in rows.items():
            totals[name] = minute.levels.get(name, totals[name] + minute.grows.get(name, 0))
            row.append(f"{totals[name]:g}")
    return [{"series": name, "values": " ".join(row)} for name, row in rows.items()]


def firing(directory: Path, scraped, *minutes):
    """Return the alerts that fire after so many minutes, as promtool finds; all of them."""
    asked = {
        "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
        "exp_samples": [{"labels": "{}", "value": -1}],  # never true, so promtool says what is
    }
    test = {
        "rule_files": [str(DASHBOARDS / name) for name in RULES],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": scraped,
                "promql_expr_test": [{**asked, "eval_time": f"{minute}m"} for minute in minutes],
            }
        ],
    }
    file = directory / "test.yaml"
    file.write_text(yaml.safe_dump(test))
    result = subprocess.run(
        ["promtool", "test", "rules", file], capture_output=True, text=True, check=False
    )
    answers = (result.stdout + result.stderr).split("got:")[1:]
    assert len(answers) == len(minutes), result.stdout + result.stderr
    found = (re.findall(r'alertname="(\w+)"', answer.partition("expr:")[0]) for answer in answers)
    return {name for names in found for name in names}


def always(minute):
    return [minute] * (LAST + 1)


def once(minute, when):
    return [minute if at == when else HEALTHY for at in range(LAST + 1)]


def wrong(alert):
    return HEALTHY | Minute(WRONG[alert])


@pytest.mark.parametrize("alert", WRONG)
def test_it_fires_alone_when_that_is_wrong(tmp_path, alert):
    assert firing(tmp_path, written(always(wrong(alert))), LAST) == {alert}


@pytest.mark.parametrize("alert", WRONG)
def test_it_goes_on_firing_through_a_restart(tmp_path, alert):
    scraped = written(always(wrong(alert)), restart=LAST - 10)
    assert firing(tmp_path, scraped, LAST) == {alert}


@pytest.mark.parametrize("alert", WRONG)
def test_it_stops_when_that_is_mended(tmp_path, alert):
    minutes = [wrong(alert)] * 30 + [HEALTHY] * (LAST - 29)
    assert firing(tmp_path, written(minutes), LAST) == set()


@pytest.mark.parametrize("alert", WRONG)
def test_one_bad_minute_is_not_enough(tmp_path, alert):
    assert firing(tmp_path, written(once(wrong(alert), 30)), *range(30, 50)) == set()


@pytest.mark.parametrize("alert", WRONG)
def test_a_cold_start_is_not_enough(tmp_path, alert):
    """A deploy: everything begins at nothing, and the first minute is a bad one."""
    minutes = [wrong(alert), *always(HEALTHY)]
    assert firing(tmp_path, written(minutes), *range(25)) == set()


#: Who waits for a connection waits, however few requests there are.
ALWAYS_JUDGED = {"PoolscopePoolWait", "PoolscopePoolWaitTimeouts"}


@pytest.mark.parametrize("alert", sorted(set(WRONG) - ALWAYS_JUDGED))
def test_a_trickle_is_not_judged(tmp_path, alert):
    assert firing(tmp_path, written(always(wrong(alert).at(0.01))), LAST) == set()


@pytest.mark.parametrize("alert", WRONG)
def test_without_traffic_it_is_silent(tmp_path, alert):
    minutes = [wrong(alert)] * 5 + [Minute({}, HEALTHY.levels)] * (LAST - 4)
    assert firing(tmp_path, written(minutes), LAST) == set()


@pytest.mark.parametrize("restart", [None, 30])
def test_a_healthy_upstream_is_left_in_peace(tmp_path, restart):
    assert firing(tmp_path, written(always(HEALTHY), restart), *range(LAST)) == set()


def test_a_pool_that_is_never_free_fires_without_traffic(tmp_path):
    waiting = Minute({}, HEALTHY.levels | {series(catalog.PENDING): 3})
    assert firing(tmp_path, written([HEALTHY, *always(waiting)]), LAST) == {
        "PoolscopePoolExhausted"
    }


def test_a_queue_that_moves_is_not_an_exhausted_pool(tmp_path):
    """Whether or not the requests that get through are answered."""
    waits = samples(catalog.WAIT_TIME, 0.01, 5)
    waiting = Minute(waits, HEALTHY.levels | {series(catalog.PENDING): 3})
    assert firing(tmp_path, written(always(waiting)), *range(LAST)) == set()


def test_one_instance_of_many_can_be_stuck(tmp_path):
    waiting = Minute({}, HEALTHY.levels | {series(catalog.PENDING): 3})
    stuck = written([HEALTHY, *always(waiting)])
    moving = [
        {**row, "series": row["series"].replace('instance="a"', 'instance="b"')}
        for row in written(always(HEALTHY))
    ]
    assert firing(tmp_path, stuck + moving, LAST) == {"PoolscopePoolExhausted"}


def test_a_queue_that_comes_and_goes_is_not_an_exhausted_pool(tmp_path):
    waiting = Minute({}, HEALTHY.levels | {series(catalog.PENDING): 3})
    idle = Minute({}, HEALTHY.levels)
    minutes = [HEALTHY, *[idle, waiting, waiting, waiting] * 15]
    assert firing(tmp_path, written(minutes), *range(LAST)) == set()


def test_a_fleet_whose_instances_ask_seldom_is_left_in_peace(tmp_path):
    """150 instances, one request each in two minutes, and each finds its connection closed."""
    seldom = HEALTHY | Minute(WRONG["PoolscopeConnectionChurn"])
    fleet = [
        {**row, "series": row["series"].replace('instance="a"', f'instance="{number}"')}
        for number in range(150)
        for row in written(always(seldom.at(1 / 1200)))
        if "_bucket" not in row["series"]
    ]
    assert firing(tmp_path, fleet, LAST) == set()


def test_a_threshold_that_is_there_twice_does_no_harm(tmp_path):
    """As where two Prometheus servers evaluate the same rules."""
    again = 'poolscope:min_requests_per_second:threshold{replica="b"}'
    scraped = [*written(always(wrong("PoolscopeConnectionChurn"))),
               {"series": again, "values": f"1x{LAST}"}]  # fmt: skip
    assert firing(tmp_path, scraped, LAST) == {"PoolscopeConnectionChurn"}


def test_a_wait_that_times_out_once_in_a_million_wakes_nobody(tmp_path):
    busy = Minute(HEALTHY.at(1000).grows | WRONG["PoolscopePoolWaitTimeouts"], HEALTHY.levels)
    assert firing(tmp_path, written(always(busy)), LAST) == set()


def up(value):
    return {"series": 'up{job="shop", instance="a"}', "values": f"{value}x200"}


def gone(minutes):
    """Return scrapes that end after so many minutes."""
    return [
        {**row, "values": " ".join([*row["values"].split()[:minutes], "stale"])}
        for row in written(always(HEALTHY))
    ]


def test_a_job_that_falls_silent_fires_while_it_is_up(tmp_path):
    assert firing(tmp_path, [*gone(30), up(1)], 75) == {"PoolscopeBlind"}


def test_a_job_that_is_gone_is_not_blind(tmp_path):
    assert firing(tmp_path, [*gone(30), up(0)], 75) == set()
    assert firing(tmp_path, gone(30), 75) == set()


def test_a_pause_is_not_blindness(tmp_path):
    assert firing(tmp_path, [*gone(30), up(1)], 35) == set()


def test_a_fault_fires_until_the_restart(tmp_path):
    fault = 'poolscope_faults_total{job="shop", instance="a", poolscope_where="urllib3.close"}'
    scraped = [*written(always(HEALTHY)), {"series": fault, "values": "_ " * 10 + "1x20 stale"}]
    assert firing(tmp_path, scraped, 9) == set()
    assert firing(tmp_path, scraped, 10) == {"PoolscopeFaults"}
    assert firing(tmp_path, scraped, 40) == set()


def test_more_upstreams_than_are_told_apart_fire(tmp_path):
    other = series(catalog.POOLS_OPEN, common=COMMON.replace('"api"', '"_other"'))
    scraped = [*written(always(HEALTHY)), {"series": other, "values": f"1x{LAST}"}]
    assert firing(tmp_path, scraped, LAST) == {"PoolscopeOtherUpstreams"}


def test_every_alert_is_tried():
    assert set(WRONG) | ELSEWHERE == alerts()
