"""``poolscope run --otlp``: exports the account of all processes over OTLP, from ours alone."""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from poolscope.config import ConfigError
from poolscope.fetching import without_secrets
from poolscope.observers import Observer

_GRPC_PORT = 4317  # as the protocol's specification has it; HTTP's is 4318
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HEADERS = ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
_SECRET = 3  # characters; what is shorter is no secret, and stands in every other word
_LAST_WORDS = 3.0  # seconds for the last export, when the command has ended


def endpoint(option: str | None, environ: Mapping[str, str]) -> str:
    """Return where to export to: the option, or what the standard variables say; "" is nowhere.

    Raises :exc:`ConfigError` for what is no address.
    """
    found = option
    if found is None and _is_on(environ):
        found = next((environ[name] for name in _ENDPOINTS if environ.get(name)), "")
    if found and not _is_url(found):
        raise ConfigError(
            "an OTLP endpoint is a URL such as http://localhost:4318, not "
            f"{without_secrets(found)!r}."
        )
    return found or ""


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # half an IPv6 address, a port that is no number
        return False


def _is_on(environ: Mapping[str, str]) -> bool:
    disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return not disabled and environ.get("OTEL_METRICS_EXPORTER", "otlp").strip() != "none"


class Export:
    """A meter provider of our own that sends what its observer is told.

    Everything else is as the standard variables say: interval, time-out, headers, certificates,
    resource. Raises :exc:`ConfigError` if there is no SDK, or for a variable's bad value.
    """

    def __init__(
        self, url: str, program: str, environ: Mapping[str, str], say: Callable[[str], None]
    ) -> None:
        self._log = logging.getLogger("opentelemetry")
        self._log.propagate = False
        hidden = partial(_hidden, url, environ)
        self._log.addHandler(_Once(without_secrets(url), hidden, say))
        try:
            from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415 - an extra
            from opentelemetry.sdk.metrics.export import (  # noqa: PLC0415 - an extra
                PeriodicExportingMetricReader,
            )

            from poolscope.backends import otel  # noqa: PLC0415 - an extra

            reader = PeriodicExportingMetricReader(_exporter(url, environ))
            self._provider = MeterProvider([reader], _resource(program), shutdown_on_exit=False)
        except ImportError as error:
            raise ConfigError(
                f"to export over OTLP, install it: pip install 'poolscope[otlp]' ({error})."
            ) from None
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(
                f"OpenTelemetry does not take a setting: {hidden(str(error))}."
            ) from None
        self.observer: Observer = otel.observer(self._provider, _nothing)

    def close(self) -> None:
        """Export what is left, within three seconds."""
        with contextlib.suppress(Exception):  # the account is lost, the command's end is not
            self._provider.shutdown(timeout_millis=_LAST_WORDS * 1000)


def _nothing() -> None:
    """Stand for a drain: what comes has been drained already."""


def _exporter(url: str, environ: Mapping[str, str]) -> Any:
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), "")
    if not protocol:
        protocol = "grpc" if urlsplit(url).port == _GRPC_PORT else "http/protobuf"
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (  # noqa: PLC0415 - an extra
            OTLPMetricExporter as GrpcExporter,
        )

        return GrpcExporter(endpoint=url, insecure=urlsplit(url).scheme == "http")
    if protocol == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import (  # noqa: PLC0415 - an extra
            OTLPMetricExporter as HttpExporter,
        )

        return HttpExporter(endpoint=_with_path(url, environ))
    raise ConfigError(f"an OTLP protocol is grpc or http/protobuf, not {protocol!r}.")


def _with_path(url: str, environ: Mapping[str, str]) -> str:
    """Add the signal's path to a base address; the metrics' own variable has it already."""
    if url == environ.get(_ENDPOINTS[0]) or url.endswith("/v1/metrics"):
        return url
    return f"{url.rstrip('/')}/v1/metrics"


def _resource(program: str) -> Any:
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - an extra

    said = Resource.create()  # by the standard variables
    # Protocol buffers hold UTF-8, environments and file names any bytes: nothing would be sent.
    own: dict[str, Any] = {
        name: _sendable(value) for name, value in said.attributes.items() if isinstance(value, str)
    }
    if "service.instance.id" not in said.attributes:
        own["service.instance.id"] = str(uuid.uuid4())
    if str(said.attributes.get("service.name", "")).startswith("unknown_service"):
        own["service.name"] = f"unknown_service:{_sendable(Path(program).name)}"
    return said.merge(Resource(own))


def _sendable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _hidden(url: str, environ: Mapping[str, str], said: str) -> str:
    """Take out of what OpenTelemetry says whatever is to remain between it and the collector."""
    said = said.replace(url, without_secrets(url))
    parts = urlsplit(url)
    secrets = [parts.query, parts.netloc.rpartition("@")[0], parts.username, parts.password]
    secrets += [value for _, value in parse_qsl(parts.query)]
    for variable in _HEADERS:
        for pair in environ.get(variable, "").split(","):
            name, equals, value = pair.partition("=")
            value = unquote(value if equals else name)
            secrets += [value, *value.split()]
    spelled = {form for one in secrets if one for form in (one, unquote(one), quote(unquote(one)))}
    for secret in sorted(spelled, key=len, reverse=True):
        if len(secret) >= _SECRET:
            said = said.replace(secret, "...")
    return said


class _Once(logging.Handler):
    """Says once, in one sentence, that exports fail; the exporter goes on trying by itself."""

    def __init__(self, url: str, hidden: Callable[[str], str], say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._url = url
        self._hidden = hidden
        self._say = say
        self._said = False

    def emit(self, record: logging.LogRecord) -> None:
        """Say it, the first time."""
        if not self._said:
            self._said = True
            why = self._hidden(" ".join(record.getMessage().split()))
            self._say(f"can't export to {self._url}, and goes on trying: {why}")
