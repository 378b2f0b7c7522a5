"""Makes our code raise at a line of its own, while the host runs it."""

from __future__ import annotations

import contextlib
import dis
import functools
import linecache
import sys
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import poolscope

SOURCE = str(Path(poolscope.__file__).parent)
#: These shield the others, and call nobody but them, the host and each other.
SHIELDS = ("patching.py", "shield.py")

#: What is raised, in turns: any error, and the two that can come anywhere.
KINDS = (ZeroDivisionError, MemoryError, RecursionError)

# Moving locals and constants about can't fail. (Nor may a tracer raise there: at the first such
# instruction of an ``except`` it leaves CPython with an exception that nobody handles any more.)
_HARMLESS = (
    *("NOP", "RESUME", "CACHE", "EXTENDED_ARG", "LOAD_CONST", "LOAD_FAST", "STORE_FAST", "RETURN_"),
    *("POP_", "PUSH_", "JUMP_", "COPY", "SWAP", "DUP_", "ROT_", "RERAISE", "SETUP_", "NOT_TAKEN"),
)


class Point(NamedTuple):
    """A line of ours, by which of our functions the host, or the drain, came to it."""

    entry: str
    file: str
    line: int

    def __str__(self):
        return f"{Path(self.file).name}:{self.line} within {self.entry}"

    @property
    def text(self):
        """The line itself."""
        return linecache.getline(self.file, self.line).strip()


def is_shielded(code):
    """Tell our code from the host's, and from the shields themselves."""
    name = code.co_filename
    return name.startswith(SOURCE) and not name.endswith(SHIELDS)


@functools.cache
def lines_that_may_fail(code):
    """Return the lines of a function that call, store or look up anything."""
    return _lines_with(code, lambda name: not name.startswith(_HARMLESS))


@functools.cache
def lines_that_call(code):
    """Return the lines of a function that call anything."""
    return _lines_with(code, lambda name: name.startswith("CALL"))


def _lines_with(code, wanted):
    """Return the lines of a function with an instruction of a wanted name."""
    lines = {}
    for start, end, line in code.co_lines():
        lines.update(dict.fromkeys(range(start, end), line))
    return {
        lines.get(instruction.offset)
        for instruction in dis.get_instructions(code)
        if wanted(instruction.opname)
    }


@functools.cache
def _handlers(code):
    """Return where exception handlers of a function begin.

    A tracer that raises there leaves CPython with an exception that is being handled for ever.
    """
    return {one.offset for one in dis.get_instructions(code) if one.opname == "PUSH_EXC_INFO"}


def functions_around(frame):
    """Name our functions on the stack that led here without a shield in between, inmost first."""
    names = []
    while frame is not None and is_shielded(frame.f_code):
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names


def _point_of(frame):
    return Point(functions_around(frame)[-1], frame.f_code.co_filename, frame.f_lineno)


@contextlib.contextmanager
def _traced(at_line, *, of_handlers=False):
    """Call ``at_line`` at every line that may fail, or only where a signal handler may run.

    Python runs these when a function begins, when a call returns, and where a loop goes back.
    """

    def called(frame, _event, _argument):
        if not is_shielded(frame.f_code):
            return None
        before = None  # not the frame itself, whose locals would live on

        def local(frame, event, _argument):
            nonlocal before
            if event != "line":
                return local
            code, line = frame.f_code, frame.f_lineno
            may_run = before is None or line < before or before in lines_that_call(code)
            before = line
            may_fail = line in lines_that_may_fail(code) and frame.f_lasti not in _handlers(code)
            if may_fail and (may_run or not of_handlers):
                at_line(frame)
            return local

        return local

    before = sys.gettrace()
    sys.settrace(called)
    try:
        yield
    finally:
        sys.settrace(before)


def points_of(run, within="", *, of_handlers=False):
    """Run, and return the points to which this thread comes, or those within a function."""
    ways = ways_of(run, of_handlers=of_handlers)
    return [one for one, around in ways if not within or within in around[1:]]


def ways_of(run, *, of_handlers=False):
    """Run, and return the points to which this thread comes, each with our functions around it."""
    points = {}

    def note(frame):
        points.setdefault(_point_of(frame), functions_around(frame))

    with _traced(note, of_handlers=of_handlers):
        run()
    return list(points.items())


def kinds_for(points):
    """Pair points with what is raised there, in turns."""
    for point, kind in zip(points, cycle(KINDS)):
        # There a RuntimeError stands for a system that has no thread left.
        spared = kind is RecursionError and point.file.endswith("pulse.py")
        yield point, MemoryError if spared else kind


@contextlib.contextmanager
def raising(point, kind):
    """Raise once, when this thread comes to the point; what comes back names our functions then.

    Python stops tracing at an exception of the tracer's, so there can be no second time.
    """

    def strike():
        raise kind(str(point))  # a new one: nobody may keep its traceback

    with striking(point, strike) as struck:
        yield struck


@contextlib.contextmanager
def striking(point, strike):
    """Call ``strike`` once, when this thread comes to the point: it raises, as above."""
    struck = []

    def come(frame):
        if frame.f_lineno == point.line and not struck and _point_of(frame) == point:
            struck.extend(functions_around(frame))
            strike()

    with _traced(come):
        yield struck
