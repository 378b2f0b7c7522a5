"""The way in for OpenTelemetry's zero-code tools: an instrumentor that entry points name."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation import instrumentor
from opentelemetry.metrics import get_meter_provider

import poolscope

_instrumentor: Any = instrumentor  # it hides its names from type checkers


class PoolscopeInstrumentor(_instrumentor.BaseInstrumentor):  # type: ignore[misc] # it is Any to type checkers
    """Attaches poolscope and reports to OpenTelemetry alone.

    ``opentelemetry-instrument`` and the Kubernetes operator find it by its entry point;
    ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=poolscope`` keeps it out.
    """

    def instrumentation_dependencies(self) -> Collection[str]:
        """Name what has to be installed for there to be anything to see."""
        return ("urllib3 >= 1.26",)

    def _instrument(self, **kwargs: Any) -> None:
        poolscope.instrument(kwargs.get("meter_provider") or get_meter_provider())

    def _uninstrument(self, **kwargs: Any) -> None:
        poolscope.uninstrument()
