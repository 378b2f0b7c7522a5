"""Whose connections are not counted: those of telemetry's own exporters."""

from __future__ import annotations

import sys
from typing import Any

# What opentelemetry.instrumentation.utils sets as well, for those who know no other.
_PLAIN_KEY = "suppress_instrumentation"


def is_suppressed() -> bool:
    """Tell whether OpenTelemetry's suppression key is set where this is called.

    Exporters set it around what they send. The HTTP-only key is another one and not looked at:
    the requests and botocore instrumentors set that around the requests of their users.
    """
    context: Any = sys.modules.get("opentelemetry.context")
    if context is None:
        return False
    keys = (getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", ""), _PLAIN_KEY)
    return any(key and context.get_value(key) for key in keys)
