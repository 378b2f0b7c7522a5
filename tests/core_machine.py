"""The machine that plays random histories on the stage and compares the core with the model."""

from __future__ import annotations

from collections import Counter, defaultdict

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from prometheus_client import CollectorRegistry

from naive import Sums, merge
from naive_totals import LEVELS, exposed, exposition, kept
from poolscope import events as ev
from poolscope import wire
from poolscope.backends.prometheus import PrometheusObserver
from poolscope.clients.urllib3 import is_checked_out, still_open
from poolscope.observers import Observer
from poolscope.readings import Readings
from stage import ANSWERS, BODIES, CONNECTS, Plan
from stage_threads import Stage

SEVERAL = (ev.Answered, ev.Waited, ev.Busy)


class Heard(Observer):
    """Keeps what it was told, and holds the plain-JSON spelling to it."""

    def __init__(self, clock):
        self.clock = clock
        self.events = []
        #: By origin, the last that was told.
        self.levels = {}
        self.ends = 0

    def tell(self, events):
        self.clock()  # a drain may be interrupted here, too
        rows = [(1, event) for event in events]
        heard = [wire.read(line) for line in wire.spelled(rows)]
        assert [row for message in heard for row in message.rows] == rows
        self.events += events
        for event in events:
            if isinstance(event, ev.Levels):
                self.levels[event.origin] = event
            elif isinstance(event, ev.OriginLeft):
                assert self.levels.pop(event.origin, None) in (None, ev.Levels(event.origin))

    def forked(self):
        self.events, self.levels = [], {}

    def ended(self):
        self.ends += 1

    def take(self):
        events, self.events = self.events, []
        return events


HOW_CONNECTS = (*("ok",) * 12, *(how for by in CONNECTS.values() for how in by))
#: All sums of these are exact, so everything can be compared for equality.
PAUSES = (0.0, 1 / 1024, 1 / 64, 0.25, 3.0, 4096.0)

seldom = st.sampled_from((False, False, False, True))
plans = st.builds(
    Plan,
    connect=st.sampled_from(HOW_CONNECTS),
    answer=st.sampled_from(ANSWERS),
    body=st.sampled_from(BODIES),
    stale=seldom,
    gives_up=seldom,
    nested=st.none(),
)
pools = st.tuples(
    st.sampled_from(("http", "http", "https", "tunnel", "unix")),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from((1, 1, 2, 10)),
)
picks = st.integers(0, 5)
several = st.tuples(
    st.sampled_from((100, 0, 1, 2, 3, 5, 7, 10, 100, 100, 100)), st.sampled_from(PAUSES)
)


def pick(items, number):
    return items[number % len(items)]


