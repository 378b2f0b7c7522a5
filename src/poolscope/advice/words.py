"""How a report says numbers, durations and names: short, plain, and never more exact than known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: What stands where nothing was seen.
NOTHING = "-"

_DEFAULT_PORTS = {"http": "80", "https": "443"}
#: The address that origins share beyond the bound, and the call site that lines of code do.
OTHER = "_other"
_FEW = 9.95  # what is smaller is shown with one decimal
_MANY = 10_000_000
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0


def count(number: int) -> str:
    """Spell a count for a narrow column: ``1,200``, from ten million on ``12.3 M``."""
    return f"{number:,}" if number < _MANY else f"{number / 1e6:,.1f} M"


def counted(number: int, noun: str) -> str:
    """Spell a count of things: ``1 request``, ``1,200 requests``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def times(number: int) -> str:
    """Spell how often: ``once``, ``12 times``."""
    return "once" if number == 1 else f"{number:,} times"


def call_site(site: dict[str, Any]) -> str:
    """Spell a line of code: ``app/views.py:12 in price``."""
    if site["path"] == OTHER:
        return "lines beyond the bound"
    return f"{clean(site['path'])}:{site['line']} in {clean(site['function'])}"


def ratio(value: float | None) -> str:
    """Spell a mean number of things: ``1.3``, ``120``."""
    if value is None:
        return NOTHING
    return f"{value:.1f}" if value < _FEW else f"{value:,.0f}"


def share(value: float | None) -> str:
    """Spell a share between 0 and 1 in percent; only what is all or nothing is 100% or 0%."""
    if value is None:
        return NOTHING
    percent = round(value * 100)
    if percent == 0 and value > 0:
        return "<1%"
    if percent == 100 and value < 1:  # noqa: PLR2004 - a percentage
        return ">99%"
    return f"{percent}%"


def duration(seconds: float | None) -> str:
    """Spell seconds as people say them: ``<1 ms``, ``12 ms``, ``1.2 s``, ``12 min``, ``3 h``."""
    if seconds is None:
        return NOTHING
    milliseconds = round(seconds * 1000)
    if milliseconds < 1:
        return "<1 ms"
    if milliseconds < 1000:  # noqa: PLR2004 - of them make a second
        return f"{milliseconds} ms"
    if seconds < _FEW:
        return f"{seconds:.1f} s"
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    if seconds < 2 * _DAY:
        return f"{seconds / _HOUR:.0f} h"
    return f"{seconds / _DAY:.0f} days"


def about(seconds: float) -> str:
    """Spell seconds that are an estimate: ``about 12 ms``, ``less than 1 ms``."""
    text = duration(seconds)
    return f"less than {text[1:]}" if text.startswith("<") else f"about {text}"


def estimate(seconds: float | None, bounds: Sequence[float]) -> str:
    """Spell a quantile that was estimated from buckets with these upper bounds in seconds.

    In the lowest bucket and beyond the last bound nothing more is known, so it says just that.
    """
    if seconds is None:
        return NOTHING
    if seconds <= bounds[0]:
        return f"<{_bound(bounds[0])}"
    if seconds >= bounds[-1]:
        return f">{_bound(bounds[-1])}"
    return duration(seconds)


def gap(slow: float | None, fast: float | None, bounds: Sequence[float]) -> str:
    """Spell by how much an estimated quantile is above another one, in seconds."""
    if slow is None or fast is None or fast >= bounds[-1]:
        return NOTHING
    if slow <= bounds[0] and fast <= bounds[0]:
        return f"<{_bound(bounds[0])}"
    if slow <= fast:
        return "none"
    more = ">" if slow >= bounds[-1] else ""
    return more + duration(slow - fast)


def upstream(origin: dict[str, Any], width: int = 200) -> str:
    """Name an origin of a summary in at most ``width`` columns.

    Whatever can't be printed is replaced: a name may come from somebody else's metrics page.
    """
    address, port, scheme = origin["address"], origin["port"], origin["scheme"]
    if address == OTHER:
        text = f"{scheme}: all further upstreams (too many to tell apart)"
    elif not port and address.startswith("/"):
        text = f"unix socket {address}"
    else:
        host = f"[{address}]" if ":" in address and not address.startswith("[") else address
        is_default = not port or _DEFAULT_PORTS.get(scheme) == port
        text = f"{scheme}://{host}" + ("" if is_default else f":{port}")
    return shorten(clean(text), width)


def clean(text: str) -> str:
    """Replace what can't be printed: control characters could take over a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def shorten(text: str, width: int) -> str:
    """Cut the middle out of what is too long: both ends of a host name or path tell something."""
    if len(text) <= width:
        return text
    kept = width - len("...")
    tail = kept // 2
    return f"{text[: kept - tail]}...{text[len(text) - tail :]}"


def _bound(seconds: float) -> str:
    """Spell a bucket's bound, which is exact, so 10 and not 10.0."""
    if seconds > _MINUTE:
        return duration(seconds)
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"
