"""Our own faults: counted, told once, and none of the host's business."""

from __future__ import annotations

import dataclasses
import logging
import traceback

import pytest
import urllib3

import poolscope
from peers import HOST, free_port, keep_alive


@pytest.fixture
def break_hook(scope, monkeypatch):
    """Make a hook of ours raise; the list that comes back has an entry for every time."""

    def break_hook(target, side):
        calls = []

        def broken(*_args, **_kwargs):
            calls.append(target)
            raise ZeroDivisionError

        patcher = poolscope._process.patchers["urllib3"]
        scope.detach()
        hooks = [
            dataclasses.replace(hook, **{side: broken}) if hook.name == target else hook
            for hook in patcher.hooks
        ]
        monkeypatch.setattr(patcher, "hooks", tuple(hooks))
        scope.attach()
        return calls

    return break_hook


@pytest.mark.parametrize(
    ("method", "side"),
    [("_validate_conn", "before"), ("_get_conn", "before"), ("_get_conn", "after")],
)
def test_a_hook_that_faults_five_times_goes_dormant(scope, serve, break_hook, method, side):
    target = f"urllib3.connectionpool.HTTPConnectionPool.{method}"
    calls = break_hook(target, side)
    server = serve(keep_alive)
    with urllib3.HTTPConnectionPool(HOST, server.port, block=True) as pool:
        for _ in range(8):
            assert pool.request("GET", "/").data == b"ok"
    assert (server.accepted, server.answered) == (1, 8)
    assert len(calls) == 5
    scope.faults = {target: 5}


@pytest.mark.parametrize(
    ("target", "side"),
    [
        ("urllib3.connectionpool.HTTPConnectionPool._validate_conn", "before"),
        ("urllib3.connectionpool.HTTPConnectionPool._put_conn", "before"),
        ("urllib3.connectionpool.HTTPConnectionPool._new_conn", "after"),
        ("urllib3.connectionpool.HTTPConnectionPool.close", "before"),
        ("urllib3.connection.HTTPConnection._new_conn", "before"),
        ("urllib3.connection.HTTPConnection._new_conn", "after"),
        ("urllib3.connection.HTTPConnection.connect", "before"),
        ("urllib3.connection.HTTPConnection.connect", "after"),
        ("urllib3.connection.HTTPConnection.close", "before"),
    ],
)
def test_no_faulty_hook_reaches_the_host(scope, serve, break_hook, target, side):
    calls = break_hook(target, side)
    server = serve(keep_alive)
    for _ in range(7):
        with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
            assert pool.request("GET", "/").data == b"ok"
    assert (server.accepted, server.answered) == (7, 7)
    assert len(calls) == 5
    scope.faults = {target: 5}


def test_a_fault_while_the_host_raises_leaves_the_hosts_exception(scope, break_hook):
    target = "urllib3.connection.HTTPConnection.connect"
    break_hook(target, "after")
    with (
        urllib3.HTTPConnectionPool(HOST, free_port()) as pool,
        pytest.raises(urllib3.exceptions.NewConnectionError) as caught,
    ):
        pool.request("GET", "/", retries=False)
    chain = [type(error) for error in (caught.value.__cause__, caught.value.__context__)]
    assert ZeroDivisionError not in chain
    scope.faults = {target: 1}


def test_a_fault_is_logged_once_and_never_on_the_hosts_stack(scope, serve, break_hook, monkeypatch):
    target = "urllib3.connection.HTTPConnection.connect"
    break_hook(target, "before")
    monkeypatch.setattr(poolscope._process.scope, "_told_faults", set())
    loggers = []
    log = logging.getLogger("poolscope")
    monkeypatch.setattr(log, "handlers", [Where(loggers)])
    server = serve(keep_alive)
    for _ in range(3):
        with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
            assert pool.request("GET", "/").data == b"ok"
    poolscope.snapshot()
    poolscope.snapshot()
    (frames,) = (frames for message, frames in loggers if target in message)
    assert "urlopen" not in frames
    scope.faults = {target: 3}


class Where(logging.Handler):
    """Notes on which functions' behalf a message was logged."""

    def __init__(self, messages):
        super().__init__()
        self._messages = messages

    def emit(self, record):
        frames = {frame.name for frame in traceback.extract_stack()}
        self._messages.append((record.getMessage(), frames))
