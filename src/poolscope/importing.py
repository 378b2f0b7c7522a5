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
    _finder.faults = faults
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    _finder.waiting.setdefault(module, []).append(shielded)


class _Finder:
    """Is asked where modules are; finds nothing itself, but sees what others have found."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[Callable[[], None]]] = {}
        self._asking: set[str] = set()
        self.faults: Any = []

    def fault(self, name: str, error: Exception) -> None:
        """Keep a fault of ours for later, and let one of the host's signal handlers through."""
        if is_the_hosts(error):
            raise error
        self.faults.append((f"import of {name}", spelled(error)))

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Put a loader in between for a module that somebody waits for."""
        try:
            if name not in self.waiting or name in self._asking:
                return None
            self._asking.add(name)
            try:
                spec = self._found(name, path, target)
            finally:
                self._asking.discard(name)
            if spec is not None and hasattr(spec.loader, "exec_module"):
                spec.loader = _Loader(spec.loader)  # type: ignore[assignment] # as far as it is asked
        except Exception as error:  # noqa: BLE001 - let through if it is the host's
            self.fault(name, error)
            return None  # the next finder says what is wrong, if it is not we
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
        if name == "_loader":  # of one that is being copied
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create it as the loader does."""
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        """Execute it as the loader does, which it then belongs to, and tell who waits."""
        try:
            if module.__spec__ is not None:
                module.__spec__.loader = self._loader
            module.__loader__ = self._loader
        except Exception as error:  # noqa: BLE001 - as above
            _finder.fault(module.__name__, error)
        self._loader.exec_module(module)
        try:
            if sys.modules.get(module.__name__) is module:
                for act in _finder.waiting.pop(module.__name__, ()):
                    act()
        except Exception as error:  # noqa: BLE001 - as above
            _finder.fault(module.__name__, error)


_finder = _Finder()
