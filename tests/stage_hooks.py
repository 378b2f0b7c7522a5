"""Both sides of the stage: each hook of poolscope's urllib3 client, and what the model is told.

A hook that comes after the host's call runs if the one before it has; none does while detached.
"""

from __future__ import annotations

import math
import weakref

from naive import ConnFacts, Model
from poolscope.clients.urllib3 import Client
from poolscope.events import Created, Failed, FoundDropped, Handshake, WaitTimedOut
from poolscope.scope import Scope
from stage import PROXY, UNIX, Clock, Pulse, UnixSocket


class Hooks:
    def __init__(self, max_origins):
        self.clock = Clock()
        self.scope = Scope(max_origins, held_after=math.inf)  # the model knows of none
        self.scope.clock = self.clock
        self.client = Client(self.scope, Pulse())
        self.attached = False
        self.begin()

    def begin(self):
        """Start an empty history."""
        self.model = Model(self.clock, self.scope.max_origins)
        #: By connection: its socket, weakly, or the body that outlives it.
        self.watched = {}

    # ---- what is known of the host's objects in this process

    def is_ours(self, facts):
        return facts is not None and facts.pool in self.model.pools

    def pool(self, host_pool):
        facts = host_pool.seen.facts
        if facts not in self.model.pools:
            facts = host_pool.seen.facts = self.model.pool(
                host_pool.origin, blocking=host_pool.block, maxsize=host_pool.pool.maxsize
            )
        return facts

    def conn(self, conn):
        facts = conn and conn.seen.facts
        return facts if self.is_ours(facts) else None

    def bind(self, pool_facts, conn):
        facts = conn.seen.facts = ConnFacts(pool_facts)
        facts.ref = weakref.ref(conn)
        if conn.sock is not None and pool_facts in self.model.pools:
            self.place(pool_facts, conn)
            self.model.adopted(facts)
            self.watch(facts, conn)
        return facts

    def watch(self, facts, conn):
        """Remember which socket a connection is."""
        if self.is_ours(facts) and facts.live is not None:
            self.watched[facts.wire] = weakref.ref(conn.sock)

    def find(self, conn, facts, opened_at):
        """Take note of a connection whose opening no hook saw."""
        if facts.live is None and conn.sock is not None:
            self.place(facts.pool, conn)
            self.model.opened(facts, opened_at)
            self.watch(facts, conn)

    def place(self, pool, conn):
        if isinstance(conn.sock, UnixSocket):
            origin = pool.origin._replace(address=UNIX, port="")
            if origin != pool.origin:
                pool.origin, pool.placed = origin, None

    # ---- checkouts

    def wait(self, pool):
        if not self.attached:
            return None
        state = self.client.wait(pool)
        assert (state is not None) == pool.block
        if not pool.block:
            return None
        facts = self.pool(pool)
        facts.waiting += 1
        return state, facts, self.clock.now

    def waited(self, wait, conn, error=None):
        if wait is None:
            return
        state, pool, began = wait
        self.client.waited(state, conn, error)
        pool.waiting -= 1
        seconds = self.clock.now - began
        ours = pool in self.model.pools
        if error is None:
            facts = self.conn(conn) or self.bind(pool, conn)
            if self.is_ours(facts):
                self.model.waits[self.model.place_of(facts.pool)].add(seconds)
        elif ours and type(error).__name__ == "EmptyPoolError":
            self.model.waits[self.model.place_of(pool)].add(seconds)
            self.model.tell(WaitTimedOut, pool)

    def created(self, pool, make):
        """Make a connection object."""
        state = self.client.create(pool) if self.attached else None
        conn = make()
        if state is not None:
            self.client.created(state, conn, None)
            self.bind(self.pool(pool), conn)
        return conn

    def give_back(self, pool, conn):
        if not self.attached:
            return
        self.client.give_back(pool, conn)
        facts = self.conn(conn)
        if facts is not None:
            if facts.began is not None:
                self.find(conn, facts, facts.began)
            self.model.given_back(facts)

    # ---- requests

    def request(self, pool, conn):
        if not self.attached:
            return
        self.client.request(pool, conn)
        facts = self.conn(conn) or self.bind(self.pool(pool), conn)
        if facts.requesting:
            self.model.over(facts)
        if facts.began is None:
            self.model.began(facts)
        facts.requesting = True

    def headers(self, conn):
        if not self.attached:
            return
        self.client.headers(None)
        facts = self.conn(conn)
        if facts is not None and facts.requesting:
            self.find(conn, facts, facts.began)
            self.model.answered(facts)

    # ---- connecting

    def connect_begins(self, conn):
        if not self.attached:
            return None
        state = self.client.connect(conn)
        facts = self.conn(conn)
        if facts is not None:
            facts.connecting = True
            if facts.began is None:
                self.model.began(facts)
        return state, facts, self.clock.now

    def connected(self, call, conn, met):
        """End a connect, well or (``met``) otherwise."""
        if call is None:
            return
        state, facts, began = call
        self.client.connected(state, None, met and met.error())
        if not self.is_ours(facts):
            return
        facts.connecting = False
        kind = met.kind if met else ""
        self.model.tell(Created, facts.pool, self.clock.now - began, kind)
        if met and facts.began is not None:
            self.model.over(facts)
            self.model.tell(Failed, facts.pool, False, "connect")  # noqa: FBT003 - an event's field

    def tcp(self, conn):
        return (self.client.tcp(conn), self.conn(conn)) if self.attached else (None, None)

    def tcp_opened(self, call, met):
        """Return what is known of the object, if this opening was seen."""
        state, facts = call
        if state is not None:
            self.client.tcp_opened(state, None, met and met.error())
        if met is not None or not self.is_ours(facts):
            return None
        self.model.opened(facts, self.clock.now)
        return facts

    def handshake(self, conn, *, tls_in_tls=False):
        if not self.attached:
            return None
        state = self.client.handshake(conn.sock, None, tls_in_tls)
        facts = self.conn(conn)
        facts = facts if facts is not None and facts.connecting else None
        to = PROXY if conn.proxy and not tls_in_tls else facts and facts.pool.origin
        return state, facts, to, self.clock.now

    def handshaken(self, call, conn, met):
        state, facts, to, began = call or (None, None, None, 0)
        if state is not None:
            self.client.handshaken(state, conn.sock, met and met.error())
        if self.is_ours(facts):
            told = Handshake(
                self.model.place(to),
                self.clock.now - began,
                version="" if met else "1.3",
                error=met.kind if met else "",
            )
            self.model.told.append(told)

    # ---- closing

    def close(self, conn, reason, kind="other", response=None):
        """Close a connection; ``response`` is the one that goes on to own the socket."""
        if self.attached:
            self.client.close(conn)
            facts = self.conn(conn)
            if facts is not None and (conn.sock is not None or facts.began is not None):
                self._closed(conn, facts, reason, kind, response)
        conn.sock = None

    def _closed(self, conn, facts, reason, kind, response):
        now = self.clock.now
        self.find(conn, facts, now if facts.began is None else facts.began)
        wire = facts.live
        if facts.began is not None and not facts.connecting and response is None:
            self.model.failed(facts, kind)
        if wire is None:
            return
        if response is not None and response.fp is not None:
            wire.reason = reason
            response.fp.seen.facts = wire
            self.watched[wire] = weakref.ref(response.fp)
            return
        if reason == "stale":
            self.model.tell(FoundDropped, facts.pool, "stale", now - wire.idle_since)
        self.model.ended(wire, reason)

    def close_pool(self, pool):
        if self.attached:
            self.client.close_pool(pool)
            if pool.seen.facts is not None:
                pool.seen.facts.gone = pool.seen.facts.shut = True

    # ---- the garbage collector

    def body_gone(self, seen):
        if seen.facts is not None:
            self.model.ended(seen.facts, seen.facts.reason)

    def conn_gone(self, seen):
        if self.is_ours(seen.facts) and seen.facts.live:
            self.model.ended(seen.facts.wire, "collected")

    def pool_gone(self, seen, queue):
        if seen.facts is not None:
            seen.facts.gone = True
        evicted = seen.facts is not None and seen.facts.evicted
        self._close_pool_connections(queue, "evicted" if evicted else "collected")

    # ---- attach and detach

    def dismiss(self):
        self.attached = False
        self.scope.dismiss()
        for wire in self.model.wires:
            if wire.since is not None:
                wire.missed = True
                self.model.rests(wire)

    def settle(self, still_open, is_checked_out):
        """Attach again: what the hooks did not see is read off the host's objects."""
        self.scope.settle(
            lambda connection: "" if still_open(connection) else "explicit", is_checked_out
        )
        for wire in list(self.model.wires):
            if not self.is_still_open(wire):
                self.model.ended(wire, "explicit")
            elif wire.missed and self.is_checked_out(wire):
                wire.since = self.clock.now
        self.attached = True

    def finish(self):
        self.attached = False
        self.scope.finish()
        self.model.exit()

    def is_still_open(self, wire):
        watched = self.watched.get(wire)
        if watched is None:
            return wire.facts.connecting
        if wire.reason:  # a response owns it now
            return watched() is not None
        conn = wire.facts.ref()
        return conn is not None and watched() is not None and watched() is conn.sock

    def is_checked_out(self, wire):
        conn = wire.facts.ref()
        return bool(wire.reason) or not any(conn in queue for queue in self.queues())
