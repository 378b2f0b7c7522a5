"""The metric backends: a table row each, imported when there is use for one."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from poolscope.observers import Observer


@dataclass(frozen=True)
class Backend:
    """A module with ``observer(target, drain)``, and the vendor's package that it needs.

    ``target`` names the vendor's class, as module and name, that stands for a place to report to.
    """

    module: str
    vendor: str
    target: tuple[str, str]

    @property
    def installed(self) -> bool:
        """Whether the vendor's package can be imported."""
        try:
            return importlib.util.find_spec(self.vendor) is not None
        except ModuleNotFoundError:  # nor the package that it is in
            return False

    def accepts(self, target: Any) -> bool:
        """Whether ``target`` is this vendor's; looks at the class's bases, imports nothing."""
        return self.target in {(base.__module__, base.__name__) for base in type(target).__mro__}

    def observer(self, target: Any, drain: Any) -> Observer:
        """Make the observer that reports to ``target``; None means the vendor's default."""
        made: Observer = importlib.import_module(self.module).observer(target, drain)
        return made


BACKENDS = (
    Backend(
        "poolscope.backends.prometheus",
        "prometheus_client",
        ("prometheus_client.registry", "CollectorRegistry"),
    ),
    # Its API alone is heard by nobody, so that there has to be an SDK.
    Backend(
        "poolscope.backends.otel",
        "opentelemetry.sdk",
        ("opentelemetry.metrics", "MeterProvider"),
    ),
)
