"""Attaches a Python process that ``poolscope run`` started, then makes way for the user's own.

There are two ways in. ``poolscope.pth`` imports this as ``poolscope.bootstrap.sitecustomize`` in
every Python that has poolscope installed: it waits until Python looks for ``sitecustomize``, as
only then the search path is complete. ``PYTHONPATH`` has Python find this as ``sitecustomize`` in
one that has not, unless some other tool's is found before.

Runs in every Python process of the command, of whatever version (2.7, too) and environment,
before its first line: it must never fail, and leave ``sys.path`` and ``sitecustomize`` as they
would be.
"""

import os
import sys

_HERE = os.path.join("poolscope", "bootstrap")


def _make_way():  # type: () -> None
    for entry in [entry for entry in sys.path if entry.endswith(_HERE)]:
        sys.path.remove(entry)
        sys.path_importer_cache.pop(entry, None)


def _attach():  # type: () -> None
    path = os.environ.get("POOLSCOPE_RUN_SOCKET")
    if not path:
        return
    try:
        from poolscope import relay  # noqa: PLC0415 - it may not be there

        relay.attach(path)
    except Exception as error:  # noqa: BLE001 - the command goes on without us
        _refuse(path, error)


def _refuse(path, error):  # type: (str, Exception) -> None
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


class _Waiting:
    """Is asked first where a module is, until it is ``sitecustomize`` that is looked for."""

    def find_spec(self, name, path=None, target=None):  # type: (str, object, object) -> object
        """Attach, and find what would have been found."""
        if name != "sitecustomize":
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type] # it is one of them
        _make_way()
        _attach()
        # Whoever is asking has a list that has moved by one.
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)  # some have older ways
            spec = None if find is None else find(name, path, target)
            if spec is not None:
                return spec
        return None


def _chain():  # type: () -> None
    """Import the user's own, or the system's: as if we had not been here, errors included."""
    ours = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # type: ignore[import-not-found] # noqa: F401, PLC0415 - imported to run
    except ImportError as error:
        if getattr(error, "name", "sitecustomize") != "sitecustomize":
            raise
        if ours is not None:
            sys.modules["sitecustomize"] = ours


if __name__ == "sitecustomize":
    _make_way()
    _attach()
    _chain()
else:
    sys.meta_path.insert(0, _Waiting())  # type: ignore[arg-type] # a finder, as far as it is asked
