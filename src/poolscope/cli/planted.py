"""Writes a set of files below a directory: all of them or none, and never out of it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
# A FIFO is not waited for, and a link not followed: it may lead anywhere.
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_MODE = 0o666  # less what the user's mask says

_Undo = list[Callable[[], None]]


class TakenError(Exception):
    """A place is taken by something else: ``name`` below the directory, and ``how``."""

    def __init__(self, name: str, how: str) -> None:
        super().__init__(name)
        self.name, self.how = name, how


class LeftBehindError(OSError):
    """What could not be written to the end could not be taken back either."""


def plant(directory: str, contents: Mapping[str, bytes]) -> None:
    """Write files by their names below a directory, which is made if need be.

    A file that is there with that content stays. Raises :exc:`TakenError` before anything is
    written, ``OSError`` when all that was written has been removed again, and
    :exc:`LeftBehindError` if it has not.
    """
    with contextlib.ExitStack() as stack:
        missing = _missing(directory, contents, stack)
        undo: _Undo = []
        try:
            _write(directory, {name: contents[name] for name in missing}, undo, stack)
        except BaseException as error:
            left = [step for step in reversed(undo) if not _undone(step)]
            if left and isinstance(error, OSError):
                raise LeftBehindError(error.errno, error.strerror) from error
            raise


def _missing(
    directory: str, contents: Mapping[str, bytes], stack: contextlib.ExitStack
) -> list[str]:
    """Return which files are not there yet. Raises :exc:`TakenError`."""
    missing = []
    for name, content in contents.items():
        where, _, last = name.rpartition("/")
        try:
            parent = _opened(directory, where, stack)
            status = os.stat(last, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                raise TakenError(name, "is there already and is no plain file")
            with open(os.open(last, _LOOK, dir_fd=parent), "rb") as file:  # noqa: PTH123 - a descriptor
                if file.read(len(content) + 1) != content:
                    raise TakenError(name, "is there already and differs")
        except FileNotFoundError:
            missing.append(name)
    return missing


def _opened(directory: str, where: str, stack: contextlib.ExitStack) -> int:
    """Open the directory, or one below it that is no link to elsewhere."""
    top = os.open(directory, _DIRECTORY)
    stack.callback(os.close, top)
    if not where:
        return top
    try:
        parent = os.open(where, _DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TakenError(where, "is there already and is no plain directory") from error
    stack.callback(os.close, parent)
    return parent


def _write(
    directory: str, contents: Mapping[str, bytes], undo: _Undo, stack: contextlib.ExitStack
) -> None:
    above = [path for path in (Path(directory), *Path(directory).parents) if not path.exists()]
    for path in reversed(above):
        path.mkdir()
        undo.append(path.rmdir)
    for name, content in contents.items():
        where, _, last = name.rpartition("/")
        if where:
            top = _opened(directory, "", stack)
            with contextlib.suppress(FileExistsError):
                os.mkdir(where, dir_fd=top)
                undo.append(partial(os.rmdir, where, dir_fd=top))
        parent = _opened(directory, where, stack)
        made = os.open(last, _MAKE, _MODE, dir_fd=parent)
        undo.append(partial(os.unlink, last, dir_fd=parent))
        with open(made, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(content)


def _undone(step: Callable[[], None]) -> bool:
    try:
        step()
    except OSError:
        return False
    return True
