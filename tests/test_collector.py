"""The account of ``poolscope run`` is exact for those who behave, whatever else comes in."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import textwrap
import threading

import pytest

from peers import eventually
from poolscope import catalog, relay, wire
from poolscope import events as ev
from poolscope.collector import Collector
from poolscope.observers import Observer
from poolscope.readings import Readings

ORIGIN = ev.Origin("api", "443", "https", "urllib3")
OTHER = ORIGIN._replace(address="other")
OPENED = ev.Opened(ORIGIN, "first")
linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux has it")


class Account:
    """A collector with readings, and processes that talk to it."""

    def __init__(self, directory, *observers, max_origins=100):
        self.path = str(directory / "collector")
        self.readings = Readings()
        self.collector = Collector(self.path, [*observers, self.readings], max_origins)
        self.collector.start()
        self.finished = False

    def connect(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.path)
        return connection

    def say(self, *pieces):
        """Say something rude, and hang up."""
        with self.connect() as connection, contextlib.suppress(BrokenPipeError, ConnectionError):
            for piece in pieces:
                connection.sendall(piece)

    def link(self):
        link = relay.Relay(self.path)
        link.hello()
        return link

    def behave(self, *events, by=None):
        """Say something sensible, and good-bye."""
        link = by or self.link()
        link.tell(events)
        link.ended()

    def finish(self):
        if not self.finished:
            self.finished = True
            self.collector.finish()

    def opened(self, origin=ORIGIN):
        return int(self.readings.total(catalog.OPENED, origin))

    @property
    def faults(self):
        found = self.readings.numbers.get(catalog.FAULTS, {})
        return {values[0]: int(number) for values, number in found.items()}

    def level(self, metric, origin=ORIGIN):
        self.collector.drain()
        return self.readings.total(metric, origin)


@pytest.fixture
def start(tmp_path):
    """Start an account that is finished with the test, and leaves no thread behind."""
    before = threading.active_count()
    with contextlib.ExitStack() as stack:

        def start(*args, **kwargs):
            account = Account(tmp_path, *args, **kwargs)
            stack.callback(account.finish)
            return account

        yield start
    assert threading.active_count() == before


def row(*values):
    return json.dumps({"rows": [list(values)]}).encode() + b"\n"


PLAIN = list(ORIGIN)
LEVELS = ["Levels", PLAIN, 1, 2, 0, 10, 1, 5.0, 2.0, 0]
HISTOGRAM = [[1] * 14, [0.1] * 14]
LINES = {
    "nothing": b"\n",
    "a list": b"[]\n",
    "a number": b"7\n",
    "null": b"null\n",
    "an empty object": b"{}\n",
    "not JSON": b"GET / HTTP/1.1\n",
    "not text": b"\xff\xfe\x00\n",
    "deep": b"[" * 100_000 + b"\n",
    "deep within": b'{"rows":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "a long number": b'{"rows":' + b"9" * 100_000 + b"}\n",
    "no number": b'{"rows": [[1, "Busy", ["a", "b", "c", "d"], NaN]]}\n',
    "infinity": b'{"rows": [[1, "Busy", ["a", "b", "c", "d"], -Infinity]]}\n',
    "rows that are none": b'{"rows": 3}\n',
    "half a line": b'{"rows": [[1, "Op',
    "a line without an end": b"x" * (wire.LONGEST + 1),
    "a process without a name": b'{"pid": 7}\n',
    "a pid that is no number": b'{"pid": "7", "token": "x"}\n',
    "a pid that is a fraction": b'{"pid": 1.5, "token": "x"}\n',
    "a token that is no text": b'{"pid": 7, "token": ["x"]}\n',
    "half a surrogate": b'{"pid": 7, "token": "\\ud800"}\n',
}
ROWS = {
    "no list": 7,
    "empty": [],
    "no event": [1],
    "of no kind": [1, "Nothing", PLAIN],
    "of a kind that is no text": [1, ["Opened"], PLAIN, "first"],
    "no times": ["1", "Opened", PLAIN, "first"],
    "never": [0, "Opened", PLAIN, "first"],
    "less than never": [-1, "Opened", PLAIN, "first"],
    "truly": [True, "Opened", PLAIN, "first"],
    "too often": [10**9, "Opened", PLAIN, "first"],
    "too few values": [1, "Opened", PLAIN],
    "too many values": [1, "Opened", PLAIN, "first", "second"],
    "a cause of its own": [1, "Opened", PLAIN, "because"],
    "a cause that is a list": [1, "Opened", PLAIN, ["first"]],
    "a reason of its own": [1, "Closed", PLAIN, "bored", 1.0, 1],
    "a negative time": [1, "Busy", PLAIN, -1.0],
    "an endless time": [1, "Busy", PLAIN, 10**400],
    "a time that is text": [1, "Busy", PLAIN, "1"],
    "a time that is true": [1, "Busy", PLAIN, True],
    "negative requests": [1, "Closed", PLAIN, "exit", 1.0, -1],
    "half requests": [1, "Closed", PLAIN, "exit", 1.0, 1.5],
    "an error of its own": [1, "Created", PLAIN, 1.0, "headache"],
    "no origin": [1, "OriginSeen", None],
    "a short origin": [1, "OriginSeen", ["api", "443", "https"]],
    "an origin of numbers": [1, "OriginSeen", ["api", 443, "https", "urllib3"]],
    "an origin with half a surrogate": [1, "OriginSeen", ["\ud800", "443", "https", "urllib3"]],
    "a long origin": [1, "OriginSeen", ["a" * 20_000, "443", "https", "urllib3"]],
    "reused or not": [1, "Answered", PLAIN, "true", HISTOGRAM],
    "a short histogram": [1, "Answered", PLAIN, True, [[1], [0.1]]],
    "a histogram of less than nothing": [1, "Waited", PLAIN, [[-1] * 14, [0.1] * 14]],
    "a histogram of text": [1, "Waited", PLAIN, ["1" * 14, [0.1] * 14]],
    "negative levels": [1, *LEVELS[:2], -1, *LEVELS[3:]],
    "levels of text": [1, *LEVELS[:2], "1", *LEVELS[3:]],
    "a line that is no number": [1, "AskedFor", PLAIN, "a.py", "f", "x", "new_pool"],
    "a place that is no text": [1, "Faulted", 7],
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_that_means_nothing_is_counted_and_harms_nobody(start, line, caplog):
    account = start()
    link = account.link()
    account.say(LINES[line])
    account.say(LINES[line])
    account.behave(OPENED, by=link)
    account.behave(OPENED)
    account.finish()
    assert account.opened() == 2
    assert account.faults == {"collector.line": 2}
    assert (account.collector.attached, account.collector.roster.silent) == (2, 0)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("name", ROWS)
def test_a_row_that_means_nothing_is_left_out(start, name):
    account = start()
    sound = [1, "Opened", PLAIN, "first"]
    account.say(json.dumps({"rows": [sound, ROWS[name], sound]}).encode() + b"\n")
    account.behave(OPENED)
    account.finish()
    assert account.opened() == 3
    assert account.faults == {"collector.row": 1}
    account.readings.plain()  # nothing has come through that could not be read
    assert account.readings.origins() == [ORIGIN]


def test_a_flood_of_rubbish_is_cut_off(start):
    account = start()
    account.say(b"x\n" * 100_000)
    account.behave(OPENED)
    account.finish()
    assert account.faults == {"collector.line": 100}
    assert account.opened() == 1


def test_the_names_of_faults_are_bounded(start):
    account = start()
    account.say(*(row(1, "Faulted", f"place-{number}") for number in range(500)))
    account.finish()
    assert len(account.faults) == 101
    assert account.faults["_other"] == 400


def test_what_strangers_call_themselves_is_made_printable(start):
    account = start()
    hello = {"pid": 7, "token": "x", "python": "\x1b[31m", "program": "a\nb" * 200}
    account.say(json.dumps(hello).encode() + b"\n")
    refusal = {"pid": 7, "executable": "\x1b]0;\x07", "refused": "\r\n"}
    account.say(json.dumps(refusal).encode() + b"\n")
    account.finish()
    assert list(account.collector.roster.refused) == [("?]0;?", "??")]
    assert wire.read(json.dumps(hello).encode()).hello == ("x", 7, "?[31m", ("a?b" * 200)[:200])


def test_levels_are_the_sum_over_processes_and_go_with_them(start):
    account = start()
    one, two = account.link(), account.link()
    one.tell([ev.Levels(ORIGIN, active=1, idle=2, max=10, pools=1, age_sum=0.3, oldest_age=0.2)])
    two.tell([ev.Levels(ORIGIN, active=3, idle=1, max=4, pools=2, age_sum=0.7, oldest_age=0.6)])
    assert eventually(lambda: account.level(catalog.OPEN) == 7)
    assert account.level(catalog.POOLS_OPEN) == 3
    assert account.level(catalog.AGE_SUM) == 1.0
    assert account.level(catalog.OLDEST_AGE) == 0.6
    two.ended()
    assert eventually(lambda: account.level(catalog.OPEN) == 3)
    assert account.level(catalog.AGE_SUM) == 0.3
    assert account.level(catalog.OLDEST_AGE) == 0.2
    one.ended()
    assert eventually(lambda: account.level(catalog.OPEN) == 0)
    assert account.level(catalog.AGE_SUM) == account.level(catalog.OLDEST_AGE) == 0.0


def test_what_a_short_life_had_open_is_remembered(start):
    """Its pools came and went between two looks."""
    account = start()
    account.behave(ev.Levels(ORIGIN, idle=3, max=30, pools=3), ev.Levels(ORIGIN))
    account.finish()
    assert account.readings.pool_sizes == {ORIGIN: 10}
    assert account.readings.most_pools == 3
    assert account.level(catalog.POOLS_OPEN) == 0


def test_what_was_open_at_different_moments_is_not_added_up(start):
    """A manager that keeps two pools calls three hosts in turn, between two looks."""
    account = start()
    one, two, three = (ORIGIN._replace(address=f"host-{number}") for number in range(3))
    link = account.link()
    for moment in ({one: 1, two: 1}, {two: 0, three: 1}, {one: 0, two: 1}, {two: 0, three: 0}):
        link.tell([ev.Levels(origin, max=pools, pools=pools) for origin, pools in moment.items()])
    link.ended()
    account.finish()
    assert account.readings.most_pools == 2


def test_origins_of_all_processes_are_bounded_like_those_of_one(start):
    account = start(max_origins=2)
    for number in range(5):
        account.behave(ev.Opened(ORIGIN._replace(address=f"host-{number}"), "first"))
    account.finish()
    assert len(account.readings.origins()) == 3
    assert account.opened(ORIGIN._replace(address="_other", port="")) == 3


def test_an_origin_that_never_connected_gives_its_slot_up(start):
    """Whoever chooses names in one process must not hide another one's upstreams."""
    account = start(max_origins=2)
    bogus = [ORIGIN._replace(address=f"bogus-{number}") for number in range(3)]
    first = account.link()
    for origin in bogus:
        first.tell([ev.OriginSeen(origin), ev.Failed(origin, reused=False, error="connect")])
    first.tell([ev.Levels(bogus[0], max=10, pools=1)])
    others = ORIGIN._replace(address="_other", port="")
    assert eventually(lambda: account.level(catalog.POOLS_OPEN, bogus[0]) == 1)
    account.behave(ev.OriginSeen(ORIGIN), OPENED, ev.Levels(ORIGIN, idle=1))
    assert eventually(lambda: account.opened() == 1)
    first.tell([ev.Failed(bogus[0], reused=False, error="connect")])
    assert eventually(lambda: account.readings.total(catalog.FAILED, others) == 3)
    assert account.readings.origins() == [bogus[1], others, ORIGIN]
    assert account.level(catalog.POOLS_OPEN, others) == 1
    first.ended()
    account.finish()
    assert account.level(catalog.POOLS_OPEN, others) == 0
    assert account.readings.total(catalog.FAILED, bogus[1]) == 1


