"""Notices the forks of this process, also those that Python is not told of (uWSGI's)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from poolscope.importing import when_imported


class Forks:
    """Calls ``in_child`` in a forked child: once, however many ways tell of it."""

    def __init__(
        self,
        before: Callable[[], None],
        in_parent: Callable[[], None],
        in_child: Callable[[], None],
        faults: Any,
    ) -> None:
        self._in_child = in_child
        self._process = os.getpid()
        self._chained: Any = None
        os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=self.notice)
        # That module takes the hook for itself.
        when_imported("uwsgidecorators", self.ask_uwsgi, faults)

    def notice(self) -> None:
        """Take note if this is another process than a moment ago."""
        process = os.getpid()
        if process != self._process:
            self._process = process
            self._in_child()

    def ask_uwsgi(self) -> None:
        """Have uWSGI tell its workers that they are some; its module may come after ours.

        It calls none of Python's own hooks unless it is started with ``--py-call-osafterfork``.
        """
        uwsgi: Any = sys.modules.get("uwsgi")
        if uwsgi is None or getattr(uwsgi, "post_fork_hook", None) is self._chained is not None:
            return
        others = getattr(uwsgi, "post_fork_hook", None)

        def post_fork_hook() -> None:
            self.notice()
            if others is not None:
                others()

        self._chained = uwsgi.post_fork_hook = post_fork_hook
