"""``poolscope run`` in trouble: nothing is lost, the command is not disturbed, nothing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from commands import CLI, Running, counts_of, own_counts, report_in, report_of, run
from peers import keep_alive
from poolscope.cli import account, main

PYTHON = sys.executable
linux = pytest.mark.skipif(sys.platform != "linux", reason="stops processes")


@pytest.fixture
def script(tmp_path):
    """Write a script and return its path."""

    def write(text, name="service.py"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return write


@pytest.fixture
def home():
    """Return an environment with a directory for temporary files that is left empty.

    Its name is short enough for a socket's.
    """
    with tempfile.TemporaryDirectory(prefix="home-", dir="/tmp") as home:
        yield os.environ | {"TMPDIR": home}
        assert list(Path(home).iterdir()) == []


BURST = """
    import os, sys
    import urllib3
    number = int(sys.argv[2])
    reader, writer = os.pipe()
    for _ in range(number):
        if os.fork() == 0:
            os.close(writer)
            os.read(reader, 1)  # until all are there
            urllib3.PoolManager().request("GET", sys.argv[1])
            os._exit(0)
    os.close(writer)
    sys.exit(sum(os.wait()[1] for _ in range(number)))
"""


@pytest.mark.parametrize(("number", "limit"), [(400, 1024), (100, 40)])
def test_a_burst_of_processes_loses_none(serve, script, home, number, limit):
    """Even where there are less descriptors than processes."""
    server = serve(keep_alive)
    command = [*CLI, "run", "--port", 0, "--json", "--", PYTHON, script(BURST), server.url, number]
    limited = ["bash", "-c", f'ulimit -n {limit}; exec "$@"', "bash", *map(str, command)]
    result = subprocess.run(limited, env=home, capture_output=True, text=True, check=False)
    report = report_of(result)
    assert own_counts(server) == (number, 0, number)
    assert counts_of(report, server) == own_counts(server)
    assert (result.returncode, report["incomplete"], report["faults"]) == (0, [], {})


CHILDREN = """
    import os, subprocess, sys
    import urllib3
    if len(sys.argv) > 2:
        for _ in range(3):
            urllib3.PoolManager().request("GET", sys.argv[1])
        sys.exit()
    print("up", flush=True)
    for line in sys.stdin:
        children = [subprocess.Popen([sys.executable, *sys.argv, "child"]) for _ in range(4)]
        for _ in range(8):
            if os.fork() == 0:
                urllib3.PoolManager().request("GET", sys.argv[1])
                sys.exit()
        for child in children:
            child.wait()
        for _ in range(8):
            os.wait()
        print("done", flush=True)
"""


@linux
def test_a_stopped_collector_stops_nobody_and_loses_nothing(serve, script, home):
    server = serve(keep_alive)
    with Running(PYTHON, script(CHILDREN), server.url, env=home) as running:
        assert running.line() == "up"
        running.send(signal.SIGSTOP)
        for _ in range(2):
            running.tell("go")
            assert running.line() == "done"
        running.send(signal.SIGCONT)
        status, errors = running.end()
    report = report_in(errors)
    assert own_counts(server) == (40, 0, 40)
    assert counts_of(report, server) == own_counts(server)
    assert (status, report["incomplete"]) == (0, [])


RUDE = """
    import os, socket, sys
    import urllib3
    kept = urllib3.PoolManager()
    for line in (b"[]\\n", b"[]\\n", b"{" * 99_999 + b"\\n", b"x" * 2_000_000, b'{"rows": [3'):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(os.environ["POOLSCOPE_RUN_SOCKET"])
            try:
                connection.sendall(line)
            except OSError:
                pass
        kept.request("GET", sys.argv[1])
    sys.exit(9)
