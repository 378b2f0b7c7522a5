"""Plays a history with one tracer in a process of its own; prints what everybody counted.

``python tracers.py NAME FIRST``, where FIRST is who attaches first, "ours" or "theirs".
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import ssl
import sys
import tempfile
from abc import ABC, abstractmethod
from importlib import import_module
from pathlib import Path

import requests
import trustme
import urllib3
import urllib3.contrib.socks
import urllib3.util.ssl_
from urllib3._collections import RecentlyUsedContainer

import poolscope
from peers import HOST, Server, fin

OWNERS = (
    urllib3.connection,
    urllib3.connection.HTTPConnection,
    urllib3.connection.HTTPSConnection,
    urllib3.connectionpool,
    urllib3.HTTPConnectionPool,
    urllib3.HTTPSConnectionPool,
    urllib3.PoolManager,
    urllib3.contrib.socks.SOCKSConnection,
    urllib3.util.ssl_,
    RecentlyUsedContainer,
    requests.Session,
    requests.adapters.HTTPAdapter,
)


class Tracer(ABC):
    """A neighbour: how it comes and goes, and what it has counted."""

    #: What has to be installed.
    package = ""
    #: Calls that it reports in one round of traffic.
    per_round = 16
    #: What it leaves behind when it goes.
    keeps: frozenset[str] = frozenset()

    def __init__(self):
        self.calls = []
        self.vendor = import_module(self.package)

    @abstractmethod
    def attach(self): ...

    @abstractmethod
    def detach(self): ...

    def listening(self):
        """Return a context for the traffic."""
        return contextlib.nullcontext()


class OpenTelemetryUrllib3(Tracer):
    package = "opentelemetry.instrumentation.urllib3"
    instrumentor = "URLLib3Instrumentor"

    def __init__(self):
        super().__init__()
        self.instrumentor = getattr(self.vendor, self.instrumentor)()
        sdk = import_module("opentelemetry.sdk.trace")
        collect = sdk.SpanProcessor()
        collect.on_end = self.calls.append
        self.provider = sdk.TracerProvider()
        self.provider.add_span_processor(collect)

    def attach(self):
        self.instrumentor.instrument(tracer_provider=self.provider)

    def detach(self):
        self.instrumentor.uninstrument()


class OpenTelemetryRequests(OpenTelemetryUrllib3):
    package = "opentelemetry.instrumentation.requests"
    instrumentor = "RequestsInstrumentor"
    per_round = 8  # what goes through requests


class Datadog(Tracer):
    package = "ddtrace"
    per_round = 24  # two for what goes through requests

    def __init__(self):
        os.environ |= {
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
            "DD_REMOTE_CONFIGURATION_ENABLED": "false",
            "DD_TRACE_STARTUP_LOGS": "false",
        }
        super().__init__()
        trace = import_module("ddtrace.trace")
        # A filter that returns nothing: what is collected is not sent.
        collect = type("Collect", (trace.TraceFilter,), {"process_trace": self.collect})()
        trace.tracer.configure(trace_processors=[collect])
        names = ("urllib3", "requests")
        self.patches = [import_module(f"ddtrace.contrib.internal.{name}.patch") for name in names]

    def collect(self, spans):
        self.calls += spans

    def attach(self):
        for each in self.patches:
            each.patch()

    def detach(self):
        for each in self.patches:
            each.unpatch()


class Sentry(Tracer):
    """Wraps http.client for good; without a client it does nothing."""

    package = "sentry_sdk"

    def attach(self):
        self.vendor.init(
            dsn="http://key@localhost/1",
            traces_sample_rate=1.0,
            before_send_transaction=self.collect,
        )

    def detach(self):
        self.vendor.get_client().close()
        self.vendor.init()

    def collect(self, event, _hint):
        """Return nothing: what is collected is not sent."""
        self.calls += [span for span in event["spans"] if span["op"] == "http.client"]

    def listening(self):
        return self.vendor.start_transaction(name="round")


class NewRelic(Tracer):
    """Can't be taken out: without a transaction it does nothing."""

    package = "newrelic.agent"
    keeps = frozenset({"_make_request", "endheaders", "request", "send", "_nr_instrumented"})
    application = None
    attached = False

    def attach(self):
        self.attached = True
        if self.application is None:
            settings = Path(tempfile.mkdtemp(), "newrelic.ini")
            settings.write_text("[newrelic]\ndeveloper_mode = true\napp_name = ours\n")
            self.vendor.initialize(str(settings))
            self.application = self.vendor.register_application(timeout=10)

    def detach(self):
        self.attached = False

    @contextlib.contextmanager
    def listening(self):
        if not self.attached:
            yield
            return
        with self.vendor.BackgroundTask(self.application, "round"):
            yield
            self.calls += self.vendor.current_transaction().root_span.children


