"""Holds the report: its text to the letter, its width, its colours, and its JSON."""

import io
import json
import re

import pytest

import scripted
from poolscope import events as ev
from poolscope.advice import words
from poolscope.catalog import DURATION_BOUNDS, IDLE_BOUNDS
from poolscope.cli import report
from poolscope.table import SHOWN, render
from scripted import API, summary

SOCKET = ev.Origin("/var/run/docker.sock", "", "http", "urllib3")
LONG = ev.Origin(
    "payments-gateway-primary-replica.eu-central-1.internal.a-very-long-company-name.example.com",
    "8443",
    "https",
    "urllib3",
)

LEGEND = """
First request, re-used: the time until a response's headers are there, on a new connection that had
to be opened first, and on one that was open already; the gap is what opening costs. By estimate,
half of the requests took less than p50, and 99 of 100 less than p99.
"""
SESSION_PER_CALL = """\
https://api.example.com                                                                  p50     p99
  requests answered       1,200   requests per connection      1.0   first request     38 ms   50 ms
  requests failed             0   on a re-used connection       0%   re-used               -       -
  connections opened      1,200   thrown away, pool full         0   gap                   -       -
  TLS handshakes          1,200   mean connection age        50 ms   pool wait             -       -
  ! 1,199 of 1,200 connections had to be opened because the Session or PoolManager was a new one.
    Opening one, TLS included, takes 30 ms on average; for these that is 36 s in all.
    Whose move: the application. It makes a new Session or PoolManager again and again, and drops
    the old one with its open connections. Every plain `requests.get()` or `requests.post()` does
    that, and so does `close()` or `clear()` before one is used again.
    Change: Make one Session when the program starts (`session = requests.Session()` at module
    level, or one for each long-lived thread) and call `session.get(...)`. With urllib3 keep one
    `PoolManager()`.
    Saves: 1,199 of 1,200 connections; about 30 ms on each request that opens one.
    Runbook: PoolscopeSessionPerRequest
"""
SMALL_POOL = """\
https://api.example.com                                                                  p50     p99
  requests answered       1,000   requests per connection       18   first request     38 ms   50 ms
  requests failed             0   on a re-used connection      94%   re-used            4 ms    5 ms
  connections opened         56   thrown away, pool full        54   gap               34 ms   45 ms
  TLS handshakes             56   mean connection age        2.0 s   pool wait             -       -
  ! 54 connections were thrown away after use, because the pool had no room to keep them (it keeps
    2). Opening one, TLS included, takes 30 ms on average; for these that is 1.2 s in all.
    Whose move: the application. It uses more connections at once than the pool has room for: up to
    16 were in use at once.
    Change: Make room for 16: `session.mount("https://", HTTPAdapter(pool_maxsize=16))`; with
    urllib3 `PoolManager(maxsize=16)`.
    Saves: 40 of 56 connections; about 34 ms on each request that opens one.
    Runbook: PoolscopePoolTooSmall
"""
IDLE_RACE = """\
NAME                                                                                     p50     p99
  requests answered         300   requests per connection      5.0   first request     38 ms   50 ms
  requests failed             6   on a re-used connection      80%   re-used            4 ms    5 ms
  connections opened         60   thrown away, pool full         0   gap               34 ms   45 ms
  TLS handshakes             60   mean connection age         12 s   pool wait             -       -
  ! 53 connections had been closed by the other side while idle, and had to be replaced when the
    next request wanted them. 6 requests failed because the other side hung up on an idle connection
    just as it was used again. Opening one, TLS included, takes 30 ms on average; for these that is
    1.8 s in all.
    Whose move: the other side. It, or a proxy, load balancer or firewall in between, ends idle
    connections; half of these had been idle for less than 7.5 s when that showed, the shortest for
    at most 10 s.
    Change: Raise the keep-alive (idle) time-out there above the usual pause between requests:
    gunicorn `--keep-alive` (2 s unless set), uvicorn `--timeout-keep-alive` (5 s), nginx
    `keepalive_timeout` (75 s), AWS load balancer `idle_timeout` (60 s). Meanwhile let requests that
    may be repeated be repeated: `HTTPAdapter(max_retries=Retry(total=2))`.
    Saves: 59 of 60 connections; about 34 ms on each request that opens one.
    Runbook: PoolscopeIdleTimeoutRace
"""
HEALTHY_SOCKET = """\
unix socket /var/run/docker.sock                                                         p50     p99
  requests answered       1,200   requests per connection      400   first request     38 ms   50 ms
  requests failed             0   on a re-used connection     >99%   re-used            4 ms    5 ms
  connections opened          3   thrown away, pool full         0   gap               34 ms   45 ms
  TLS handshakes              0   mean connection age        5 min   pool wait             -       -
  Nothing to fix.
"""


