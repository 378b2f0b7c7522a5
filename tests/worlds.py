"""Where scenarios are played: their peers, and who plays one again and again."""

from __future__ import annotations

import gc
import ssl
from dataclasses import dataclass, field
from typing import NamedTuple

import urllib3

from peers import HOST, eventually

#: By name: the function that sets one up, and what its servers count.
SCENARIOS = {}


class Counts(NamedTuple):
    """What all servers of a scenario count when it is played once."""

    accepted: int = 0
    handshakes: int = 0
    answered: int = 0

    def __sub__(self, before):
        return Counts(*(now - then for now, then in zip(self, before)))


def trusting(authority):
    """Return a client's context; urllib3 checks the name, as 1.26 hides an address from it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if authority is not None:
        context.load_verify_locations(authority.file)
    return context


@dataclass
class World:
    """The peers of a scenario."""

    start: object
    tls: object
    trusting: object
    socket_path: str
    servers: list = field(default_factory=list)
    #: Of all servers, when the scenario begins.
    closed: int = 0

    def serve(self, *args, **kwargs):
        self.servers.append(self.start(*args, **kwargs))
        return self.servers[-1]

    def counts(self):
        return Counts(*(sum(getattr(one, name) for one in self.servers) for name in Counts._fields))

    def https_pool(self, port):
        return urllib3.HTTPSConnectionPool(HOST, port, ssl_context=self.trusting)


class Player:
    """Plays a scenario again and again."""

    def __init__(self, world, name):
        scenario, self.counts = SCENARIOS[name]
        self.world = world
        self.run = scenario(world)

    def play(self):
        """Play it once; return what the host saw, and what its servers counted."""
        before = self.world.counts()
        self.world.closed = sum(server.closed for server in self.world.servers)
        seen = self.run()
        gc.collect()
        eventually(lambda: self.world.counts() - before == self.counts)
        for server in self.world.servers:
            server.wait(closed=server.accepted)
        return seen, self.world.counts() - before


def scenario(accepted=0, handshakes=0, answered=0):
    def register(function):
        SCENARIOS[function.__name__] = (function, Counts(accepted, handshakes, answered))
        return function

    return register
