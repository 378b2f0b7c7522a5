"""``poolscope check``: what is installed, which hooks took, what is degraded and why."""

from __future__ import annotations

import importlib
import platform
from dataclasses import asdict
from importlib import metadata

import poolscope
from poolscope import config
from poolscope.advice.words import clean
from poolscope.backends import BACKENDS
from poolscope.clients import CLIENTS
from poolscope.patcher import Patcher
from poolscope.process import Process

#: Neighbours with which counts are not all true, and how far.
LIMITS = {
    "httpretty": "what it plays counts as if it had been on the wire",
    "vcrpy": "a request that its cassette refuses counts as failed, and with urllib3 1.26 an "
    "answer that it plays between recorded ones counts as given",
}
_UNKNOWN = "of unknown version"


def run() -> int:
    """Print the findings; return 0 if everything works, 1 if something does not."""
    disabled = config.disabled()
    settings = config.Settings() if disabled else config.settings()
    print(f"poolscope {poolscope.__version__}, Python {platform.python_version()}")
    if disabled:
        print("disabled: POOLSCOPE_DISABLED is set")
        return 1
    for name, value in asdict(settings).items():
        shown = ("no", "yes")[value] if isinstance(value, bool) else value
        print(f"{name}: {shown}")
    print(f"wrapt {_version('wrapt')}: {_wrapt()}")
    for backend in BACKENDS:
        state = _version(backend.vendor) if backend.installed else "not installed"
        print(f"{backend.vendor} {state}")
    watched = [_client(row.package, settings) for row in CLIENTS]
    for neighbour, limit in LIMITS.items():
        if (version := _version(neighbour)) != _UNKNOWN:
            print(f"{neighbour} {version}: {limit}")
    return 0 if all(watched) else 1


def _client(package: str, settings: config.Settings) -> bool:
    try:
        importlib.import_module(package)
    except ImportError as error:
        print(f"{package}: not watched, it can't be imported ({clean(str(error))})")
        return False
    process = Process(settings)
    process.attach(())
    try:
        return _hooks(package, process.patchers.get(package))
    finally:
        process.detach()


def _hooks(package: str, patcher: Patcher | None) -> bool:
    version = _version(package)
    if patcher is None or patcher.refused:
        print(f"{package} {version}: not watched{': ' + patcher.refused if patcher else ''}")
        return False
    print(f"{package} {version}:")
    for patch in patcher.patches:
        print(f"  hooked    {patch.target}")
    for name in patcher.waiting:
        print(f"  waiting   {name}: hooked when it is imported")
    for name in patcher.degraded:
        print(f"  degraded  {name}: not in this version; less telemetry")
    return not patcher.degraded


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return _UNKNOWN


def _wrapt() -> str:
    import wrapt  # noqa: PLC0415 - only to look at it

    if wrapt.FunctionWrapper.__module__ == "_wrappers":
        return "with its C extension"
    return "without its C extension: hooks cost four times as much"
