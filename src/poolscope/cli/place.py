"""A private directory for a Unix socket, wherever there is room, and none left by dead runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

_LONGEST_BASE = 60  # bytes; a Unix socket's path has to fit into about 100
_NAMES = re.compile(r"poolscope-[0-9a-f]{12}")
_YOUNG = 60.0  # seconds for which one that nobody holds may be about to be held


class Place:
    """A directory that no other user can enter; held as long as this process lives.

    Raises ``OSError`` if it can't be made.
    """

    def __init__(self, base: Path) -> None:
        self.directory = base / f"poolscope-{os.urandom(6).hex()}"
        self.directory.mkdir(0o700)
        self._held = os.open(self.directory, os.O_RDONLY)
        fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _sweep(base)

    @property
    def socket(self) -> str:
        """The path of the socket in it."""
        return str(self.directory / "collector")

    def close(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.directory, ignore_errors=True)
        os.close(self._held)


def bases() -> Iterator[Path]:
    """Yield where there may be room: where the user wants it, and where there mostly is some."""
    named = (os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP", "XDG_RUNTIME_DIR"))
    for base in (*named, "/tmp", "/var/tmp", "/dev/shm"):  # noqa: S108 - the directory is private
        if base and Path(base).is_absolute() and len(os.fsencode(base)) <= _LONGEST_BASE:
            yield Path(base)


def _sweep(base: Path) -> None:
    """Remove what was left by those of this user that were killed."""
    with contextlib.suppress(OSError):
        for path in base.glob("poolscope-*"):
            with contextlib.suppress(OSError):
                if _NAMES.fullmatch(path.name) and _is_dead(path):
                    shutil.rmtree(path, ignore_errors=True)


def _is_dead(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or time.time() - status.st_mtime < _YOUNG:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while somebody holds it
    finally:
        os.close(descriptor)
    return True
