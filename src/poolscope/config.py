"""The settings: keywords of ``instrument()``, ``POOLSCOPE_*`` variables, options of ``run``."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

_YES = ("1", "true", "yes", "on")
_HOST = re.compile(r"\*|\.?[0-9A-Za-z_-]+(\.[0-9A-Za-z_-]+)*\.?")
_LONGEST_HOST = 253  # characters, by the standard
_NO = ("", "0", "false", "no", "off")


class ConfigError(ValueError):
    """A setting has a value that means nothing; the message says which, and what would."""


@dataclass(frozen=True)
class Settings:
    """What is set, for the process from its first ``instrument()`` on."""

    #: How many origins are told apart; later ones share one name.
    max_origins: int = 100
    #: Whether OpenTelemetry spans are told of the connections that were used under them.
    span_attributes: bool = False
    #: Whether it is looked which line of code asks for a connection.
    call_sites: bool = False
    #: Seconds after which a response that still keeps its connection is counted.
    held_after: float = 60.0


def disabled(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether ``POOLSCOPE_DISABLED`` switches everything off; it beats all other settings.

    Raises :exc:`ConfigError` for a value that is neither yes nor no.
    """
    return _is_yes("POOLSCOPE_DISABLED", environ.get("POOLSCOPE_DISABLED", ""))


def settings(environ: Mapping[str, str] = os.environ, **keywords: object) -> Settings:
    """Return the settings: each as its keyword says, or else its variable, or else the default.

    Raises :exc:`ConfigError` for a value that means nothing.
    """
    found = {}
    for one in fields(Settings):
        name, value = one.name, keywords.get(one.name)
        if value is None:
            name = f"POOLSCOPE_{one.name.upper()}"
            value = environ.get(name) or None
        if value is not None:
            found[one.name] = _READ[one.name](name, value)
    return Settings(**found)


def allowed_hosts(
    option: Sequence[str] | None, environ: Mapping[str, str] = os.environ
) -> tuple[str, ...]:
    """Return the names that an endpoint may be asked for besides its own.

    ``POOLSCOPE_ALLOW_HOST`` holds them with commas between; the option beats it. ``.name`` stands
    for all names below one, ``*`` for any. Raises :exc:`ConfigError` for what is no name.
    """
    source, given = "--allow-host", list(option or ())
    if option is None:
        source = "POOLSCOPE_ALLOW_HOST"
        given = [name.strip() for name in environ.get(source, "").split(",") if name.strip()]
    for name in given:
        if len(name) > _LONGEST_HOST or _HOST.fullmatch(name) is None:
            raise ConfigError(
                f"{source} must be a host's name without a port (.name: all below it; *: any), "
                f"not {name!r}."
            )
    return tuple(given)


def _count(name: str, value: object) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = 0
    if number < 1:
        raise ConfigError(f"{name} must be a whole number from 1 on, not {value!r}.")
    return number


def _seconds(name: str, value: object) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise ConfigError(f"{name} must be a number of seconds above 0, not {value!r}.")
    return number


def _switch(name: str, value: object) -> bool:
    if isinstance(value, str):
        return _is_yes(name, value)
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, not {value!r}.")
    return value


def _is_yes(name: str, value: str) -> bool:
    said = value.strip().lower()
    if said not in (*_YES, *_NO):
        raise ConfigError(f"{name} must be 1 or 0, not {said!r}.")
    return said in _YES


_READ: dict[str, Callable[[str, object], Any]] = {
    "max_origins": _count,
    "span_attributes": _switch,
    "call_sites": _switch,
    "held_after": _seconds,
}