def test_what_one_process_has_given_up_another_one_goes_on_with(start):
    account = start()
    heir = ORIGIN._replace(address="_other", port="")
    account.behave(OPENED, ev.OriginLeft(ORIGIN, heir), ev.Opened(heir, "first"))
    account.behave(OPENED)
    account.finish()
    assert (account.opened(), account.opened(heir)) == (2, 1)


def test_who_leaves_without_a_good_bye_is_counted_once(start):
    account = start()
    link = account.link()
    link.tell([OPENED])
    link._leave()
    assert eventually(lambda: account.collector.roster.silent == 1)
    link.tell([OPENED])  # as a daemon does that has closed all descriptors
    assert eventually(lambda: account.collector.roster.silent == 0)
    link._leave()
    account.finish()
    roster = account.collector.roster
    assert (roster.attached, roster.silent, account.opened()) == (1, 1, 2)


def test_what_comes_after_a_good_bye_makes_it_void(start):
    account = start()
    with account.connect() as connection:
        hello = wire.Hello("token", 7, "3.12", "app")
        connection.sendall(wire.greeting(hello) + wire.good_bye())
        connection.sendall(row(1, "Opened", PLAIN, "first"))
    account.finish()
    assert account.collector.roster.silent == 1


def test_a_file_that_was_left_is_read(start, tmp_path):
    account = start()
    link = account.link()
    link.tell([OPENED])
    assert eventually(lambda: account.opened() == 1)
    link._leave()
    assert eventually(lambda: account.collector.roster.silent == 1)
    link._backlog.add([OPENED, OPENED])
    link._spell()
    link._lines.append(wire.good_bye())
    link._leave_behind()
    (tmp_path / "collector.unfinished~").write_bytes(b"half")
    assert eventually(lambda: account.opened() == 3)
    account.finish()
    roster = account.collector.roster
    assert (roster.attached, roster.silent) == (1, 0)
    assert [path.name for path in tmp_path.glob("collector.*")] == ["collector.unfinished~"]


