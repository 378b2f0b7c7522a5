"""The only place that knows wrapt and calls the host: what stands in the place of its functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import CO_VARARGS, CO_VARKEYWORDS
from types import FunctionType
from typing import Any

from poolscope import importing
from poolscope.shield import is_the_hosts, spelled

#: A hook that faults this often goes dormant.
MAX_FAULTS = 5

_MISSING = object()
_FILE = "<hook of "  # where the code of hooks comes from, as tracebacks say
_WRAPPERS = 20  # around one function


# What stands in the place of a host's function that is called with every request. These are texts
# because the parameters have to be spelled out: to collect and spread *args and **kwargs takes
# ten times as long.
_BEFORE = """
def hooked({parameters}):
    if patch.active:
        try:
            before({arguments})
        except Exception as error:
            fault(error)
    return wrapped({arguments})
"""
_AROUND = """
def hooked({parameters}):
    state = None
    if patch.active:
        try:
            {when}state = before({arguments})
        except Exception as error:
            fault(error)
    if state is None:
        return wrapped({arguments})
    return around(state, wrapped, {arguments})
"""


@dataclass(frozen=True)
class Hook:
    """What runs around one function of the host.

    ``before`` is called with the host's own arguments and returns a state; None means that there
    is nothing to see this time. ``after(state, result, error)`` gets the state back with the
    host's result, or with the exception that the host raised. Both may look at everything and
    touch nothing.
    """

    module: str
    path: str
    before: Callable[..., Any]
    after: Callable[[Any, Any, BaseException | None], None] | None = None
    #: Also hook these classes of the module, if they have the method in their own ``__dict__``.
    also: tuple[str, ...] = ()
    #: One of the hooks of a group is enough.
    group: str = ""
    #: The host function's parameters: a plain function with exactly these takes its place. That
    #: costs a tenth of wrapt's wrapper and two frames less, complains of wrong arguments as the
    #: host's own does before we are asked, and can be copied and pickled like it.
    params: str = ""
    #: A condition on these, spelled out as well; ``before`` has to ask again where it is not.
    when: str = ""

    @property
    def name(self) -> str:
        """The hook's full name."""
        return f"{self.module}.{self.path}"

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names in ``params``."""
        return tuple(part.partition("=")[0].strip() for part in self.params.split(","))


@dataclass
class Patch:
    """One hook on one owner (a class or a module)."""

    hook: Hook
    owner: Any
    attribute: str
    faults: Any  # a deque; what is appended is told later, off the host's stack
    active: bool = False
    fault_count: int = 0
    original: Any = None
    wrapper: Any = field(default=None, repr=False)
    #: Which function is hooked, in full.
    target: str = field(init=False)

    def __post_init__(self) -> None:
        owner = getattr(self.owner, "__qualname__", "")
        self.target = ".".join(part for part in (self.hook.module, owner, self.attribute) if part)

    def apply(self) -> None:
        """Put the wrapper in place, or wake it if it is still there under somebody else's."""
        now = vars(self.owner).get(self.attribute, _MISSING)
        if self.wrapper is None or self._is_bare(now):
            self.original = now
            wrapped = getattr(self.owner, self.attribute) if now is _MISSING else now
            self.wrapper = self._wrap(wrapped)
            setattr(self.owner, self.attribute, self.wrapper)
        self.active = True
        self.fault_count = 0

    def remove(self) -> None:
        """Restore exactly what was there; dormant instead if somebody has wrapped on top."""
        self.active = False
        now = vars(self.owner).get(self.attribute, _MISSING)
        if now is not self.wrapper:
            if not self._is_bare(now):
                return
        elif self.original is _MISSING:
            delattr(self.owner, self.attribute)
        else:
            setattr(self.owner, self.attribute, self.original)
        self.wrapper = None

    def _is_bare(self, now: Any) -> bool:
        """Tell whether an original was put back over ours, as a mock.patch does when it ends."""
        if type(now) is not FunctionType or now is self.original:
            return now is _MISSING or now is self.original
        home: str = now.__globals__.get("__name__", "")  # functools.wraps copies __module__
        return home.partition(".")[0] == self.hook.module.partition(".")[0]

    def _wrap(self, wrapped: Callable[..., Any]) -> Any:
        """Return what stands in the host's place; it calls the host exactly once."""
        if self._has_params(wrapped):
            return functools.wraps(wrapped)(self._hooked(wrapped))
        import wrapt  # noqa: PLC0415 - it imports much, and who calls nobody does without

        before = self._before_any if self.hook.params else self.hook.before

        def call(bound: Any, instance: Any, args: Any, kwargs: Any) -> Any:
            state = None
            if self.active:
                try:
                    given = args if instance is None else (instance, *args)
                    state = before(*given, **kwargs)
                except Exception as error:  # noqa: BLE001 - our faults stay ours
                    self._fault(error)
            if state is None or self.hook.after is None:
                return bound(*args, **kwargs)
            return self._around(state, bound, *args, **kwargs)

        return wrapt.FunctionWrapper(wrapped, call)

    def _has_params(self, wrapped: Callable[..., Any]) -> bool:
        """Tell whether the host's function has exactly the parameters that the hook spells out.

        Somebody may have put one with more in its place, and then ours must take any.
        """
        # Not isinstance(): a wrapt wrapper passes for a function, but has to be bound.
        if not self.hook.params or type(wrapped) is not FunctionType:
            return False
        code = wrapped.__code__
        plain = code.co_varnames[: code.co_argcount]
        has_more = code.co_kwonlyargcount or code.co_flags & (CO_VARARGS | CO_VARKEYWORDS)
        defaults = self.hook.params.count("=None")
        return (
            not has_more
            and plain == self.hook.parameters
            and wrapped.__defaults__ == ((None,) * defaults or None)
        )

    def _hooked(self, wrapped: Callable[..., Any]) -> Callable[..., Any]:
        """Return the same as a plain function with the host's own parameters."""
        text = _AROUND if self.hook.after else _BEFORE
        source = text.format(
            parameters=self.hook.params,
            arguments=", ".join(self.hook.parameters),
            when=f"if {self.hook.when}: " if self.hook.when else "",
        )
        names = {
            "patch": self,
            "wrapped": wrapped,
            "before": self.hook.before,
            "around": self._around,
            "fault": self._fault,
        }
        exec(compile(source, f"{_FILE}{self.target}>", "exec"), names)  # noqa: S102 - our own text
        hooked: Callable[..., Any] = names["hooked"]  # type: ignore[assignment] # exec made it
        return hooked

    def _before_any(self, *args: Any, **kwargs: Any) -> Any:
        """Call a ``before`` that takes no more than ``params``, with more."""
        names = self.hook.parameters
        known = {name: kwargs[name] for name in names if name in kwargs}
        return self.hook.before(*args[: len(names)], **known)

    def _around(self, state: Any, wrapped: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # This try only looks: the host's exception leaves as it came.
        try:
            result = wrapped(*args, **kwargs)
        except BaseException as raised:
            self._after(state, None, raised)
            raise
        self._after(state, result, None)
        return result

    def _after(self, state: Any, result: Any, raised: BaseException | None) -> None:
        try:
            self.hook.after(state, result, raised)  # type: ignore[misc] # _hooked asked
        except Exception as error:  # noqa: BLE001 - our faults stay ours
            try:
                self._fault(error)
            except RecursionError:  # there is not even one frame left to count it
                return

    def _fault(self, error: Exception) -> None:
        # The host may have come close to its recursion limit: only the first step takes a frame.
        try:
            is_hosts = is_the_hosts(error)
        except RecursionError:
            is_hosts = False
        if is_hosts:
            raise error
        try:
            self.fault_count += 1
            if self.fault_count >= MAX_FAULTS:
                self.active = False
            trace = error.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            line = trace.tb_lineno if trace is not None else 0
            self.faults.append((self.target, f"{type(error).__name__} at line {line}"))
        except Exception:  # noqa: BLE001, S110 - out of stack or memory: the host matters more
            pass


def has_a_copys_hook(function: Any) -> bool:
    """Tell whether a second copy of this package has its hook in a host's function.

    There is one if its modules were removed and imported anew. Others may have wrapped around it.
    """
    for _ in range(_WRAPPERS):
        code = getattr(function, "__code__", None)
        if code is None:
            return False
        if code.co_filename.startswith(_FILE):
            patch = function.__globals__["patch"]
            return type(patch) is not Patch and bool(patch.active)
        function = getattr(function, "__wrapped__", None)
    return False


def when_imported(module: str, act: Callable[[], None], faults: Any) -> None:
    """Call ``act`` once ``module`` is imported; its faults don't fail the host's import.

    It can't be called off, so ``act`` must know when it is not wanted any more.
    """

    def shielded() -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - our faults stay ours
            faults.append((f"import of {module}", spelled(error)))

    importing.when_imported(module, shielded)
