"""OpenTelemetry's current span, for a client that tells it something (``span_attributes``)."""

from __future__ import annotations

from opentelemetry.context import Context, get_current
from opentelemetry.trace import Span, get_current_span


def recording() -> Span | None:
    """Return the current span if it takes attributes."""
    span = get_current_span()
    return span if span.is_recording() else None


def sampled() -> Context | None:
    """Return the current context if its span is sampled: then there is a trace to lead to."""
    flags = get_current_span().get_span_context().trace_flags
    return get_current() if flags.sampled else None