def named(text, name):
    """Put a name where the block says NAME."""
    return text.replace(f"{'NAME':<84}", f"{name:<84}")


def text_of(*histories, colour=False):
    return render(summary(*histories), colour=colour)


def test_a_session_per_call():
    assert text_of(scripted.session_per_call()) == (
        "poolscope: 1,200 requests to 1 upstream over 1,200 connections; 1 upstream needs "
        "attention.\n\n" + SESSION_PER_CALL + LEGEND
    )


def test_a_small_pool():
    assert text_of(scripted.small_pool()) == (
        "poolscope: 1,000 requests to 1 upstream over 56 connections; 1 upstream needs "
        "attention.\n\n" + SMALL_POOL + LEGEND
    )


def test_a_server_that_hangs_up_on_idle_connections():
    assert text_of(scripted.idle_race()) == (
        "poolscope: 300 requests (6 more failed) to 1 upstream over 60 connections; 1 upstream "
        "needs\nattention.\n\n" + named(IDLE_RACE, "https://api.example.com") + LEGEND
    )


def test_what_is_saved_in_an_hour_is_told_where_it_is_known_how_long_it_took():
    told = summary(scripted.session_per_call()) | {"seconds": 600.0}
    assert (
        "1,199 of 1,200 connections; about 30 ms on each request that opens one; at this rate\n"
        "    about 4 min of waiting and 7.2 s of CPU an hour.\n"
    ) in render(told, colour=False)


DEAD = [ev.Levels(API, idle=4, max=10, pools=1, stale=3)]
DEAD_SAYS = (
    "3 of 4 idle connections are already dead: the other side has hung up, and the next request "
    "will\n"
)


def test_idle_connections_that_are_dead_are_told():
    assert f"pool wait             -       -\n  {DEAD_SAYS}  find out.\n  ! " in text_of(
        scripted.session_per_call(), DEAD
    )
    healthy = text_of(scripted.healthy(), DEAD).split("\n", 1)[1]
    assert " ".join(healthy.split()) == f"https://api.example.com: {DEAD_SAYS.strip()} find out."


def test_several_upstreams_stand_worst_first_and_long_names_are_shortened():
    short = "https://payments-gateway-primary-replica....-very-long-company-name.example.com:8443"
    blocks = (named(IDLE_RACE, short), SESSION_PER_CALL, HEALTHY_SOCKET)
    assert text_of(
        scripted.healthy(SOCKET), scripted.session_per_call(), scripted.idle_race(LONG)
    ) == (
        "poolscope: 2,700 requests (6 more failed) to 3 upstreams over 1,263 connections; 2 "
        "upstreams need\nattention, worst first.\n\n" + "\n".join(blocks) + LEGEND
    )


NOTHING_SEEN = "no outbound HTTP request through urllib3 was seen."
ONE_LINE = {
    NOTHING_SEEN: (),
    NOTHING_SEEN + " ": ([ev.OriginSeen(API)],),
    "2,400 requests to 2 upstreams over 6 re-used connections: nothing to fix.": (
        scripted.healthy(),
        scripted.healthy(SOCKET),
    ),
    "1,200 requests (2 more failed) to 1 upstream over 3 re-used connections: nothing to fix.": (
        scripted.healthy(),
        scripted.failed("timeout", 2),
    ),
    "20 requests to 1 upstream over 20 connections, hardly any without need: nothing to fix.": (
        scripted.answered(20),
        scripted.opened("first", 20),
    ),
}


