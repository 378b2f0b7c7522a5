"""Tells when a module has been imported; wrapt's way takes 50 ms of every process's start."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from poolscope.shield import is_the_hosts, spelled


def when_imported(module: str, act: Callable[[], None], faults: Any) -> None:
    """Call ``act`` once ``module`` is imported, at once if it is.

    Its ``faults`` are told later and don't fail the host's import. It can't be called off, so it
    must know when it is not wanted any more.
    """

    def shielded() -> None:
        try:
            act()
        except Exception as error:
            if is_the_hosts(error):
                raise
            faults.append((f"import of {module}", spelled(error)))

    if module in sys.modules:
        shielded()
        return
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    _finder.waiting.setdefault(module, []).append(shielded)


class _Finder:
    """Is asked where modules are; finds nothing itself, but sees what others have found."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[Callable[[], None]]] = {}
        self._asking: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Put a loader in between for a module that somebody waits for."""
        if name not in self.waiting or name in self._asking:
            return None
        self._asking.add(name)
        try:
            spec = self._found(name, path, target)
        finally:
            self._asking.discard(name)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment] # as far as it is asked
        return spec

    def _found(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)  # some have older ways
            if finder is not self and find is not None:
                spec: ModuleSpec | None = find(name, path, target)
                if spec is not None:
                    return spec
        return None


class _Loader:
    """Stands before a loader until its module is executed, and is gone by then."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create it as the loader does."""
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        """Execute it as the loader does, which it then belongs to, and tell who waits."""
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        if sys.modules.get(module.__name__) is module:
            for act in _finder.waiting.pop(module.__name__, ()):
                act()


_finder = _Finder()
