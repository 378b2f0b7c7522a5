"""Runs the command as if nobody stood before it: its signals, its stops, its exit status.

The command shares our process group and terminal, so what the terminal sends (interrupt, stop)
reaches it anyway. What somebody sends to us alone is passed on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NoReturn

# Not passed on: what can't be caught, what is our own fault, what is about our own child.
_OWN = {
    getattr(signal, f"SIG{name}")
    for name in ("KILL", "STOP", "CHLD", "SEGV", "BUS", "FPE", "ILL", "ABRT", "TRAP", "SYS", "PIPE")
    if hasattr(signal, f"SIG{name}")
}
# Where the sender can't be told (macOS), what a terminal sends is taken to come from one.
_FROM_TERMINAL = {signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}


# Python ignores these two, and what is ignored stays ignored in a new program.
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class CannotStartError(Exception):
    """The command is there but can't be started; ``status`` is what a shell would exit with."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror)
        self.status = 127 if isinstance(error, FileNotFoundError) else 126


def execute(program: str, argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Become the command. Raises :exc:`CannotStartError`; otherwise it does not return."""
    for number in _IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)

    def become(path: str, arguments: list[str]) -> NoReturn:
        os.execve(path, arguments, dict(environ))  # noqa: S606 - the command is the user's own

    return _start(become, program, argv)


def _start(how: Callable[[str, list[str]], int], program: str, argv: Sequence[str]) -> int:
    """Start a program; one without a first line that names its interpreter is the shell's."""
    try:
        try:
            return how(program, list(argv))
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            return how("/bin/sh", ["/bin/sh", program, *argv[1:]])
    except OSError as error:
        raise CannotStartError(error) from None


class Command:
    """A command to be run in our place; from its making on signals wait for it.

    Until :meth:`release_signals` they are the command's. Make it before any
    thread, so that all threads leave the signals to it.
    """

    def __init__(self) -> None:
        # What is closed is to stay closed for the command, but no descriptor of ours may take
        # its number.
        self._closed = [number for number in range(3) if _is_closed(number)]
        for _ in self._closed:
            os.open(os.devnull, os.O_RDWR)
        # Ignored by whoever started us, it would take the command's exit status with it.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._signals = signal.valid_signals() - _OWN | {signal.SIGCHLD}
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)

    def run(self, program: str, argv: Sequence[str], environ: Mapping[str, str]) -> int:
        """Start it, stand by until it ends, and return its wait status.

        Raises :exc:`CannotStartError`.
        """
        child = _start(partial(self._spawn, dict(environ)), program, argv)
        self._let_go_of_pipes()
        _raise_limit()
        while (status := self._status(child)) is None:
            self._pass_on(child)
        return status

    def release_signals(self) -> None:
        """Let signals through to us again: what waits is ours now."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _spawn(self, environ: dict[str, str], path: str, arguments: list[str]) -> int:
        return os.posix_spawn(
            path,
            arguments,
            environ,
            file_actions=[(os.POSIX_SPAWN_CLOSE, number) for number in self._closed],
            setsigmask=self._mask,
            setsigdef=_IGNORED_BY_PYTHON,
        )

    def _let_go_of_pipes(self) -> None:
        # Whoever reads the command's output must see its end when the command closes it.
        with contextlib.suppress(OSError):
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            os.close(null)

    def _pass_on(self, child: int) -> None:
        """Wait for a signal, and pass it on unless the command has got it, too."""
        if hasattr(signal, "sigwaitinfo"):
            info = signal.sigwaitinfo(self._signals)
            number, from_terminal = info.si_signo, info.si_code > 0
        else:
            number = signal.sigwait(self._signals)
            from_terminal = number in _FROM_TERMINAL
        if number != signal.SIGCHLD and not from_terminal:
            os.kill(child, number)

    def _status(self, child: int) -> int | None:
        """Return the command's wait status if it has ended; stop with it if it has stopped."""
        while True:
            # Any child, because process 1 of a container inherits orphans.
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                return None
            if pid != child:
                continue
            if os.WIFSTOPPED(status):
                os.kill(os.getpid(), signal.SIGSTOP)
                continue
            return status


def _raise_limit() -> None:
    """Let us have as many descriptors as we may: each process of the command takes one.

    After the start of the command, which inherits the limit.
    """
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):  # macOS has a limit below "unlimited"
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _is_closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False


def end_like(status: int) -> int:
    """Return the exit status of a wait status; die of the same signal if there was one."""
    if not os.WIFSIGNALED(status):
        return os.waitstatus_to_exitcode(status)
    number = os.WTERMSIG(status)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return 128 + number  # if that was not deadly