@pytest.mark.parametrize("line", ONE_LINE)
def test_without_findings_there_is_one_line(line):
    assert text_of(*ONE_LINE[line]) == f"poolscope: {line.rstrip()}\n"


TOO_FEW = {
    "3 requests to 1 upstream over 3 connections: too few to judge (under 10).": (
        scripted.answered(3),
        scripted.opened("first"),
        scripted.opened("new_pool", 2),
    ),
    "2 requests (1 more failed) to 1 upstream over 1 connection: too few to judge (under 10).": (
        scripted.answered(1, 1),
        scripted.opened("first"),
        scripted.failed("timeout", 1),
    ),
}


@pytest.mark.parametrize("line", TOO_FEW)
def test_what_is_too_little_to_judge_is_shown_in_numbers(line):
    first, blank, _name, numbers, *_ = text_of(*TOO_FEW[line]).splitlines()
    assert (first, blank) == (f"poolscope: {line}", "")
    assert numbers.startswith("  requests answered")


def test_faults_of_poolscope_itself_are_told():
    faults = [ev.Faulted("urllib3.connectionpool.close")] * 2
    assert text_of(scripted.healthy(), faults) == (
        "poolscope: 1,200 requests to 1 upstream over 3 re-used connections: no finding, but not "
        "everything\nwas counted.\n"
        "poolscope itself had 2 faults, in urllib3.connectionpool.close: the program was not "
        "disturbed, but\nnumbers may be missing. Please report it.\n"
    )


def test_what_is_incomplete_is_not_called_healthy():
    told = summary(scripted.healthy()) | {"incomplete": ["1 of 2 processes was killed"]}
    assert render(told, colour=False) == (
        "poolscope: 1,200 requests to 1 upstream over 3 re-used connections: no finding, but not "
        "everything\nwas counted.\n"
    )
    sick = summary(scripted.healthy(SOCKET), scripted.session_per_call())
    assert "  Nothing to fix.\n" in render(sick, colour=False)
    text = render(sick | {"incomplete": ["1 of 2 processes was killed"]}, colour=False)
    assert "  No finding, but not everything was counted.\n" in text
    assert "othing to fix" not in text


def test_the_same_change_is_told_once_and_of_many_upstreams_the_worst():
    origins = [API._replace(address=f"host-{number:02}.example.com") for number in range(SHOWN + 3)]
    text = text_of(*(scripted.session_per_call(origin) for origin in origins))
    assert text.count("Make one Session when the program starts") == 1
    assert text.count("Change: as for https://host-00.example.com above.") == SHOWN - 1
    assert "And 3 more upstreams, 3 of them with findings (`--json` shows all)." in text
    assert f"host-{SHOWN}" not in text


def huge(origin):
    """Numbers as wide as they come."""
    return [
        *scripted.answered(98_765_432, 987_654_321, origin=origin, slow=11.0, fast=9.0),
        *scripted.failed("connect", 1, origin=origin),
        ev.Waited(origin, scripted.histogram(12.0, 9_876_543)),
        *scripted.closed("pool_full", 3, origin=origin, seconds=8e6),
    ]


EVERYTHING = (
    scripted.session_per_call(LONG),
    scripted.small_pool(SOCKET._replace(address="/a" * 200)),
    scripted.idle_race(SOCKET._replace(address="_other")),
    scripted.healthy(API._replace(address="2001:db8::1", port="80", scheme="http")),
    scripted.idle_race(API._replace(address="evil\x1b[31m\n.example.com")),
    scripted.answered(3, origin=API._replace(port="1")),
    huge(API),
    [ev.Faulted("a" * 150)],
)


def test_no_line_is_wider_than_100_columns_nor_coloured():
    text = text_of(*EVERYTHING)
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text
    assert "Too few requests to judge (10 are needed)." in text
    assert "http://[2001:db8::1]" in text
    assert "http: all further upstreams (too many to tell apart)" in text


