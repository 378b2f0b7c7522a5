"""Ends that are no ``atexit``'s: all is told, and everything is as if nobody had been there."""

from __future__ import annotations

import copy
import inspect
import os
import pickle
import signal
import socket
import subprocess
import sys
import textwrap
import threading

import pytest
import urllib3

import poolscope
from commands import Running, counts_of, origin_of, own_counts, report_of, run
from peers import HOST, asks, eventually, keep_alive
from poolscope import departures

PYTHON = sys.executable
NAMES = [(module, name) for module, name in departures._ENDS]

PROGRAM = """
import multiprocessing, os, signal, sys, threading
import urllib3
kept = urllib3.PoolManager()
def fetch(*_):
    kept.request("GET", os.environ["UPSTREAM"])
"""


@pytest.fixture
def program(tmp_path):
    """Write a program whose ``fetch`` makes a request on a connection that it keeps open."""

    def write(text):
        path = tmp_path / "program.py"
        path.write_text(PROGRAM + textwrap.dedent(text))
        return path

    return write


ENDS = {
    "fetch(); os._exit(3)": 3,
    "fetch(); os.abort()": -signal.SIGABRT,
    "fetch(); os.execvp('true', ['true'])": 0,
    "fetch(); os.execlpe('sh', 'sh', '-c', 'exit 7', {'PATH': '/bin'})": 7,
    "fetch(); os.kill(os.getpid(), signal.SIGTERM)": -signal.SIGTERM,
    "fetch(); os.kill(os.getpid(), signal.SIGKILL)": -signal.SIGKILL,
    "fetch(); os.setsid(); os.killpg(0, signal.SIGHUP)": -signal.SIGHUP,
    "fetch(); os.setsid(); os.kill(0, signal.SIGUSR1)": -signal.SIGUSR1,
    "fetch(); signal.raise_signal(signal.SIGTERM)": -signal.SIGTERM,
    "fetch(); signal.pthread_kill(threading.get_ident(), signal.SIGALRM)": -signal.SIGALRM,
    # As uvicorn does: handled, then the default again, then raised.
    """
    def handler(number, _frame):
        fetch()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    signal.signal(signal.SIGTERM, handler)
    os.kill(os.getpid(), signal.SIGTERM)
    """: -signal.SIGTERM,
    "signal.signal(15, lambda *_: (fetch(), os._exit(4))); os.kill(os.getpid(), 15)": 4,
    "threading.Thread(target=lambda: (fetch(), os._exit(5))).start(); threading.Event().wait()": 5,
    "import atexit; atexit.register(os._exit, 6); fetch()": 6,
    "fetch(); (pid := os.fork()) or (fetch(), os._exit(0)); os.waitpid(pid, 0); sys.exit(8)": 8,
}


def closed(report, server):
    return origin_of(report, server)["connections"]["closed_by_reason"]


@pytest.mark.parametrize("end", ENDS)
def test_an_end_that_python_sees_tells_everything(serve, program, end):
    server = serve(keep_alive)
    result = run(PYTHON, program(end), env=os.environ | {"UPSTREAM": server.url})
    report = report_of(result)
    assert counts_of(report, server) == own_counts(server)
    assert closed(report, server) == {"exit": server.accepted}
    assert (result.returncode, report["incomplete"]) == (ENDS[end], [])


NO_ENDS = (
    "os.kill(os.getpid(), 0)",
    "os.kill(os.getpid(), signal.SIGWINCH)",
    "os.kill(os.getpid(), signal.SIGCHLD)",
    "signal.signal(15, fetch); os.kill(os.getpid(), 15)",
    "signal.signal(15, signal.SIG_IGN); signal.raise_signal(15)",
    "signal.pthread_sigmask(signal.SIG_BLOCK, [15]); signal.raise_signal(15)",
)