class Core(RuleBasedStateMachine):
    @initialize(
        max_origins=st.sampled_from((1, 2, 3, 100)), pools=st.lists(pools, min_size=1, max_size=4)
    )
    def begin(self, max_origins, pools):
        self.stage = Stage(max_origins)
        self.is_crowded = max_origins < 100
        for pool in pools:
            self.new_pool(*pool)
        self.threads = []
        self.first, self.second = Heard(self.stage.clock), Heard(self.stage.clock)
        self.readings = Readings()
        self.backend = PrometheusObserver(self.stage.scope.drain)
        self.registry = CollectorRegistry()
        self.registry.register(self.backend)
        self.observers = [self.first, self.second, self.readings, self.backend]
        self.late = []
        self.forget()
        self.attach()

    def new_pool(self, kind, host, blocking, maxsize):
        """Make a pool; none that blocks where origins give way.

        Whether a wait comes before its pool has a slot depends on when a drain comes.
        """
        self.stage.new_pool(kind, host, blocking and not self.is_crowded, maxsize)

    def forget(self):
        self.compared = 0
        self.known = []
        self.latency, self.waits = defaultdict(Sums), defaultdict(Sums)
        self.busy = defaultdict(float)
        self.any_order = False

    # ---- what happens

    @rule(number=picks, plan=plans, inner=st.none() | st.tuples(picks, plans), steps=several)
    def request(self, number, plan, inner, steps):
        pools = self.stage.pools
        if inner is not None:
            plan = plan._replace(nested=(pick(pools, inner[0]), inner[1]))
        self.threads.append(self.stage.start(pick(pools, number), plan))
        self.step(-1, *steps)

    @rule(requests=st.lists(st.tuples(picks, plans, st.none(), several), min_size=2, max_size=5))
    def requests(self, requests):
        for each in requests:
            self.request(*each)

    @precondition(lambda self: self.threads)
    @rule(number=picks, steps=several)
    def go_on(self, number, steps):
        self.step(number, *steps)

    def step(self, number, steps, pause):
        """Let one thread make so many steps, each of which takes so long."""
        thread = pick(self.threads, number)
        for _ in range(steps):
            if not thread():
                self.threads.remove(thread)
                return
            self.stage.clock.now += pause

    @rule(seconds=st.sampled_from(PAUSES))
    def time_passes(self, seconds):
        self.stage.clock.now += seconds

    @rule(number=picks, how=st.sampled_from(("close", "drop", "evict")), another=pools)
    def end_pool(self, number, how, another):
        """Lose a pool and make another one."""
        pool = pick(self.stage.pools, number)
        ends = {"close": self.stage.shut, "drop": self.stage.drop, "evict": self.stage.evict}
        ends[how](pool)
        self.new_pool(*another)

    @rule(number=picks)
    def close_by_hand(self, number):
        conns = self.stage.live_conns()
        if conns:
            self.stage.close_by_hand(pick(conns, number))

    @rule(number=picks)
    def collect(self, number):
        """Lose a response whose body is unread, or else an idle connection."""
        if self.stage.bodies:
            self.stage.bodies.pop(number % len(self.stage.bodies))
        elif self.stage.pools:
            queue = pick(self.stage.pools, number).pool.queue
            queue[:] = [None] * len(queue)

    # ---- who looks, and when

    @rule(after=st.integers(0, 4), what=st.sampled_from(("drain", "collect")), number=picks)
    def interrupt(self, after, what, number):
        """Let another thread drain, or the garbage collector run, in the middle of a hook."""

        def act():
            self.any_order = True  # what happens inside a hook may come before or after it
            if what == "drain":
                self.stage.scope.drain()
            else:
                self.collect(number)

        pending = self.stage.clock.interruptions
        pending += [lambda: None] * (after - len(pending))
        pending.append(act)

    @rule(how=st.sampled_from(("drain", "compare", "scrape")))
    def look(self, how):
        if how == "drain":
            self.stage.scope.drain()
        elif self.stage.attached:
            self.compare()
            if how == "scrape":
                self.same_exposition()

    def compare(self):
        self.stage.clock.interruptions.clear()
        self.stage.scope.drain()
        self.same()

    @precondition(lambda self: self.stage.attached)
    @rule()
    def late_observer(self):
        late = Heard(self.stage.clock)
        self.compare()
        self.stage.scope.introduce([late, self.first])
        origins = self.stage.model.origins
        assert Counter(late.take()) == Counter(
            event
            for origin in origins
            for event in (ev.OriginSeen(origin), self.stage.model.levels(origin))
        )
        self.late.append(late)

    @precondition(lambda self: self.stage.attached and not self.stage.delicate)
    @rule()
    def detach(self):
        self.compare()
        self.stage.dismiss()
        self.is_over()

    @precondition(lambda self: not self.stage.attached and not self.stage.delicate)
    @rule()
    def attach(self):
        self.stage.clock.interruptions.clear()
        self.stage.scope.introduce(self.observers)
        for one in (self.first, self.second):
            assert Counter(one.take()) == Counter(map(ev.OriginSeen, self.known))
        self.stage.settle(still_open, is_checked_out)
        self.any_order = True  # it goes by origin, the model by age
        self.same()

    @rule(really=seldom)
    def fork(self, really):
        """Go on as the child; greenlets go on there."""
        if not really:
            return
        self.stage.clock.interruptions.clear()
        self.stage.scope.begin()
        self.stage.begin()
        for one in (*self.observers, *self.late):
            one.forked()
        self.forget()

    # ---- what must hold

    def same_exposition(self, levels=None):
        """Hold a scrape to what comes of the same facts."""
        expected = exposition(self.stage.model, levels or self.stage.model.levels)
        assert exposed(self.registry.collect()) == expected
        assert kept(self.readings) == expected

    def same(self, levels=None):
        """All were told the same, and that is what the model says."""
        self.is_sound = False
        model, told = self.stage.model, self.first.take()
        heard = [self.first, self.second, *self.late]
        for one in heard[1:]:
            assert one.take() == told
        singles = [event for event in told if not isinstance(event, (*SEVERAL, ev.Levels))]
        expected = model.told[self.compared :]
        if self.any_order:
            assert Counter(singles) == Counter(expected)
        else:
            assert singles == expected
        self.add_up(told)
        assert self.latency == model.latency
        assert self.waits == model.waits
        assert self.busy == model.busy()
        expected = {origin: (levels or model.levels)(origin) for origin in model.origins}
        for one in heard:
            assert one.levels == expected
        self.compared, self.known = len(model.told), list(model.origins)
        self.any_order = False
        self.is_sound = True

    def is_over(self):
        """Nobody is told anything any more, after levels of nothing."""
        self.same(ev.Levels)
        assert not self.stage.scope.attached
        for one in (self.first, self.second, *self.late):
            one.levels = {}
            assert one.ends == 1
            one.ends = 0
        self.late = []

    def add_up(self, told):
        for event in told:
            if isinstance(event, ev.OriginLeft):
                merge(self.latency, event.origin, event.heir)
                merge(self.waits, event.origin, event.heir)
                if event.origin in self.busy:
                    self.busy[event.heir] += self.busy.pop(event.origin)
            elif isinstance(event, ev.Busy):
                assert event.seconds > 0
                self.busy[event.origin] += event.seconds
            elif isinstance(event, ev.Answered):
                self.latency[event.origin, event.reused].merge(event.latency)
            elif isinstance(event, ev.Waited):
                self.waits[event.origin].merge(event.wait)
            elif isinstance(event, ev.Levels):
                assert min(getattr(event, name) for name in ("active", "idle", *LEVELS)) >= 0

    def teardown(self):
        if getattr(self, "is_sound", False):
            self.exit()
        if hasattr(self, "stage"):
            self.threads.clear()
            self.stage.clear()

    def exit(self):
        if not self.stage.attached:
            self.attach()
        self.compare()
        self.same_exposition()
        self.stage.finish()
        self.any_order = True  # as above
        self.is_over()
        self.same_exposition(ev.Levels)
