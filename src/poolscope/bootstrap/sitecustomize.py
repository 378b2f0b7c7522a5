"""Attaches a Python process that ``poolscope run`` started, then makes way for the user's own.

Runs in every Python process of the command, of whatever version and environment, before its
first line: it must never fail, and leave ``sys.path`` and ``sitecustomize`` as they would be.
"""

import os
import sys


def _make_way() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if entry != here]
    sys.path_importer_cache.pop(here, None)


def _attach() -> None:
    path = os.environ.get("POOLSCOPE_RUN_SOCKET")
    if not path:
        return
    try:
        from poolscope import relay  # noqa: PLC0415 - it may not be there

        relay.attach(path)
    except Exception as error:  # noqa: BLE001 - the command goes on without us
        _refuse(path, error)


def _refuse(path: str, error: Exception) -> None:
    try:
        import json  # noqa: PLC0415 - only when it is needed
        import socket  # noqa: PLC0415 - likewise

        why = "%s: %s" % (type(error).__name__, error)  # noqa: UP031 - any Python may run this
        line = {"pid": os.getpid(), "executable": sys.executable, "refused": why}
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(1.0)
        connection.connect(path)
        connection.sendall(json.dumps(line).encode() + b"\n")
        connection.close()
    except Exception:  # noqa: BLE001, S110 - nobody is there to be told
        pass


_make_way()
_attach()

# The user's own, or the system's: as if we had not been here, errors included.
_ours = sys.modules.pop("sitecustomize", None)
try:
    import sitecustomize  # type: ignore[import-not-found] # noqa: F401 - imported to run
except ImportError as _error:
    if _error.name != "sitecustomize":
        raise
    if _ours is not None:
        sys.modules["sitecustomize"] = _ours