def test_colour_adds_nothing_but_colour():
    coloured = text_of(*EVERYTHING, colour=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == text_of(*EVERYTHING)


class Terminal(io.StringIO):
    encoding = "ascii"

    def isatty(self):
        return True


def test_colour_is_for_terminals_that_want_it(monkeypatch):
    sick = summary(scripted.session_per_call())
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal, file = Terminal(), io.StringIO()
    report.print_report(sick, terminal, as_json=False)
    report.print_report(sick, file, as_json=False)
    assert "\x1b[" in terminal.getvalue()
    assert file.getvalue() == render(sick, colour=False)
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    report.print_report(sick, terminal, as_json=False)
    assert terminal.getvalue() == file.getvalue()


def test_letters_that_the_stream_cannot_take_are_spelled_out():
    terminal = Terminal()
    origin = API._replace(address="münchen.example.com")
    report.print_report(summary(scripted.idle_race(origin)), terminal, as_json=False)
    assert r"https://m\xfcnchen.example.com" in terminal.getvalue()


def test_json_has_the_summary_and_the_findings():
    stream = io.StringIO()
    faults = [ev.Faulted("somewhere")]
    told = summary(scripted.healthy(SOCKET), scripted.session_per_call(), faults)
    report.print_report(told, stream, as_json=True)
    text = stream.getvalue()
    document = json.loads(text)
    assert text.endswith("}\n")
    assert list(document) == ["seconds", "most_pools_open", "origins", "faults", "incomplete"]
    assert document["faults"] == {"somewhere": 1}
    sick, well = document["origins"]
    assert [finding.pop("id") for finding in sick["findings"]] == ["PoolscopeSessionPerRequest"]
    assert list(sick["findings"][0]) == [
        "upstream", "severity", "whose", "problem", "cause", "change", "saves", "cost", "where",
        "settings",
    ]  # fmt: skip
    assert sick["findings"][0]["upstream"] == "https://api.example.com"
    assert sick["findings"][0]["cost"] == {
        "connections": 1199,
        "seconds": pytest.approx(1199 * 0.03),
        "cpu_seconds": pytest.approx(1199 * 0.001),
        "seconds_per_hour": None,
        "first_request": pytest.approx(0.03),
    }
    assert well["findings"] == []
    del sick["findings"], well["findings"]
    assert [well, sick] == sorted(told["origins"], key=lambda one: one["address"])


@pytest.mark.parametrize(
    ("seconds", "spelled"),
    [
        (None, "-"), (0.0, "<1 ms"), (0.0004, "<1 ms"), (0.0123, "12 ms"), (0.9996, "1.0 s"),
        (1.24, "1.2 s"), (9.96, "10 s"), (119.0, "119 s"), (720.0, "12 min"), (10800.0, "3 h"),
        (432000.0, "5 days"),
    ],
)  # fmt: skip
def test_durations(seconds, spelled):
    assert words.duration(seconds) == spelled


def test_estimates_claim_no_more_than_the_buckets_know():
    spelled = [words.estimate(s, DURATION_BOUNDS) for s in (None, 0.0005, 0.02, 10.0)]
    assert spelled == ["-", "<1 ms", "20 ms", ">10 s"]
    assert [words.estimate(s, IDLE_BOUNDS) for s in (0.5, 1800.0)] == ["<1 s", ">30 min"]


@pytest.mark.parametrize(
    ("slow", "fast", "spelled"),
    [
        (0.05, 0.01, "40 ms"), (0.0005, 0.0005, "<1 ms"), (0.01, 0.02, "none"), (None, 0.1, "-"),
        (10.0, 1.0, ">9.0 s"), (10.0, 10.0, "-"), (0.0012, 0.0009, "<1 ms"),
    ],
)  # fmt: skip
def test_gaps(slow, fast, spelled):
    assert words.gap(slow, fast, DURATION_BOUNDS) == spelled


def test_counts_ratios_and_shares():
    assert [words.count(n) for n in (1234567, 1086419753)] == ["1,234,567", "1,086.4 M"]
    assert [words.counted(n, "request") for n in (0, 1)] == ["0 requests", "1 request"]
    assert [words.ratio(x) for x in (None, 0.95, 9.96, 1234.5)] == ["-", "0.9", "10", "1,234"]
    shares = [words.share(x) for x in (None, 0, 0.001, 0.5, 0.999, 1)]
    assert shares == ["-", "0%", "<1%", "50%", ">99%", "100%"]
