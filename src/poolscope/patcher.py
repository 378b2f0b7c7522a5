"""Puts a client's hooks in as its modules get imported, and takes them out again."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from typing import Any

from poolscope.importing import when_imported
from poolscope.patching import Hook, Patch, has_a_copys_hook
from poolscope.shield import is_the_hosts, say, spelled


def _class(module: Any, name: str) -> Any:
    """Find a class of the host's, perhaps behind a subclass that somebody has put in its place.

    vcrpy does that while a cassette is in, urllib3's own HTTP/2 for good.
    """
    found = getattr(module, name, None)
    for base in getattr(found, "__mro__", ()):
        if (base.__module__, base.__name__) == (module.__name__, name):
            return base
    return found


class Patcher:
    """Puts a client's hooks in as its modules get imported, and takes them out."""

    def __init__(self, hooks: Iterable[Hook], faults: Any, refuse: Callable[[], str]) -> None:
        self.hooks = tuple(hooks)
        self.patches: list[Patch] = []
        self.missing: list[Hook] = []
        #: Why the installed client is not supported; "" if it is.
        self.refused = ""
        self._faults = faults
        self._refuse = refuse
        self._attached = False
        self._waiting: set[str] = set()

    def attach(self) -> None:
        """Put hooks into what is imported now, and into the rest when it gets imported."""
        self._attached = True
        self.refused = ""
        for module in dict.fromkeys(hook.module for hook in self.hooks):
            if module in sys.modules:
                self._hook_module(sys.modules[module])
            elif module not in self._waiting:
                self._waiting.add(module)
                when_imported(module, functools.partial(self._on_import, module), self._faults)

    def detach(self) -> None:
        """Take all hooks out."""
        self._attached = False
        for patch in reversed(self.patches):
            try:
                patch.remove()
            except Exception as error:
                if is_the_hosts(error):
                    raise
                self._faults.append((patch.target, spelled(error)))
        self.patches = [patch for patch in self.patches if patch.wrapper is not None]

    def _on_import(self, name: str) -> None:
        if self._attached:
            self._hook_module(sys.modules[name])

    def _hook_module(self, module: Any) -> None:
        if self.refused:
            return
        self.refused = self._refuse() or self._is_taken(module)
        if self.refused:
            say("poolscope: %s.", self.refused)
            return
        for hook in self.hooks:
            if hook.module == module.__name__:
                for owner, attribute in self._owners(hook, module):
                    self._patch(hook, owner, attribute).apply()

    def _is_taken(self, module: Any) -> str:
        """Return why hooks would count everything twice, or ""."""
        for hook in self.hooks:
            owners = self._owners(hook, module) if hook.module == module.__name__ else ()
            for owner, attribute in owners:
                if has_a_copys_hook(vars(owner).get(attribute)):
                    return "another copy of poolscope in this process is attached already"
        return ""

    def _owners(self, hook: Hook, module: Any) -> list[tuple[Any, str]]:
        *class_name, attribute = hook.path.split(".")
        owner = _class(module, class_name[0]) if class_name else module
        if not hasattr(owner, attribute):
            self._miss(hook)
            return []
        also = (_class(module, name) for name in hook.also)
        return [(owner, attribute)] + [
            (other, attribute) for other in also if other is not None and attribute in vars(other)
        ]

    def _miss(self, hook: Hook) -> None:
        before = self.degraded
        self.missing.append(hook)
        for name in self.degraded:
            if name not in before:
                say("poolscope: %s is not there in this version: less telemetry.", name)

    def _patch(self, hook: Hook, owner: Any, attribute: str) -> Patch:
        for patch in self.patches:
            if patch.owner is owner and patch.attribute == attribute:
                return patch
        patch = Patch(hook, owner, attribute, self._faults)
        self.patches.append(patch)
        return patch

    @property
    def degraded(self) -> list[str]:
        """Name the hook points that this version of the client lacks."""
        possible = {hook.group for hook in self.hooks if hook not in self.missing}
        return [hook.name for hook in self.missing if not hook.group or hook.group not in possible]

    @property
    def waiting(self) -> list[str]:
        """Name the hook points in modules that the application has not imported."""
        return [hook.name for hook in self.hooks if hook.module not in sys.modules]
