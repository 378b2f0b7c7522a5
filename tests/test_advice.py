"""Holds the advice: each finding has a history that gives it, and one like it that does not."""

import pytest

import scripted
from poolscope import catalog
from poolscope import events as ev
from poolscope.advice import findings
from scripted import API, answered, closed, failed, opened, summary

LEVELS = ev.Levels(API, idle=2, max=2, pools=1)


def found(*histories, seconds=None):
    return findings(summary(*histories) | {"seconds": seconds})


def dropped(reason, seconds, times):
    return [ev.FoundDropped(API, reason, seconds)] * times


def held(times, line="12"):
    return [ev.Held(API, "shop/export.py", "rows", line)] * times


def waits(seconds, times):
    return [ev.Waited(API, scripted.histogram(seconds, times))]


def no_connection(error, times):
    return failed("connect", times) + [ev.Created(API, 0.5, error)] * times


# For each finding a history that gives it, and one that comes close to it but gives nothing.
CASES = {
    "PoolscopeSessionPerRequest": (
        [scripted.session_per_call()],
        # 20 threads with a Session each.
        [answered(20, 980), opened("first"), opened("new_pool", 19)],
    ),
    "PoolscopePoolTooSmall": (
        [scripted.small_pool()],
        # One burst in a long time.
        [answered(50, 9950), opened("first"), opened("growth", 49), closed("pool_full", 40)],
    ),
    "PoolscopePoolWait": (
        [answered(2, 198), waits(0.0001, 100), waits(0.2, 100), [LEVELS]],
        [answered(2, 198), waits(0.0001, 199), waits(0.2, 1), [LEVELS]],
    ),
    "PoolscopeUnreadResponses": (
        [answered(50, 50), opened("first"), opened("replaced_unread", 49), closed("unread", 50)],
        [answered(3, 97), opened("first"), opened("replaced_unread", 2), closed("unread", 3)],
    ),
    "PoolscopePoolEviction": (
        [answered(50, 50), opened("first"), opened("replaced_evicted", 49), closed("evicted", 50)],
        # Dropped, and never wanted again.
        [answered(50, 50), opened("first", 50), closed("evicted", 50)],
    ),
    "PoolscopeServerCloses": (
        [answered(20), opened("replaced_server_close", 20), closed("server_close", 20)],
        # keepalive_requests 1000
        [
            answered(10, 9990),
            opened("replaced_server_close", 10),
            closed("server_close", 10, requests=1000),
        ],
    ),
    "PoolscopeIdleTimeoutRace": (
        [scripted.idle_race()],
        [answered(5, 995), opened("replaced_stale", 4), closed("stale", 4)],
    ),
    "PoolscopeApplicationCloses": (
        [
            answered(20, 80),
            opened("first"),
            opened("replaced_explicit", 15),
            opened("replaced_pool_closed", 4),
            closed("explicit", 16),
            closed("pool_closed", 4),
        ],
        # Closed, and never wanted again.
        [answered(20, 80), opened("first"), opened("growth", 19), closed("explicit", 20)],
    ),
    "PoolscopeConnectionChurn": (
        # Each is too rare to be judged, and together they are one request in twenty.
        [
            answered(51, 949),
            opened("first"),
            opened("new_pool", 20),
            opened("replaced_explicit", 20),
            opened("replaced_server_close", 10),
        ],
        [
            answered(50, 950),
            opened("first"),
            opened("new_pool", 20),
            opened("replaced_explicit", 20),
            opened("replaced_server_close", 9),
        ],
    ),
    "PoolscopeHeldConnections": (
        [answered(5, 295), held(3)],
        [answered(5, 296), held(3)],
    ),
    "PoolscopeConnectFailures": (
        [answered(1, 99), opened("first"), no_connection("refused", 5)],
        [answered(1, 999), opened("first"), no_connection("refused", 5)],
    ),
    "PoolscopeRequestTimeouts": (
        [answered(10, 90), opened("replaced_timeout", 5), failed("timeout", 5)],
        [answered(10, 990), opened("replaced_timeout", 5), failed("timeout", 5)],
    ),
    "PoolscopeRequestsCutOff": (
        [answered(10, 90), failed("protocol", 2), failed("reset", 3)],
        [answered(10, 990), failed("protocol", 2), failed("reset", 3)],
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_finding_needs_its_evidence(kind):
    enough, too_little = CASES[kind]
    assert [finding.id for finding in found(*enough)] == [kind]
    assert found(*too_little) == []


def test_a_healthy_upstream_gives_none():
    assert found(scripted.healthy()) == []


def test_nine_requests_are_not_enough_to_judge_connections():
    assert found(answered(9), opened("first"), opened("new_pool", 8)) == []


def test_if_nothing_is_ever_answered_one_failure_is_enough():
    (finding,) = found(no_connection("dns", 1))
    assert finding.problem == (
        "1 of 1 request failed without a connection: the host name could not be resolved."
    )
    assert finding.whose == "the application"


def test_the_most_frequent_connect_error_is_named():
    (finding,) = found(answered(10), no_connection("timeout", 1), no_connection("tls", 3))
    assert finding.problem == (
        "4 of 14 requests failed without a connection: mostly, TLS could not be agreed on."
    )


def test_a_new_session_at_a_server_that_closes_takes_both_changes():
    history = [
        answered(40),
        opened("first"),
        opened("new_pool", 39),
        closed("server_close", 40),
    ]
    session, server = found(*history)
    assert (session.id, server.id) == ("PoolscopeSessionPerRequest", "PoolscopeServerCloses")
    assert session.cause.endswith(
        "The other side closes connections as well, so it takes both changes."
    )


def test_failures_come_first_then_what_costs_most():
    history = [
        answered(100, 100),
        opened("first"),
        opened("replaced_server_close", 20),
        opened("new_pool", 79),
        closed("server_close", 20),
        closed("collected", 79),
        failed("timeout", 10),
    ]
    assert [(one.id, one.severity) for one in found(*history)] == [
        ("PoolscopeRequestTimeouts", "failing"),
        ("PoolscopeSessionPerRequest", "costly"),
        ("PoolscopeServerCloses", "costly"),
    ]


def test_the_cost_is_the_openings_times_the_mean_time_to_open_and_the_waits():
    costs = found(scripted.small_pool(), waits(0.5, 10))
    assert {one.id: one.cost.seconds for one in costs} == {
        "PoolscopePoolWait": pytest.approx(5.0),
        "PoolscopePoolTooSmall": pytest.approx(1.2),
    }


def test_a_second_and_a_half_is_not_extrapolated():
    """Three seconds are needed to speak of an hour, or of a mean over time."""
    history = [scripted.small_pool(), [ev.Busy(API, 30.0)]]
    (early,) = found(*history, seconds=2.99)
    (enough,) = found(*history, seconds=3.0)
    assert "an hour" not in early.saves
    assert "an hour" in enough.saves
    assert "Little" not in early.cause
    assert "Little" in enough.cause
    assert early.cost.seconds_per_hour is None
    assert enough.cost.seconds_per_hour == pytest.approx(40 * 0.03 / 3 * 3600)


def test_no_size_is_named_that_is_not_larger():
    """Many small pools and one that is too small: the mean of their peaks says nothing."""
    history = [
        [ev.Levels(API, pools=41, max=410), ev.Levels(API)],
        [ev.PoolOpened(API)] * 41,
        answered(70, 130),
        opened("first"),
        opened("new_pool", 40),
        opened("growth", 29),
        closed("pool_full", 20),
    ]
    small = next(one for one in found(*history) if one.id == "PoolscopePoolTooSmall")
    assert small.settings == {}
    assert "Make room for N, N being the number of threads that use it" in small.change


def test_of_pools_that_are_closed_no_size_is_named_that_may_be_smaller():
    """A scrape knows their size no more; a single one's peak was beyond it, whatever it was."""
    several = [
        answered(70, 130),
        [ev.PoolOpened(API)] * 3,
        opened("first"),
        opened("new_pool", 2),
        opened("growth", 6),
        closed("pool_full", 20),
    ]
    (finding,) = found(*several)
    assert finding.settings == {}
    blocking = [answered(2, 198), [ev.PoolOpened(API), ev.Busy(API, 15.0)], waits(0.02, 200)]
    (finding,) = found(*blocking, seconds=10.0)
    assert finding.settings == {}


def test_of_pools_that_are_older_than_the_window_no_peak_is_known():
    history = [
        answered(500, 5000),
        opened("growth", 500),
        closed("pool_full", 500),
        [ev.PoolOpened(API), ev.Levels(API, pools=100, max=1000)],
    ]
    (finding,) = found(*history)
    assert finding.settings == {}


def test_a_leak_that_is_slow_and_exhausts_a_pool_is_named():
    """Ten of ten thousand responses hold all that a pool has."""
    levels = ev.Levels(API, active=10, pending=4, max=10, pools=1)
    history = [answered(10, 9990), waits(0.0001, 9990), [ev.WaitTimedOut(API)] * 200, [levels]]
    assert [one.id for one in found(*history)] == ["PoolscopePoolWaitTimeouts"]
    timeouts, leak = found(*history, held(10))
    assert (leak.id, leak.severity) == ("PoolscopeHeldConnections", "failing")
    assert timeouts.change.startswith("Let go of the responses")


def test_in_the_first_buckets_latency_is_not_said_to_vary():
    history = [
        answered(0, 950, fast=0.0009),
        answered(0, 50, fast=0.0011),
        [ev.PoolOpened(API), ev.Busy(API, 60.0)],
        opened("first"),
        closed("pool_full", 40),
        [LEVELS],
    ]
    (finding,) = found(*history, seconds=10.0)
    assert finding.settings == {"pool_maxsize": 12}


def test_the_busiest_lines_are_named_first():
    """A line may have asked for two reasons."""
    sites = [("a.py", "replaced_unread", 9), ("b.py", "replaced_collected", 7),
             ("b.py", "replaced_unread", 8)]  # fmt: skip
    asked = [
        ev.AskedFor(API, path, "read", "1", cause)
        for path, cause, times in sites
        for _ in range(times)
    ]
    (finding,) = found(*CASES["PoolscopeUnreadResponses"][0], asked)
    assert finding.where == "b.py:1 in read, 15 times; a.py:1 in read, 9 times"


def test_who_asks_once_a_minute_finds_its_connection_closed_and_nothing_is_wrong():
    history = [answered(60, 0), [ev.PoolOpened(API)], opened("first"), opened("replaced_stale", 59),
               closed("stale", 59), [ev.Levels(API, idle=1, pools=1, max=10)]]  # fmt: skip
    assert found(*history, seconds=3600.0) == []
    assert [one.id for one in found(*history, seconds=600.0)] == ["PoolscopeIdleTimeoutRace"]
    assert [one.id for one in found(*history)] == ["PoolscopeIdleTimeoutRace"]
    failing = [*history, failed("reset", 3, reused=True), dropped("reset", 40.0, 3)]
    assert [one.severity for one in found(*failing, seconds=3600.0)] == ["failing"]


CAUSES = (*catalog.AVOIDABLE_CAUSES, *catalog.OTHER_SIDE_CAUSES, "replaced_exit", "of_tomorrow")


@pytest.mark.parametrize("cause", CAUSES)
def test_no_churn_ends_as_nothing_to_fix(cause):
    """Whatever the cause, also one that this version does not know, and whatever was closed."""
    history = [answered(20), opened("first"), opened(cause, 19)]
    (finding,) = found(*history)
    assert finding.cost.connections == 19
    assert finding.saves.startswith("19 of 20 connections; ")
    assert found(answered(20, 361), opened("first"), opened(cause, 19)) == []


@pytest.mark.parametrize("cause", [*catalog.NEEDED_CAUSES])
def test_what_is_needed_is_no_churn(cause):
    assert found(answered(20), opened(cause, 20)) == []


def test_what_a_finding_tells_is_not_told_again():
    """Eight in a hundred are left, and half of them could be told by nobody else."""
    history = [
        answered(48, 52),
        opened("first"),
        opened("new_pool", 40),
        opened("replaced_stale", 4),
        opened("replaced_error", 4),
    ]
    session, rest = found(*history)
    assert (session.id, rest.id) == ("PoolscopeSessionPerRequest", "PoolscopeConnectionChurn")
    assert (session.cost.connections, rest.cost.connections) == (40, 8)
    assert rest.whose == "the other side"
    assert rest.problem.startswith(
        "8 of 49 connections had to be opened though there had been others before: 4 as the other "
        "side had closed one that was idle, 4 as an error had ended one."
    )


def test_many_causes_are_named_from_the_most_frequent_on():
    causes = ("new_pool", "replaced_unread", "replaced_explicit", "replaced_stale", "of_tomorrow")
    history = [opened(cause, 10 + number) for number, cause in enumerate(causes)]
    (finding,) = found(answered(60, 240), *history)
    assert finding.whose == "the application or the other side"
    assert "14 because of `of_tomorrow`, 13 as the other side had closed" in finding.problem
    assert ", 10 for other causes." in finding.problem


def test_who_asks_once_a_minute_has_no_churn():
    history = [answered(60), [ev.PoolOpened(API)], opened("first"), opened("replaced_stale", 57),
               opened("new_pool", 2), [ev.Levels(API, idle=1, pools=1, max=10)]]  # fmt: skip
    assert found(*history, seconds=3600.0) == []


def test_nothing_answered_is_no_matter_of_churn():
    history = [opened("replaced_error", 19), closed("error", 20), failed("protocol", 20)]
    assert [one.id for one in found(*history)] == ["PoolscopeRequestsCutOff"]


def test_the_lines_that_close_connections_are_named():
    asked = [ev.AskedFor(API, "tidy.py", "tidy", "3", "replaced_explicit")] * 15
    (finding,) = found(*CASES["PoolscopeApplicationCloses"][0], asked)
    assert finding.where == "tidy.py:3 in tidy, 15 times"
    assert finding.whose == "the application"


def test_bodies_that_are_not_what_they_should_be_are_told_from_what_failed_before():
    history = [answered(20, 80), opened("replaced_error", 20), closed("error", 21)]
    connects = no_connection("tls", 4) + [ev.Created(API, 0.1, "refused")] * 5
    seen = found(*history, failed("protocol", 3), connects)
    assert {one.id for one in seen} == {"PoolscopeConnectFailures", "PoolscopeRequestsCutOff"}
    cut_off = next(one for one in seen if one.id == "PoolscopeRequestsCutOff")
    assert cut_off.problem == (
        "Of 107 requests some failed half-way: 3 answered with something that is not HTTP, 14 "
        "ended by an error in the answer's body."
    )


SHARES = {
    "PoolscopeSessionPerRequest": (0.05, lambda times: [opened("new_pool", times)]),
    "PoolscopeUnreadResponses": (0.05, lambda times: [closed("unread", times)]),
    "PoolscopePoolEviction": (0.05, lambda times: [opened("replaced_evicted", times)]),
    "PoolscopeApplicationCloses": (0.05, lambda times: [opened("replaced_explicit", times)]),
    "PoolscopeConnectionChurn": (0.05, lambda times: [opened("replaced_error", times)]),
    "PoolscopeServerCloses": (0.05, lambda times: [closed("server_close", times)]),
    "PoolscopeIdleTimeoutRace": (0.05, lambda times: [closed("stale", times)]),
    "PoolscopePoolTooSmall": (0.01, lambda times: [closed("pool_full", times)]),
    "PoolscopeHeldConnections": (0.01, lambda times: [held(times)]),
}


@pytest.mark.parametrize("kind", SHARES)
def test_how_much_is_enough(kind):
    """Three times, of ten requests, and a share of them."""
    share, history = SHARES[kind]
    requests = round(40 / share)
    assert [one.id for one in found(answered(0, requests), *history(40))] == [kind]
    assert found(answered(0, requests + 1), *history(40)) == []
    assert [one.id for one in found(answered(0, 10), *history(3))] == [kind]
    assert found(answered(0, 10), *history(2)) == []
    assert found(answered(0, 9), *history(9)) == []


def test_held_connections_are_let_go_of_before_the_pool_grows():
    """Room for more would be held as well."""
    wait, leak = found(answered(2, 198), waits(0.2, 100), held(9), seconds=60.0)
    assert (wait.id, leak.id) == ("PoolscopePoolWait", "PoolscopeHeldConnections")
    assert wait.change.startswith("Let go of the responses that hold connections")
    assert leak.where == "shop/export.py:12 in rows, 9 times"


@pytest.mark.parametrize("one", CASES)
@pytest.mark.parametrize("other", CASES)
def test_no_two_findings_contradict_each_other(one, other):
    """Each stands once, and each setting has one value."""
    busy = [ev.Busy(API, 24_000.0)]
    seen = found(*CASES[one][0], *CASES[other][0], busy, seconds=600.0)
    assert len({finding.id for finding in seen}) == len(seen)
    for name in ("pool_maxsize", "num_pools"):
        assert len({f.settings[name] for f in seen if name in f.settings}) <= 1
    ids = {finding.id for finding in seen}
    if "PoolscopeHeldConnections" in ids:
        assert not any("pool_maxsize" in finding.settings for finding in seen)


BUSY = 60.0  # seconds that connections were checked out, in 10 seconds


@pytest.mark.parametrize(
    ("fast", "slow", "size", "why"),
    [
        (0.02, 0.02, 12, "latency is steady, so there should be room for twice as many, 12"),
        (
            0.02,
            0.4,
            30,
            "latency varies much (p50 18 ms, p99 475 ms), so there should be room for five times",
        ),
    ],
)
def test_the_size_comes_from_the_mean_in_use_and_from_how_latency_varies(fast, slow, size, why):
    history = [
        answered(10, 90, fast=fast),
        answered(0, 10, fast=slow),
        [ev.PoolOpened(API), ev.Busy(API, BUSY)],
        opened("first"),
        opened("growth", 7),
        closed("pool_full", 10),
        [LEVELS],
    ]
    (finding,) = found(*history, seconds=10.0)
    assert finding.settings == {"pool_maxsize": size}
    assert "6.0 are in use on average (by Little's law); " + why in finding.cause
    (unknown,) = found(*history)
    assert unknown.settings == {"pool_maxsize": 8}
    assert unknown.cause.endswith("has room for: up to 8 were in use at once.")


def test_the_size_of_a_pool_that_blocks_counts_those_that_queue():
    history = [
        answered(2, 198),
        [ev.PoolOpened(API), ev.Busy(API, 20.0)],
        waits(0.7, 200),
        [LEVELS],
    ]
    (finding,) = found(*history, seconds=10.0)
    assert finding.settings == {"pool_maxsize": 16}  # 2 in use, 14 in the queue
    assert "with those that queue 16 are wanted on average" in finding.cause


def test_as_many_pools_are_advised_as_hosts_are_called():
    hosts = [API._replace(address=f"host-{number}") for number in range(12)]
    called = [answered(5, origin=host) for host in hosts]
    ten = [ev.Levels(host, pools=1, max=1) for host in hosts[:10]]
    (evicted,) = found(*CASES["PoolscopePoolEviction"][0], *called, ten)
    assert evicted.settings == {"num_pools": 13}
    # All are closed: nobody knows any more how many there were.
    (evicted,) = found(*CASES["PoolscopePoolEviction"][0], *called)
    assert evicted.settings == {}
    # As many pools as hosts, and still evicted: different settings make several of one host.
    pools = [ev.Levels(host, pools=1, max=1) for host in (API, *hosts)]
    (evicted,) = found(*CASES["PoolscopePoolEviction"][0], *called, pools)
    assert evicted.settings == {}
    assert "Different settings for one host" in evicted.cause
    other = API._replace(address="_other", port="")
    (evicted,) = found(*CASES["PoolscopePoolEviction"][0], answered(5, origin=other))
    assert evicted.settings == {}


def test_findings_of_all_upstreams_stand_worst_first():
    other = API._replace(address="other.example.com")
    seen = found(scripted.small_pool(), scripted.session_per_call(other))
    assert [(one.id, one.upstream) for one in seen] == [
        ("PoolscopeSessionPerRequest", "https://other.example.com"),
        ("PoolscopePoolTooSmall", "https://api.example.com"),
    ]


@pytest.mark.parametrize(
    ("levels", "pools", "growth", "change"),
    [
        ([LEVELS], 1, 15, "pool_maxsize=16"),
        ([LEVELS], 4, 60, "pool_maxsize=16"),  # on average over the processes
        ([LEVELS], 1, 0, "pool_maxsize=N"),  # no evidence of the peak
        ([], 1, 15, "pool_maxsize=16"),
    ],
)
def test_the_pool_size_that_is_advised_is_the_peak_in_use(levels, pools, growth, change):
    history = [
        answered(10, 90),
        [ev.PoolOpened(API)] * pools,
        opened("first", pools),
        opened("growth", growth),
        closed("pool_full", 10),
        levels,
    ]
    (finding,) = found(*history)
    assert change in finding.change


def test_a_pool_that_times_out_fails_requests():
    timeouts = [ev.WaitTimedOut(API)] * 57
    (finding,) = found(answered(1, 2), opened("first"), waits(0.03, 60), timeouts)
    assert finding.severity == "failing"
    assert finding.problem == (
        "57 requests failed: no connection became free in time. All waits together took 1.8 s."
    )


def test_waits_beyond_the_buckets_are_not_exaggerated():
    (finding,) = found(answered(1, 99), opened("first"), waits(12.0, 100))
    assert finding.problem == (
        "1 in 100 requests waited more than 10 s for a free connection. All waits together took "
        "20 min."
    )


@pytest.mark.parametrize(
    ("idle", "cause"),
    [
        (0.4, "connections less than a second after the answer, without saying so in the answer."),
        (7.0, "for less than 7.5 s when that showed, the shortest for at most 10 s."),
        (9999.0, "connections; half of these had been idle for more than 30 min when that showed."),
    ],
)
def test_how_long_idle_connections_live_is_told_as_far_as_it_is_known(idle, cause):
    history = [answered(50, 50), opened("replaced_stale", 49), closed("stale", 50)]
    (finding,) = found(*history, dropped("stale", idle, 50))
    assert finding.cause.endswith(cause)


def test_a_reset_right_after_use_is_no_matter_of_idle_time():
    history = [answered(10, 90), failed("reset", 5, reused=True), closed("reset", 5)]
    (idle,) = found(*history, dropped("reset", 40.0, 5))
    assert (idle.id, idle.severity) == ("PoolscopeIdleTimeoutRace", "failing")
    (busy,) = found(*history, dropped("reset", 0.02, 5))
    assert (busy.id, busy.problem) == (
        "PoolscopeRequestsCutOff",
        "Of 105 requests some failed half-way: 5 cut off before the answer.",
    )


def test_bodies_that_time_out_are_told_from_answers_that_do():
    history = [answered(10, 90), failed("timeout", 4), closed("timeout", 10)]
    (finding,) = found(*history, no_connection("timeout", 1))
    assert finding.problem == (
        "4 of 105 requests timed out without an answer, and 5 responses before the body's end. A "
        "connection is closed with each."
    )
    (finding,) = found(answered(10, 90), closed("timeout", 6))
    assert finding.problem.startswith("6 responses timed out before the body's end.")


def test_time_outs_after_a_long_silence_hint_at_a_firewall():
    history = [answered(10, 90), failed("timeout", 4), closed("timeout", 4)]
    (finding,) = found(*history, dropped("timeout", 400.0, 4))
    assert "a firewall that forgot it" in finding.cause
    (finding,) = found(*history, dropped("timeout", 4.0, 4))
    assert "firewall" not in finding.cause