@pytest.mark.parametrize("no_end", NO_ENDS)
def test_what_is_no_end_passes_through(serve, program, no_end):
    """Its open connection stays open, and is used again."""
    server = serve(keep_alive)
    path = program(f"fetch(); {no_end}; fetch(); sys.exit(2)")
    result = run(PYTHON, path, env=os.environ | {"UPSTREAM": server.url})
    report = report_of(result)
    assert counts_of(report, server) == own_counts(server)
    assert origin_of(report, server)["connections"]["opened"] == 1
    assert (result.returncode, closed(report, server)) == (2, {"exit": 1})


def test_an_end_that_fails_is_gone_on_from(serve, program, tmp_path):
    """As by ``execvp``, which tries one directory after the other."""
    server = serve(keep_alive)
    (tmp_path / "none").write_text("echo a script of the shell\n")
    (tmp_path / "none").chmod(0o755)
    path = program(
        """
        import errno
        fetch()
        for path in ("none", "missing", "."):
            try:
                os.execv(path, [path])
            except OSError as error:
                print(errno.errorcode[error.errno])
        try:
            os._exit("1")
        except TypeError as error:
            print(error)
        fetch()
        """
    )
    result = run(PYTHON, path, env=os.environ | {"UPSTREAM": server.url}, cwd=tmp_path)
    report = report_of(result)
    *codes, complaint = result.stdout.splitlines()
    assert codes == ["ENOEXEC", "ENOENT", "EACCES"]
    assert "int" in complaint
    assert counts_of(report, server) == own_counts(server) == (1, 0, 2)
    assert report["incomplete"] == []


def test_a_process_that_is_killed_is_not_called_healthy(serve, program):
    server = serve(keep_alive)
    text = """
        import subprocess, time
        if len(sys.argv) > 1:
            for _ in range(20): fetch()
            time.sleep(1.5)
            print("up", flush=True)
            time.sleep(60)
        child = subprocess.Popen([sys.executable, __file__, "child"], stdout=subprocess.PIPE)
        child.stdout.readline()
        child.kill()
        child.wait()
    """
    path = program(text)
    result = run(PYTHON, path, env=os.environ | {"UPSTREAM": server.url})
    [sentence] = report_of(result)["incomplete"]
    assert sentence.startswith("1 of 2 Python processes ended without a good-bye (killed")
    assert counts_of(report_of(result), server) == own_counts(server) == (1, 0, 20)


# ---- the functions are the host's own


def test_a_program_that_turns_out_to_be_broken_is_gone_on_from(serve, program, tmp_path):
    """It looks as if it could be executed, so what was open was told to be closed."""
    server = serve(keep_alive)
    (tmp_path / "broken").write_bytes(b"\x7fELF")
    (tmp_path / "broken").chmod(0o755)
    path = program(
        """
        fetch()
        try:
            os.execv("broken", ["broken"])
        except OSError:
            fetch()
        """
    )
    result = run(PYTHON, path, env=os.environ | {"UPSTREAM": server.url}, cwd=tmp_path)
    report = report_of(result)
    assert counts_of(report, server) == own_counts(server) == (1, 0, 2)
    assert closed(report, server) == {"exit": 1}
    assert (result.returncode, report["incomplete"]) == (0, [])


@pytest.fixture
def attached():
    before = [getattr(module, name) for module, name in NAMES]
    poolscope.instrument(())
    yield
    poolscope.uninstrument()
    assert [getattr(module, name) for module, name in NAMES] == before
    assert all(a is b for a, b in zip(before, (getattr(m, n) for m, n in NAMES)))


@pytest.mark.usefixtures("attached")
@pytest.mark.parametrize(("module", "name"), NAMES, ids=str)
def test_a_function_looks_like_itself(module, name):
    function = getattr(module, name)
    original = function.__wrapped__
    assert callable(function)
    assert repr(function) == repr(original)
    assert (function.__name__, function.__doc__) == (original.__name__, original.__doc__)
    assert inspect.signature(function) == inspect.signature(original)
    assert copy.copy(function) is copy.deepcopy(function) is function
    assert pickle.loads(pickle.dumps(function)) is function


@pytest.mark.usefixtures("attached")
def test_a_function_in_a_class_is_no_method():
    class Killer:
        kill = os.kill

    assert Killer().kill(os.getpid(), 0) is None


