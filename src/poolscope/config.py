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
    value = environ.get("POOLSCOPE_DISABLED", "").strip().lower()
    if value not in (*_YES, *_NO):
        raise ConfigError(f"POOLSCOPE_DISABLED must be 1 or 0, not {value!r}.")
    return value in _YES


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
