"""Which processes of a command were there, which are, and which left without a good-bye."""

from __future__ import annotations

from collections.abc import Hashable

from poolscope.wire import Hello

_REMEMBERED = 1000  # who left in silence and may turn up again; what else strangers could fill


class Roster:
    """Knows processes by their tokens, each by its connections: it may change those."""

    def __init__(self) -> None:
        #: How many processes have said hello.
        self.attached = 0
        #: How many of them are gone without a good-bye.
        self.silent = 0
        #: Python processes that could not be attached: their executables, and why.
        self.refused: dict[tuple[str, str], None] = {}
        self._there: dict[Hashable, Hello] = {}
        self._telling: set[str] = set()
        self._connections: dict[str, int] = {}
        self._left: dict[str, None] = {}

    @property
    def there(self) -> tuple[Hello, ...]:
        """Those that are there now; for other threads, too."""
        return tuple({hello.token: hello for hello in list(self._there.values())}.values())

    @property
    def running(self) -> int:
        """How many are there that have told of connections, and may tell of more."""
        return len(self._telling)

    def heard(self, connection: Hashable) -> None:
        """Take note that a process has told of connections."""
        if connection in self._there:
            self._telling.add(self._there[connection].token)

    def enter(self, connection: Hashable, hello: Hello) -> None:
        """Take note of who is at the other end of a connection."""
        if connection in self._there:
            return
        self._there[connection] = hello
        number = self._connections.get(hello.token, 0)
        self._connections[hello.token] = number + 1
        if hello.token in self._left:
            del self._left[hello.token]
            self.silent -= 1
        elif not number:
            self.attached += 1

    def leave(self, connection: Hashable, *, said_bye: bool) -> None:
        """Take note that a connection is closed."""
        hello = self._there.pop(connection, None)
        if hello is None:
            return
        self._connections[hello.token] -= 1
        if self._connections[hello.token]:
            return  # it has another one
        del self._connections[hello.token]
        self._telling.discard(hello.token)
        if said_bye:
            return
        self.silent += 1
        self._left[hello.token] = None
        if len(self._left) > _REMEMBERED:
            del self._left[next(iter(self._left))]

    def lost(self, token: str) -> None:
        """Take note of a process that could say no more than that it had something to say."""
        if token not in self._left:
            self.attached += 1
            self.silent += 1

    def refuse(self, executable: str, why: str) -> None:
        """Take note of a Python that could not be attached."""
        if len(self.refused) < _REMEMBERED:
            self.refused[executable, why] = None