"""


def test_rubbish_on_its_socket_is_told_and_harms_nobody(serve, script, home):
    server = serve(keep_alive)
    result = run(PYTHON, script(RUDE), server.url, env=home)
    report = report_of(result)
    assert counts_of(report, server) == own_counts(server) == (1, 0, 5)
    assert (result.returncode, report["faults"]) == (9, {"collector.line": 5})
    assert "Traceback" not in result.stderr
    assert result.stderr.count("a fault of its own in collector.line") == 1


def test_its_directory_is_its_own(script, home):
    path = script(
        """
        import os
        socket = os.environ["POOLSCOPE_RUN_SOCKET"]
        print(os.path.dirname(os.path.dirname(socket)))
        for path in (os.path.dirname(socket), socket):
            print(oct(os.stat(path).st_mode & 0o777))
        """
    )
    result = run("bash", "-c", f"umask 0; exec {PYTHON} {path}", env=home)
    assert result.stdout.split() == [home["TMPDIR"], "0o700", "0o600"]


def test_there_is_another_place_if_one_is_none(serve, script, tmp_path):
    path = script("import sys, urllib3; urllib3.PoolManager().request('GET', sys.argv[1])")
    (tmp_path / "file").touch()
    for base in ("missing", "x" * 99, "file"):
        server = serve(keep_alive)
        environ = os.environ | {"TMPDIR": str(tmp_path / base)}
        result = run(PYTHON, path, server.url, env=environ)
        assert counts_of(report_of(result), server) == own_counts(server) == (1, 0, 1)


def test_without_any_place_the_command_runs_unattached(monkeypatch, tmp_path):
    monkeypatch.setattr(account, "bases", lambda: [tmp_path / "missing"])
    with pytest.raises(FileNotFoundError):
        account.Account(100, None)
    monkeypatch.setattr(account, "bases", lambda: [tmp_path / "missing", tmp_path])
    found = account.Account(100, None)
    assert Path(found.path).is_socket()
    found.close()
    assert list(tmp_path.iterdir()) == []


def test_without_a_thread_the_command_runs_unattached(home, tmp_path):
    """As under a limit of tasks."""
    (tmp_path / "sitecustomize.py").write_text(
        "import threading\n"
        "def start(self):\n"
        "    raise RuntimeError('can not start new thread')\n"
        "threading.Thread.start = start\n"
    )
    result = run("sh", "-c", "exit 3", env=home | {"PYTHONPATH": str(tmp_path)})
    assert (result.returncode, result.stderr) == (
        3,
        "poolscope: the command runs unattached: can not start new thread.\n",
    )


def test_a_bad_setting_leaves_signals_as_they_were():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert main(["run", "--otlp", "nowhere", "--", "true"]) == 2
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


@linux
def test_what_a_killed_run_leaves_the_next_one_removes(script, home, tmp_path):
    """Those of others, and of those that live, stay."""
    temporary = Path(home["TMPDIR"])
    with Running(PYTHON, script(CHILDREN), "http://127.0.0.1:9", env=home) as running:
        assert running.line() == "up"
        [left] = temporary.iterdir()
        with Running(PYTHON, script(CHILDREN), "http://127.0.0.1:9", env=home) as other:
            assert other.line() == "up"
            [living] = set(temporary.iterdir()) - {left}
            running.send(signal.SIGKILL)
            running.process.wait()
            assert left in temporary.iterdir()
            (temporary / "poolscope-strange").mkdir()
            (temporary / "poolscope-0123456789ab").symlink_to(tmp_path)
            for path in temporary.iterdir():
                os.utime(path, (0, 0), follow_symlinks=False)
            assert run("true", env=home).returncode == 0
            assert {path.name for path in temporary.iterdir()} == {
                living.name, "poolscope-strange", "poolscope-0123456789ab",
            }  # fmt: skip
            (temporary / "poolscope-strange").rmdir()
            (temporary / "poolscope-0123456789ab").unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_worker_that_becomes_another_user_is_heard(serve, script, home):
    """As gunicorn's do with ``--user``: the directory lets them in no more."""
    server = serve(keep_alive)
    path = script(
        """
        import os, sys
        import urllib3
        urllib3.PoolManager().request("GET", sys.argv[1])  # imports all that it needs
        for _ in range(3):
            if os.fork() == 0:
                os.setuid(65534)
                urllib3.PoolManager().request("GET", sys.argv[1])
                sys.exit()
            os.wait()
        if os.fork() == 0:
            os.execv("/bin/true", ["true"])
        os.wait()
        """
    )
    result = run(PYTHON, path, server.url, env=home)
    report = report_of(result)
    assert counts_of(report, server) == own_counts(server) == (4, 0, 4)
    assert report["incomplete"] == []


def test_a_directory_that_is_gone_costs_the_command_nothing(serve, script, home):
    server = serve(keep_alive)
    path = script(
        """
        import os, shutil, sys
        import urllib3
        shutil.rmtree(os.path.dirname(os.environ["POOLSCOPE_RUN_SOCKET"]))
        for _ in range(2):
            urllib3.PoolManager().request("GET", sys.argv[1])
        if os.fork() == 0:
            urllib3.PoolManager().request("GET", sys.argv[1])
            sys.exit()
        os.wait()
        sys.exit(6)
        """
    )
    result = run(PYTHON, path, server.url, env=home)
    # The connection that was there goes on; the child had none and can't make one.
    assert counts_of(report_of(result), server) == (2, 0, 2)
    assert (result.returncode, own_counts(server)) == (6, (3, 0, 3))
