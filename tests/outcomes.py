"""What the host sees of a call: its result, or its exception with chain, message and traceback."""

from __future__ import annotations

import re
import traceback

_ADDRESS = re.compile(r"0x[0-9a-f]+")


def attempt(call, *args, **kwargs):
    """Call, and return what came of it in a form that can be compared between two runs."""
    try:
        return result_of(call(*args, **kwargs))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the outcome
        return described(error)


def result_of(result):
    """Spell a result without what differs from run to run."""
    if hasattr(result, "status") and hasattr(result, "headers"):
        return result.status, list(result.headers.items()), result.data
    return _ADDRESS.sub("0x", repr(result))


def described(error):
    """Spell an exception and all that hang on it, without our frames in the tracebacks."""
    chain = []
    while error is not None and len(chain) < 20:
        chain.append(
            (
                type(error).__qualname__,
                _ADDRESS.sub("0x", str(error)),
                error.__suppress_context__,
                error.__cause__ is None,
                frames_of(error),
            )
        )
        error = error.__cause__ or error.__context__
    return chain


def frames_of(error):
    """Name the frames of a traceback; ours must be the only ones that poolscope adds."""
    return [
        (frame.f_code.co_name, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not is_ours(frame)
    ]


def natively_and_attached(scope, serve, handler, call, **options):
    """Call with a server of its own each, and return what came of it without us and with us.

    That is what the host saw, and what its server received, byte for byte; last comes the
    attached call's server.
    """
    outcomes = []
    for turn in (scope.detach, scope.attach):
        turn()
        server = serve(handler, **options)
        seen = call(server)
        received = [(peer.raw, peer.answered) for peer in server.peers if peer.raw]
        outcomes.append(repr((seen, received)).replace(str(server.port), "PORT"))
    return (*outcomes, server)


def is_ours(frame):
    """Tell our frames, and those of the wrappers that we put in, from the host's."""
    module = frame.f_globals.get("__name__") or "poolscope"  # a spelled-out hook has no module
    return module.split(".")[0] in ("poolscope", "wrapt")
