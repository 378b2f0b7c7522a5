"""What the command line says: one printable line, whoever made up the names in it."""

from __future__ import annotations

import contextlib
import sys

from poolscope.advice.words import clean, shorten

_LONGEST = 2000  # characters; a name may be as long as somebody likes


def say(what: str) -> None:
    """Say one line on standard error, if anybody can hear it."""
    if sys.stderr is not None:  # closed by whoever started us
        with contextlib.suppress(OSError):
            print(f"poolscope: {clean(shorten(what, _LONGEST))}", file=sys.stderr, flush=True)