TRACERS = {
    "otel-urllib3": OpenTelemetryUrllib3,
    "otel-requests": OpenTelemetryRequests,
    "ddtrace": Datadog,
    "sentry": Sentry,
    "newrelic": NewRelic,
}


class Ours:
    """poolscope, as one that comes and goes like them."""

    def attach(self):
        poolscope.instrument(())

    def detach(self):
        poolscope.uninstrument()


def handler(peer):
    """Answer, or hang up if asked to."""
    for request in peer:
        peer.server.bump("asked")
        if request.target == "/fin":
            fin(peer)
            return
        peer.answer()


PATHS = ("/", "/", "/fin", "/")


def traffic(servers, ca):
    """Ask each server over urllib3 and over requests: one request of four gets no answer."""
    for server in servers:
        with urllib3.PoolManager(ca_certs=ca) as manager, requests.Session() as session:
            session.verify = ca
            for path in PATHS:
                with contextlib.suppress(urllib3.exceptions.HTTPError):
                    manager.request("GET", server.url + path, retries=False)
                with contextlib.suppress(requests.RequestException):
                    session.get(server.url + path)
    gc.collect()  # an error's traceback holds its pool


def counted(server):
    """Return what the server has counted: opened, closed, handshakes, answered, failed."""
    server.wait(closed=server.accepted)
    failed = server.asked - server.answered
    return [server.accepted, server.closed, server.handshakes, server.answered, failed]


def seen(server):
    """Return what poolscope has counted of it, in the same order."""
    for row in poolscope.snapshot()["origins"]:
        if row["port"] == str(server.port):
            connections, requests_ = row["connections"], row["requests"]
            return [
                connections["opened"],
                connections["closed"],
                row["handshakes"]["completed"],
                requests_["answered"],
                sum(requests_["failed"].values()),
            ]
    return [0] * 5


def attributes():
    """Return every attribute that somebody might have put something else in."""
    return {
        f"{owner.__name__}.{name}": id(value)
        for owner in OWNERS
        for name, value in vars(owner).items()
    }


class History:
    """Rounds of traffic while the two come and go, and what each counted in each round."""

    def __init__(self, tracer, servers, ca):
        self.parties = {"ours": Ours(), "theirs": tracer}
        self.tracer, self.servers, self.ca = tracer, servers, ca
        self.attached = []
        self.rounds = []
        self.before = attributes()

    def attach(self, who):
        self.parties[who].attach()
        self.attached.append(who)
        self.play()

    def detach(self, who):
        self.parties[who].detach()
        self.attached.remove(who)
        self.play()

    def changed(self):
        """Name the attributes that are not what they were, but for what the tracer keeps."""
        changed = dict(self.before.items() ^ attributes().items())
        return [name for name in changed if name.rpartition(".")[2] not in self.tracer.keeps]

    def play(self):
        counts = [look(server) for server in self.servers for look in (counted, seen)]
        self.tracer.calls.clear()
        with self.tracer.listening():
            traffic(self.servers, self.ca)
        now = [look(server) for server in self.servers for look in (counted, seen)]
        grown = [[b - a for a, b in zip(*pair)] for pair in zip(counts, now)]
        self.rounds.append(
            {
                "attached": list(self.attached),
                "servers": grown[0::2],
                "ours": grown[1::2],
                "theirs": len(self.tracer.calls),
                "changed": self.changed(),
            }
        )


def main(name, first):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    ca = str(Path(tempfile.mkdtemp(), "ca.pem"))
    authority.cert_pem.write_to_path(ca)
    history = History(TRACERS[name](), [Server(handler), Server(handler, tls=context)], ca)
    gc.freeze()
    both = [first, *{"ours", "theirs"} - {first}]
    for leaving in (both, both[::-1]):
        for who in both:
            history.attach(who)
        for who in leaving:
            history.detach(who)
    told = {"rounds": history.rounds, "faults": poolscope.snapshot()["faults"]}
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
