"""gunicorn's workers come and go; what is counted of them is what their upstream has counted."""

from __future__ import annotations

import contextlib

import pytest

from commands import counts_of, own_counts
from peers import eventually, keep_alive
from services import Multiprocess, UnderRun

pytest.importorskip("gunicorn", reason="gunicorn is not installed")


@pytest.fixture
def start(serve, tmp_path, tls, authority):
    """Start services that live as long as the test."""
    with contextlib.ExitStack() as stack:

        def start(observed, kind, *, secure=False, **options):
            if kind == "gevent":
                pytest.importorskip("gevent", reason="gevent is not installed")
            upstream = serve(keep_alive, tls=tls if secure else None)
            return stack.enter_context(
                observed(tmp_path, upstream, kind, authority.file, **options)
            )

        yield start


@pytest.mark.parametrize(
    ("observed", "kind", "options"),
    [
        pytest.param(UnderRun, "sync", {"preload": True}, id="run-sync-preload"),
        pytest.param(UnderRun, "gthread", {"secure": True}, id="run-gthread-tls"),
        pytest.param(UnderRun, "gevent", {"preload": True}, id="run-gevent-preload"),
        pytest.param(Multiprocess, "sync", {"secure": True}, id="multiprocess-sync-tls"),
        pytest.param(Multiprocess, "gthread", {"preload": True}, id="multiprocess-gthread-preload"),
        pytest.param(Multiprocess, "gevent", {"early": True}, id="multiprocess-gevent"),
    ],
)
def test_nothing_is_lost_when_workers_come_and_go(start, observed, kind, options):
    service = start(observed, kind, **options)
    upstream = service.upstream
    # --max-requests ends them one after the other.
    while len(service.served) < 4:
        service.ask(1 if service.preload else 4)
        service.row()
    assert eventually(service.is_settled)
    service.set_max_requests(0)
    service.reload()
    service.ask()
    [worker] = service.served.keys() & service.workers
    assert eventually(service.is_told)

    service.kill(worker)
    # The connection of its own that it had open went without a word.
    lost = 0 if service.preload else 1
    assert eventually(lambda: service.is_told(lost))
    service.ask()
    row = service.end()

    upstream.wait(closed=upstream.accepted)
    assert row["requests"]["answered"] == 2 * sum(service.served.values()) + service.preload
    assert counts_of({"origins": [row]}, upstream) == own_counts(upstream)
    assert row["connections"]["closed"] == upstream.accepted - lost
    assert row["requests"]["failed"] == {}
    levels = [row["connections"]["open"], *(row["pool"][name] for name in ("pools_open", "max"))]
    assert levels == [0, 0, 0]
