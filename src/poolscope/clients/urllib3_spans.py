"""Tells OpenTelemetry's spans of the connections used under them, if a setting asks for it.

A span that is recording when a request takes its connection gets ``poolscope.reused``; when that
opens a connection, ``poolscope.cause`` and ``poolscope.connection.create_time`` (seconds) too. Of
several requests under one span the last one's stay. Latencies keep the context, for exemplars.
"""

from __future__ import annotations

from typing import Any

from poolscope import spans
from poolscope.catalog import CREATE_TIME, OPENED, REQUEST
from poolscope.clients.urllib3 import Client
from poolscope.clients.urllib3_sockets import current
from poolscope.records import Carrier, Connection

[_REUSED], [_CAUSE] = REQUEST.attributes, OPENED.attributes


class TracedClient(Client):
    """The hooks of urllib3 for spans: a request costs some microseconds more."""

    def request(self, host_pool: Any, conn: Any) -> None:
        """Before ``_validate_conn``: a request takes its connection."""
        super().request(host_pool, conn)
        carrier, span = self.carrier(conn), spans.recording()
        if carrier is not None and span is not None:
            connection = carrier.connection
            reused = connection is not None and not connection.reason and connection.is_reused
            span.set_attribute(_REUSED, reused)

    def usable(self, connection: Connection | None, seconds: float) -> None:
        """After ``connect``."""
        if span := spans.recording():
            span.set_attribute(CREATE_TIME.name, seconds)
            self._tell_cause(connection)

    def headers(self, headers: Any) -> None:
        """Before the headers are checked, the long way: it asks for the context."""
        carrier = current.get()
        if carrier is not None and carrier.taken_at:
            self._heard(carrier)

    def context(self) -> Any:
        """Return what a latency is remembered with."""
        return spans.sampled()

    def _answered(self, carrier: Carrier) -> None:
        super()._answered(carrier)
        connection = carrier.connection
        # A drain was at work when it was connected, or it connected past our hooks.
        if connection is not None and connection.answered == 1:
            self._tell_cause(connection)

    def _tell_cause(self, connection: Connection | None) -> None:
        span = spans.recording()
        if connection is None or connection.adopted or span is None:
            return
        if cause := self.scope.cause(connection):
            span.set_attribute(_CAUSE, cause)
