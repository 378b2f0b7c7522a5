"""The settings: keywords of ``instrument()``, ``POOLSCOPE_*`` variables, options of ``run``."""

from __future__ import annotations

import os
from collections.abc import Mapping

MAX_ORIGINS = 100

_YES = ("1", "true", "yes", "on")
_NO = ("", "0", "false", "no", "off")


class ConfigError(ValueError):
    """A setting has a value that means nothing; the message says which, and what would."""


def disabled(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether ``POOLSCOPE_DISABLED`` switches everything off; it beats all other settings.

    Raises :exc:`ConfigError` for a value that is neither yes nor no.
    """
    return _is_yes("POOLSCOPE_DISABLED", environ)


def span_attributes(value: object = None, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether spans are told of connections: ``value``, ``POOLSCOPE_SPAN_ATTRIBUTES``, no.

    Raises :exc:`ConfigError` for a value that is neither yes nor no.
    """
    return _switch("span_attributes", value, environ)


def call_sites(value: object = None, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether lines of code are looked for: ``value``, ``POOLSCOPE_CALL_SITES``, or no.

    Raises :exc:`ConfigError` for a value that is neither yes nor no.
    """
    return _switch("call_sites", value, environ)


def max_origins(value: object = None, environ: Mapping[str, str] = os.environ) -> int:
    """Return how many origins are told apart: ``value``, or ``POOLSCOPE_MAX_ORIGINS``, or 100.

    Raises :exc:`ConfigError` unless it is a whole number from 1 on.
    """
    name = "max_origins"
    if value is None:
        name = "POOLSCOPE_MAX_ORIGINS"
        value = environ.get(name) or MAX_ORIGINS
    try:
        number = int(str(value))
    except ValueError:
        number = 0
    if number < 1:
        raise ConfigError(f"{name} must be a whole number from 1 on, not {value!r}.")
    return number


def _switch(name: str, value: object, environ: Mapping[str, str]) -> bool:
    if value is None:
        return _is_yes(f"POOLSCOPE_{name.upper()}", environ)
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, not {value!r}.")
    return value


def _is_yes(name: str, environ: Mapping[str, str]) -> bool:
    value = environ.get(name, "").strip().lower()
    if value not in (*_YES, *_NO):
        raise ConfigError(f"{name} must be 1 or 0, not {value!r}.")
    return value in _YES