def test_an_empty_file_says_that_something_is_missing(start, tmp_path):
    account = start()
    (tmp_path / "collector.token").touch()
    account.finish()
    roster = account.collector.roster
    assert (roster.attached, roster.silent) == (1, 1)


def test_an_observer_that_fails_is_told_again(start, caplog):
    class Shaky(Observer):
        def __init__(self):
            self.heard = []
            self.fails = True

        def tell(self, events):
            if self.fails:
                self.fails = False
                raise MemoryError
            self.heard += events

    shaky = Shaky()
    account = start(shaky)
    level = ev.Levels(ORIGIN, idle=1)
    link = account.link()
    link.tell([OPENED, level])
    assert eventually(lambda: account.opened() == 1)
    account.behave(OPENED)
    account.collector.drain()
    account.finish()
    assert account.opened() == 2
    assert account.faults == {"observer.Shaky": 1}
    assert shaky.heard.count(OPENED) == 1
    assert level in shaky.heard
    assert len(caplog.records) == 1
    link.ended()


@pytest.mark.parametrize("step", ["_serve", "_gather", "drain", "_accept"])
def test_a_fault_of_its_own_does_not_end_the_account(start, monkeypatch, step):
    account = start()
    link = account.link()
    assert eventually(lambda: account.collector.attached == 1)
    failed = threading.Event()
    sound = getattr(account.collector, step)

    def broken(*args):
        if failed.is_set():
            return sound(*args)
        failed.set()
        raise ZeroDivisionError

    monkeypatch.setattr(account.collector, step, broken)
    link.tell([OPENED])
    account.behave(OPENED)
    assert failed.wait(10)
    account.behave(OPENED, by=link)
    account.finish()
    assert account.opened() == 3
    assert account.faults == {"collector.thread": 1}


