"""The host's side of the stage: threads that make requests as urllib3 does, one step at a time.

A thread is a generator in a context of its own. Between any two of its hooks others may move,
drain, fork or be collected.
"""

from __future__ import annotations

import contextvars
import weakref
from types import FunctionType, SimpleNamespace

from stage import (
    CONNECTS,
    ERRORS,
    Body,
    ClosedPoolError,
    EmptyPoolError,
    HostConnection,
    HostPool,
    Meets,
    Response,
    Socket,
    UnixSocket,
)
from stage_hooks import Hooks

GONE = Meets(ConnectionResetError, "reset", "reset")  # somebody else has closed it
NEVER_SENT = Meets(ValueError, "error", "other")


def at(module, name=None):
    """Let a function stand in a module of the host's: where close() is called says why."""

    def moved(function):
        code = function.__code__
        code = code.replace(co_name=name or code.co_name)
        return FunctionType(code, {**globals(), "__name__": module})

    return moved


class Stage(Hooks):
    def __init__(self, max_origins):
        super().__init__(max_origins)
        self.pools = []
        #: Bodies of responses that somebody keeps.
        self.bodies = []
        self._all_pools = weakref.WeakSet()
        #: Connects and nested requests under way: nothing can be told of the rest of one whose
        #: middle was not seen.
        self.delicate = 0
        #: Every connection object, as far as it is still there.
        self.conns = []
        self._number = 0

    # ---- what an application does

    def new_pool(self, *what):
        pool = HostPool(self, *what)
        self.pools.append(pool)
        self._all_pools.add(pool)

    def queues(self):
        return [pool.pool.queue for pool in self._all_pools]

    def start(self, pool, plan):
        """Return a thread that makes a request: call it as long as it returns True."""
        thread = self.urlopen(pool, plan)
        context = contextvars.copy_context()
        return lambda: context.run(next, thread, "over") != "over"

    def evict(self, pool):
        """Let a manager's bounded container drop a pool."""
        if self.attached:
            container = SimpleNamespace(_container={"old": pool}, _maxsize=1)
            self.client.evict(container, "new", None)
            if pool.seen.facts in self.model.pools:
                self.model.evicted(pool.seen.facts)
        self.pools.remove(pool)

    def drop(self, pool):
        self.pools.remove(pool)

    def clear(self):
        """Let go of everything."""
        self.pools.clear()
        self.bodies.clear()

    def live_conns(self):
        """Return the connection objects that somebody may close."""
        conns = [conn for conn in (ref() for ref in self.conns) if conn is not None and conn.sock]
        return [conn for conn in conns if not self.is_delicate(self.conn(conn))]

    def is_delicate(self, facts):
        return facts is not None and (facts.connecting or (self.delicate and facts.began))

    # ---- what urllib3 does then

    @at("urllib3.connectionpool")
    def urlopen(self, pool, plan):
        conn = yield from self._get_conn(pool, plan)
        if conn is None:
            return
        if plan.answer == "no headers":  # HTTP/2 reads a body at once
            plan = plan._replace(body="read")
        met = response = None
        if pool.kind == "tunnel" and conn.sock is None:
            met = yield from self.connect(pool, conn, plan)
        if met is None:
            met, response = yield from self._make_request(pool, conn, plan)
        if met is not None:
            err = met.error()  # in a variable of this name: the hooks look there
            self.close(conn, met.reason, met.kind)
            del err
            conn = None
        elif plan.body == "held":
            self.bodies += [response]
            response = None
        else:
            yield
            if plan.body == "unread":
                self.close_response(SimpleNamespace(_connection=conn))
                return
            if plan.body == "dropped":
                return
            if plan.body in ERRORS and conn.sock is not None:
                self._error_catcher(SimpleNamespace(_connection=conn), ERRORS[plan.body])
            response = None
            yield
        yield from self._put_conn(pool, conn)

    @at("urllib3.connectionpool")
    def _get_conn(self, pool, plan):
        wait = self.wait(pool)
        yield
        if not pool.is_open:
            self.waited(wait, None, ClosedPoolError())
            return None
        while pool.block and not pool.pool.queue:
            if plan.gives_up:
                self.waited(wait, None, EmptyPoolError())
                return None
            yield
        conn = pool.pool.queue.pop() if pool.pool.queue else None
        if conn is not None:
            if conn.sock is not None and plan.stale:
                self.close(conn, "stale")
            yield
        if conn is None:
            conn = self.created(pool, lambda: HostConnection(self, pool))
            self.conns.append(weakref.ref(conn))
        self.waited(wait, conn)
        return conn

    @at("urllib3.connectionpool")
    def _put_conn(self, pool, conn):
        self.give_back(pool, conn)
        yield
        if pool.is_open and len(pool.pool.queue) < pool.pool.maxsize:
            pool.pool.queue.append(conn)
        elif conn is not None:
            facts = self.conn(conn)
            shut = facts is not None and facts.pool.shut
            self.close(conn, "pool_closed" if shut else "pool_full")

    def _make_request(self, pool, conn, plan):
        """Return what the request met with, or None, and the response."""
        self.request(pool, conn)
        if plan.answer == "never sent":
            yield
            return NEVER_SENT, None
        if conn.sock is None:
            yield
            met = yield from self.connect(pool, conn, plan)
            if met is not None:
                return met, None
        yield
        if plan.nested is not None:
            self.delicate += 1
            yield from self.urlopen(*plan.nested)
            self.delicate -= 1
        if plan.answer == "given up":  # and another one made without a word
            plan = plan._replace(answer="ok", nested=None)
            return (yield from self._make_request(pool, conn, plan))
        return self.receive(conn, plan)

    def receive(self, conn, plan):
        if conn.sock is None:
            return GONE, None
        if plan.answer in ERRORS:
            if plan.answer == "reset":
                self.getresponse(conn, None, "reset")
            return ERRORS[plan.answer], None
        response = None
        if plan.answer == "close":
            response = Response(will_close=True, fp=Body(self))
            self.getresponse(conn, response, "server_close")
        if plan.answer != "no headers":
            self.headers(conn)
        return None, response

    def connect(self, pool, conn, plan):
        """Connect; return what it met with, or None."""
        if pool.kind == "unix":  # with a connect() of its own
            conn.sock = UnixSocket()
            return None
        self.clock.now += 1 / 1024  # no two connections of one object at the same time
        self.delicate += 1
        call = self.connect_begins(conn)
        yield
        met = yield from self._connect(pool, conn, plan.connect)
        self.connected(call, conn, met)
        self.delicate -= 1
        return met

    def _connect(self, pool, conn, how):
        call, met = self.tcp(conn), CONNECTS["tcp"].get(how)
        yield
        seen = self.tcp_opened(call, met)
        if met is not None:
            return met
        yield
        self.has_socket(conn, seen)
        if pool.kind == "tunnel":
            yield from self._handshake(conn, seen, None, tls_in_tls=False)
            yield
            if how in CONNECTS["tunnel"]:
                self._tunnel(conn, CONNECTS["tunnel"][how])
                return CONNECTS["tunnel"][how]
        if pool.scheme == "http":
            return None
        met = CONNECTS["tls"].get(how)
        yield from self._handshake(conn, seen, met, tls_in_tls=pool.kind == "tunnel")
        return met

    def _handshake(self, conn, seen, met, *, tls_in_tls):
        call = self.handshake(conn, tls_in_tls=tls_in_tls)
        yield
        self.handshaken(call, conn, met)
        self.has_socket(conn, seen)

    def has_socket(self, conn, seen):
        conn.sock = Socket()
        if seen is not None:
            self.watch(seen, conn)

    # ---- where close() is called

    # (What is called self there is the connection, or a response on it: the hooks look whether it
    # is this one.)

    def close_by_hand(self, conn):
        self.close(conn, "explicit")

    @at("http.client")
    def getresponse(stage, self, response, reason):  # noqa: N805 - see above
        stage.close(self, reason, "reset", response)

    @at("http.client")
    def _tunnel(stage, self, met):  # noqa: N805 - see above
        stage.close(self, met.reason)

    @at("urllib3.response", "close")
    def close_response(stage, self):  # noqa: N805 - see above
        stage.close(self._connection, "unread")

    @at("urllib3.response")
    def _error_catcher(stage, self, met):  # noqa: N805 - see above
        try:
            raise met.error  # noqa: TRY301 - the hooks look at the exception in flight
        except met.error:
            stage.close(self._connection, met.reason)

    @at("urllib3.connectionpool", "close")
    def shut(self, pool):
        self.close_pool(pool)
        pool.is_open = False
        self._close_pool_connections(pool.pool.queue, "pool_closed")

    @at("urllib3.connectionpool")
    def _close_pool_connections(self, queue, reason):
        while queue:
            if (conn := queue.pop()) is not None:
                self.close(conn, reason)
