"""The only place that knows wrapt and calls the host: what stands in the place of its functions."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import CO_VARARGS, CO_VARKEYWORDS
from types import FunctionType
from typing import Any

from poolscope.shield import is_a_handler, is_the_hosts

#: A hook that faults this often goes dormant.
MAX_FAULTS = 5

_MISSING = object()
_FILE = "<hook of "  # where the code of hooks comes from, as tracebacks say
_WRAPPERS = 20  # around one function
_TRIES = 10  # until what was interrupted is given up; so many handlers hardly raise in a row


# What stands in the place of a host's function. These are texts because the parameters of one that
# is called with every request have to be spelled out: to collect and spread *args and **kwargs
# takes ten times as long. And there must be no call between the host's and a try: on the main
# thread a signal handler of the host may raise at any call, or return from one. What that has
# interrupted is done once more then, and only then the exception goes on its way.
_BEFORE = """
def hooked({parameters}):
    if patch.active:
        try:
            before({given})
        except Exception as error:
            if struck(error):
                again(before, {given})
                raise
        except BaseException:
            again(before, {given})
            raise
    return wrapped({passed})
"""
_AROUND = """
def hooked({parameters}):
    state = None
    if patch.active:
        try:
            {when}state = before({given})
        except Exception as error:
            if struck(error):
                again(undo, {given})
                raise
        except BaseException:
            again(undo, {given})
            raise
    if state is None:
        return wrapped({passed})
    try:
        result = wrapped({passed})
    except BaseException as raised:
{after_raised}
        raise
{after_returned}
    return result
"""
_AFTER = """
try:
    after(state, {ended})
except Exception as error:
    try:
        is_hosts = struck(error)
    except RecursionError:  # there is not even one frame left to count it
        is_hosts = False
    if is_hosts:
        again(after, state, {ended})
        raise
except BaseException:
    again(after, state, {ended})
    raise
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
    #: Takes back what ``before`` has written down, should the host's function not be called.
    undo: Callable[..., None] | None = None
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
            arguments = ", ".join(self.hook.parameters)
            return functools.wraps(wrapped)(
                self._hooked(
                    self.hook.before,
                    parameters=self.hook.params,
                    given=arguments,
                    passed=arguments,
                    when=f"if {self.hook.when}: " if self.hook.when else "",
                    wrapped=wrapped,
                )
            )
        import wrapt  # noqa: PLC0415 - it imports much, and who calls nobody does without

        call = self._hooked(
            self._before_any if self.hook.params else self.hook.before,
            parameters="wrapped, instance, args, kwargs",
            given="*given(instance, args), **kwargs",
            passed="*args, **kwargs",
        )
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

    def _hooked(
        self,
        before: Callable[..., Any],
        *,
        parameters: str,
        given: str,
        passed: str,
        when: str = "",
        wrapped: Any = None,
    ) -> Callable[..., Any]:
        """Return a function with these parameters that calls the hook, and the host between."""
        text = _BEFORE
        if self.hook.after is not None:
            text = _AROUND.replace("{after_raised}", _after("None, ended(raised)", 8))
            text = text.replace("{after_returned}", _after("result, None", 4))
        source = text.format(parameters=parameters, given=given, passed=passed, when=when)
        names = {
            "patch": self,
            "wrapped": wrapped,
            "given": _given,
            "before": before,
            "undo": self._undo,
            "after": self.hook.after,
            "ended": _ended,
            "struck": self._struck,
            "again": self._again,
        }
        exec(compile(source, f"{_FILE}{self.target}>", "exec"), names)  # noqa: S102 - our own text
        hooked: Callable[..., Any] = names["hooked"]
        return hooked

    def _before_any(self, *args: Any, **kwargs: Any) -> Any:
        """Call a ``before`` that takes no more than ``params``, with more."""
        names = self.hook.parameters
        known = {name: kwargs[name] for name in names if name in kwargs}
        return self.hook.before(*args[: len(names)], **known)

    def _undo(self, *args: Any, **kwargs: Any) -> None:
        if self.hook.undo is not None:
            self.hook.undo(*args, **kwargs)

    def _again(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Do what a signal handler's exception has interrupted; another one may come meanwhile."""
        last: BaseException | None = None
        for _ in range(_TRIES):
            try:
                step(*args, **kwargs)
                break
            except BaseException as error:  # noqa: BLE001 - raised at the end
                if isinstance(error, Exception) and not self._struck(error):
                    break
                last = error
        if last is not None:
            raise last

    def _struck(self, error: Exception) -> bool:
        """Tell whether a signal handler of the host raised this; otherwise it is our own fault."""
        # The host may have come close to its recursion limit: only the first step takes a frame.
        try:
            if is_the_hosts(error):
                return True
        except RecursionError:
            pass
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
        return False


def _after(ended: str, indent: int) -> str:
    """Spell what comes after the host's function, which ended like this."""
    return textwrap.indent(_AFTER.format(ended=ended).strip("\n"), " " * indent)


def _given(instance: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return args if instance is None else (instance, *args)


def _ended(raised: BaseException) -> BaseException | None:
    """Return what the host's function raised; None if it had returned before that was raised.

    A signal handler's exception may come when the function is done and its result is not stored
    yet. Then the handler's is the next frame, or there is none, as Python's own is in C.
    """
    trace = raised.__traceback__
    inside = None if trace is None else trace.tb_next
    if inside is None:
        return raised if isinstance(raised, Exception) else None
    return None if is_a_handler(inside.tb_frame.f_code) else raised


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