@linux
def test_who_finds_no_descriptor_left_waits(start):
    """The account is exact all the same, and goes on when there are some again."""
    account = start()
    first = account.link()
    assert eventually(lambda: account.collector.attached == 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    links = [relay.Relay(account.path) for _ in range(20)]
    for link in links:
        link.hello()  # from this very process: its own descriptors are there already
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        for link in links:
            link.tell([OPENED])
        first.tell([OPENED])
        assert eventually(lambda: account.opened() >= 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for link in (first, *links):
        link.ended()
    account.finish()
    assert account.opened() == 21
    assert account.faults == {}
    assert (account.collector.attached, account.collector.roster.silent) == (21, 0)


@linux
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("door", ["closed", "open"])
def test_another_users_process_is_not_heard(start, tmp_path, door):
    """Not even where the directory lets it in."""
    account = start()
    if door == "open":
        for path in (tmp_path, *tmp_path.parents):
            if path.stat().st_uid == os.geteuid() and str(path).startswith("/tmp/"):
                path.chmod(0o755)
        (tmp_path / "collector").chmod(0o666)
    code = """
        import os, socket, sys
        os.setuid(65534)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(sys.argv[1])
            connection.sendall(sys.argv[2].encode())
            connection.recv(1)
    """
    line = row(1, "Opened", PLAIN, "first").decode()
    command = [sys.executable, "-c", textwrap.dedent(code), account.path, line]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    account.behave(OPENED)
    account.finish()
    assert account.opened() == 1
    if door == "open":
        assert account.faults == {"collector.stranger": 1}
    else:
        assert "PermissionError" in result.stderr
        assert account.faults == {}


@pytest.fixture
def many_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_five_hundred_processes_with_twenty_origins_are_ordinary(start):
    account = start()
    origins = [ORIGIN._replace(address=f"host-{number}") for number in range(20)]
    links = [account.link() for _ in range(500)]
    for turn in (1, 2):
        for link in links:
            told = [ev.Opened(origin, "first") for origin in origins]
            levels = [ev.Levels(origin, idle=turn, max=10, pools=1) for origin in origins]
            link.tell(told + levels)
    assert eventually(lambda: account.level(catalog.OPEN, origins[-1]) == 2 * 500)
    for link in links:
        link.ended()
    account.finish()
    assert [account.opened(origin) for origin in origins] == [2 * 500] * 20
    assert account.level(catalog.OPEN, origins[0]) == 0
    assert (account.collector.attached, account.collector.roster.silent) == (500, 0)
    assert account.faults == {}