@pytest.mark.usefixtures("attached")
@pytest.mark.parametrize("arguments", [(), (1,), (1, 2, 3), ("x", 9), (None, None)])
def test_wrong_arguments_are_complained_of_as_ever(arguments):
    with pytest.raises(TypeError) as ours:
        os.kill(*arguments)
    with pytest.raises(TypeError) as native:
        os.kill.__wrapped__(*arguments)
    assert str(ours.value) == str(native.value)


def test_a_wrapper_on_top_of_ours_stays():
    original = os.kill
    poolscope.instrument(())
    ours = os.kill
    calls = []

    def theirs(*args):
        calls.append(args)
        return ours(*args)

    os.kill = theirs
    try:
        poolscope.uninstrument()
        assert os.kill is theirs
        os.kill(os.getpid(), 0)
        assert len(calls) == 1
        assert not ours.active
        poolscope.instrument(())
        assert os.kill is theirs
        assert ours.active
    finally:
        os.kill = ours
        poolscope.uninstrument()
        assert os.kill is original


def test_last_words_that_never_end_are_not_waited_for(monkeypatch):
    monkeypatch.setattr(departures, "_PATIENCE", 0.05)
    stuck, spoke = threading.Event(), threading.Event()

    def finish():
        spoke.set()
        stuck.wait()

    one = departures.Departures(finish, lambda: None, lambda: True)
    one.depart()
    assert spoke.is_set()
    stuck.set()


def test_what_can_be_asked_of_a_function_is_answered_as_before(scope):
    """Whether it takes a descriptor, for one."""
    assert scope is not None
    assert os.execve is not os.execve.__wrapped__
    assert os.execve in os.supports_fd
    assert os.kill == os.kill.__wrapped__
    assert {os.kill.__wrapped__: 1}[os.kill] == 1


@pytest.mark.usefixtures("scope")
def test_two_threads_that_depart_and_stay_lose_no_observer():
    process = poolscope._process
    before = process.scope.observers
    process._leave()
    process._leave()
    process._stay()
    process._stay()
    assert process.scope.observers == before


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.usefixtures("scope")
@pytest.mark.parametrize("counts", [False, True])
def test_a_child_that_counted_nothing_ends_without_a_thread_of_ours(serve, counts):
    """Programs that fork for a moment would start one for nothing."""
    server = serve(keep_alive)
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        poolscope._process._departures.depart = lambda: os.write(writer, b"departs")
        if counts:
            urllib3.PoolManager().request("GET", server.url)
        os._exit(0)
    os.close(writer)
    assert os.waitpid(pid, 0)[1] == 0
    with os.fdopen(reader) as pipe:
        assert pipe.read() == ("departs" if counts else "")


# ---- servers


APP = """
import os
import urllib3
pool = urllib3.PoolManager()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                open(f"up-{os.getpid()}", "w").close()
            await send({"type": f"{message['type']}.complete"})
    pool.request("GET", os.environ["UPSTREAM"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_uvicorn_tells_everything_when_it_is_stopped(serve, tmp_path, number, workers):
    """It shuts down in good order and then raises the signal again, for all to see."""
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    server = serve(keep_alive)
    (tmp_path / "service.py").write_text(APP)
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
    command = [PYTHON, "-m", "uvicorn", "--port", port, "--workers", workers, "service:app"]
    environ = os.environ | {"UPSTREAM": server.url}
    with Running(*command, env=environ, cwd=tmp_path) as running:
        # One that handles no signals yet would be killed by them.
        assert eventually(lambda: len(list(tmp_path.glob("up-*"))) == workers)
        assert eventually(lambda: asks(port))
        for _ in range(29):
            assert asks(port)
        running.send(number)
        status, errors = running.end()
    report = report_of(subprocess.CompletedProcess([], status, "", errors))
    server.wait(answered=30)
    assert counts_of(report, server) == own_counts(server)
    assert server.answered == 30
    assert closed(report, server) == {"exit": server.accepted}
    assert report["incomplete"] == []
