"""``poolscope run``: the command is attached, everything that it does stays its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import venv

import pytest

from commands import (
    CLI,
    Running,
    counts_of,
    origin_of,
    own_counts,
    report_of,
    run,
    wait_for_state,
)
from peers import eventually, keep_alive

PYTHON = sys.executable
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads process states from /proc")


@pytest.fixture
def script(tmp_path):
    """Write a script and return its path."""

    def write(text, name="service.py"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return write


LOOK = """
    import os, sys
    print(__name__, sys.argv, sys.path, os.getcwd(), sys.flags, sys.stdin.read())
    print(os.get_terminal_size.__name__, file=sys.stderr)
    sys.exit(int(sys.argv[1]))
"""


def test_a_command_sees_what_it_sees_natively(script):
    command = [PYTHON, str(script(LOOK)), "5", "--port", "-x"]
    options = {"input": "fed\n", "capture_output": True, "text": True}
    native = subprocess.run(command, check=False, **options)
    attached = run(*command, options=["--no-report"], input="fed\n")
    assert (attached.stdout, attached.returncode) == (native.stdout, native.returncode) != ("", 0)
    assert attached.stderr.splitlines()[1:] == native.stderr.splitlines()


CALL = """
    import sys
    import requests
    for _ in range(int(sys.argv[2])):
        requests.get(sys.argv[1])
"""


def test_a_script_is_attached(serve, script):
    server = serve(keep_alive)
    result = run(PYTHON, script(CALL), server.url, 3)
    assert counts_of(report_of(result), server) == own_counts(server) == (3, 0, 3)
    assert result.returncode == 0


def test_a_module_is_attached(serve, script):
    server = serve(keep_alive)
    path = script(CALL, "some_module.py")
    result = run(PYTHON, "-m", "some_module", server.url, 2, cwd=path.parent)
    assert counts_of(report_of(result), server) == own_counts(server) == (2, 0, 2)


def test_python_processes_of_a_shell_script_are_attached(serve, script):
    server = serve(keep_alive)
    path = script(CALL)
    line = f"{PYTHON} {path} {server.url} 2; {PYTHON} {path} {server.url} 1 & wait; exit 9"
    result = run("sh", "-c", line)
    assert counts_of(report_of(result), server) == own_counts(server) == (3, 0, 3)
    assert result.returncode == 9


def test_nested_and_forked_processes_add_up(serve, script):
    server = serve(keep_alive)
    path = script(
        """
        import os, subprocess, sys
        import requests
        session = requests.Session()
        session.get(sys.argv[1])
        if len(sys.argv) == 2:
            subprocess.run([sys.executable, __file__, sys.argv[1], "nested"], check=True)
            if os.fork() == 0:
                requests.get(sys.argv[1])
                sys.exit()
            os.wait()
        session.get(sys.argv[1])
        """
    )
    result = run(PYTHON, path, server.url)
    report = report_of(result)
    assert counts_of(report, server) == own_counts(server) == (3, 0, 5)
    # A fresh process's first connection is its first, a forked child's too.
    assert origin_of(report, server)["connections"]["opened_by_cause"] == {"first": 3}


def test_children_of_multiprocessing_are_counted_to_their_last_request(serve, script):
    server = serve(keep_alive)
    path = script(
        """
        import multiprocessing, sys
        import requests

        def work(url):
            requests.get(url)

        if __name__ == "__main__":
            for kind in ("fork", "spawn"):
                context = multiprocessing.get_context(kind)
                child = context.Process(target=work, args=(sys.argv[1],))
                child.start()
                child.join()
        """
    )
    report = report_of(run(PYTHON, path, server.url))
    assert counts_of(report, server) == own_counts(server) == (2, 0, 2)
    assert origin_of(report, server)["connections"]["closed"] == 2


def test_connections_that_are_open_at_the_end_close_with_exit(serve, script):
    server = serve(keep_alive)
    path = script(
        """
        import sys
        import requests
        session = requests.Session()
        session.get(sys.argv[1])
        """
    )
    row = origin_of(report_of(run(PYTHON, path, server.url)), server)
    assert row["connections"]["closed_by_reason"] == {"exit": 1}
    assert row["connections"]["open"] == 0


TALK = """
    import os, sys
    import requests
    session = requests.Session()
    print(os.getpid(), flush=True)
    for line in sys.stdin:
        session.get(sys.argv[1])
        print("done", flush=True)
"""


def test_one_endpoint_serves_the_sum_while_the_command_runs(serve, script):
    server = serve(keep_alive)
    with Running(PYTHON, script(TALK), server.url) as running:
        running.line()
        for _ in range(3):
            running.tell("go")
            assert running.line() == "done"
        opened, requests = (
            "poolscope_connections_opened_total",
            "poolscope_request_duration_seconds",
        )
        assert eventually(lambda: running.total(f"{requests}_count") == 3)
        assert running.total(opened, poolscope_cause="first") == 1
        assert running.total("http_client_open_connections", http_connection_state="idle") == 1


@linux
def test_a_killed_process_keeps_its_counts_and_loses_its_levels(serve, script):
    server = serve(keep_alive)
    with Running("sh", "-c", f'{PYTHON} "$0" "$1"; sleep 60', script(TALK), server.url) as running:
        pid = int(running.line())
        running.tell("go")
        running.line()
        level = "http_client_open_connections"
        assert eventually(lambda: running.total(level) == 1)
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: running.total(level) == 0)
        assert running.total("poolscope_request_duration_seconds_count") == 1
        # It had no chance to say why it closed.
        assert running.total("poolscope_connections_closed_total") == 0


SIGNALS = """
    import os, signal, sys, time
    names = ("TERM", "INT", "HUP", "USR1", "USR2", "WINCH")
    def handler(number, frame):
        print(signal.Signals(number).name, flush=True)
    for name in names:
        signal.signal(getattr(signal, "SIG" + name), handler)
    print(os.getpid(), flush=True)
    if sys.stdin.readline():
        sys.exit(4)
"""


def test_signals_are_passed_on_once_and_the_exit_status_back(script):
    with Running(PYTHON, script(SIGNALS)) as running:
        running.line()
        for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH"):
            running.send(getattr(signal, name))
            assert running.line() == name
        running.tell("end")
        assert running.end()[0] == 4


def test_run_dies_of_the_signal_that_the_command_died_of():
    with Running(PYTHON, "-c", "import sys; print(flush=True); sys.stdin.read()") as running:
        running.line()
        running.send(signal.SIGTERM)
        status, errors = running.end()
    assert status == -signal.SIGTERM
    assert "origins" in errors


@linux
def test_stop_and_continue_are_the_commands_own(script):
    with Running(PYTHON, script(TALK), "http://127.0.0.1:9") as running:
        child = int(running.line())
        running.send(signal.SIGTSTP)
        wait_for_state(child, "T")
        wait_for_state(running.process.pid, "T")
        running.send(signal.SIGCONT)
        wait_for_state(running.process.pid, "S", "R")
        wait_for_state(child, "S", "R")


@pytest.mark.parametrize(
    "redirection", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full", "2>&1 | true"]
)
def test_the_exit_status_is_the_commands_whatever_is_closed(redirection):
    line = f"{' '.join(CLI)} run --port 0 -- sh -c 'sleep 0.2; exit 7' {redirection}"
    shell = ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"]
    result = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert result.returncode == 7
    assert "Traceback" not in result.stdout + result.stderr


def test_what_is_closed_is_closed_for_the_command_too():
    look = "[ -e /dev/fd/0 ] && echo open || echo closed"
    line = f"{' '.join(CLI)} run --port 0 --no-report -- sh -c '{look}' <&-"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert result.stdout == "closed\n"


def test_a_script_without_a_first_line_is_the_shells(script):
    path = script("echo $1; exit 3\n", "no_first_line")
    path.chmod(0o755)
    result = run(path, "hi")
    assert (result.returncode, result.stdout) == (3, "hi\n")


def test_who_leaves_without_a_good_bye_is_counted(serve, script):
    server = serve(keep_alive)
    path = script(
        """
        import os, subprocess, sys
        import requests
        requests.get(sys.argv[1])
        subprocess.run(["kill", str(os.getpid())])
        """
    )
    result = run(PYTHON, path, server.url)
    assert "1 of 1 Python processes ended without a good-bye" in result.stderr
    assert "good-bye" not in run(PYTHON, script(CALL), server.url, 1).stderr


@linux
def test_sigpipe_and_the_signal_mask_are_as_natively():
    look = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]

    def masks(text):
        # Up to signal 31: glibc's posix_spawn ignores 32 and 33, which are its own.
        return [int(line.split()[1], 16) & 0x7FFFFFFF for line in text.splitlines()]

    native = subprocess.run(look, capture_output=True, text=True, check=False)
    attached = run(*look, options=["--no-report"])
    assert masks(attached.stdout) == masks(native.stdout)
    assert len(masks(attached.stdout)) == 2


def test_the_reader_of_a_pipe_sees_its_end_when_the_command_closes_it():
    line = "exec >&-; sleep 30"
    command = [*CLI, "run", "--port", "0", "--", "sh", "-c", line]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.read() == b""
        assert process.poll() is None
        process.terminate()


def test_the_users_sitecustomize_still_runs(script, tmp_path):
    script("import sys; sys.from_users_sitecustomize = True", "sitecustomize.py")
    look = "import sys, sitecustomize as s; print(sys.from_users_sitecustomize, s.__file__)"
    environ = os.environ | {
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    }
    result = run(PYTHON, "-c", look, env=environ)
    assert result.stdout == f"True {tmp_path / 'sitecustomize.py'}\n"
    assert report_of(result)["origins"] == []


def test_a_users_sitecustomize_that_fails_fails_as_natively(script, tmp_path):
    script("import no_such_module", "sitecustomize.py")
    environ = os.environ | {
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    }
    result = run(PYTHON, "-c", "print('on')", env=environ)
    assert result.stdout == "on\n"
    assert "No module named 'no_such_module'" in result.stderr


def test_the_commands_own_prometheus_metrics_are_not_touched(serve, script, tmp_path):
    server = serve(keep_alive)
    directory = tmp_path / "multiprocess"
    directory.mkdir()
    path = script(
        """
        import os, sys
        import prometheus_client, requests
        prometheus_client.Counter("own", "Own.", ["a"]).labels("b").inc()
        requests.get(sys.argv[1])
        print(sorted(os.listdir(os.environ["PROMETHEUS_MULTIPROC_DIR"])) != [])
        print("poolscope" in prometheus_client.generate_latest().decode())
        directory = os.environ["PROMETHEUS_MULTIPROC_DIR"]
        files = [os.path.join(directory, name) for name in os.listdir(directory)]
        data = b"".join(open(file, "rb").read() for file in files)
        print(b"own" in data, b"poolscope" in data)
        """
    )
    result = run(
        PYTHON, path, server.url, env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(directory)}
    )
    assert result.stdout.split() == ["True", "False", "True", "False"], result.stderr
    assert counts_of(report_of(result), server) == own_counts(server)


def test_a_command_that_instruments_itself_gets_its_own_metrics_as_well(serve, script):
    server = serve(keep_alive)
    path = script(
        """
        import sys
        import poolscope, prometheus_client, requests
        poolscope.instrument()
        requests.get(sys.argv[1])
        text = prometheus_client.generate_latest().decode()
        print(text.count('poolscope_connections_opened_total{'))
        """
    )
    result = run(PYTHON, path, server.url)
    assert result.stdout == "1\n"
    assert counts_of(report_of(result), server) == own_counts(server) == (1, 0, 1)


def test_a_daemon_that_closes_all_descriptors_keeps_its_files(serve, script, tmp_path):
    server = serve(keep_alive)
    path = script(
        """
        import os, sys
        import requests
        os.closerange(3, 4096)
        files = [open(os.path.join(sys.argv[2], str(n)), "w") for n in range(600)]
        requests.get(sys.argv[1])
        """
    )
    directory = tmp_path / "files"
    directory.mkdir()
    result = run(PYTHON, path, server.url, directory)
    assert {file.read_text() for file in directory.iterdir()} == {""}
    assert counts_of(report_of(result), server) == own_counts(server) == (1, 0, 1)


def test_a_collector_that_is_gone_costs_the_command_nothing(serve, script):
    server = serve(keep_alive)
    with Running(PYTHON, script(TALK), server.url) as running:
        pid = int(running.line())
        running.send(signal.SIGKILL)
        running.process.wait()
        for _ in range(2):
            running.tell("go")
            assert running.line() == "done"
        os.kill(pid, signal.SIGTERM)
    assert server.answered == 2


def test_a_python_without_poolscope_runs_and_is_named(tmp_path):
    venv.create(tmp_path / "bare", with_pip=False)
    other = tmp_path / "bare" / "bin" / "python"
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    code = f"import subprocess; subprocess.run([{str(other)!r}, '-c', 'print(1)'])"
    # Our own way in may be PYTHONPATH, which the other Python must not see.
    code = f"import os; os.environ['PYTHONPATH'] = os.environ['PYTHONPATH'].split(':')[0]; {code}"
    result = run(PYTHON, "-c", code, env=dict(os.environ))
    assert result.stdout == "1\n"
    assert f"poolscope: not attached to {other}: ModuleNotFoundError" in result.stderr, environ


def test_disabled_is_disabled(serve, script):
    server = serve(keep_alive)
    environ = os.environ | {"POOLSCOPE_DISABLED": "1"}
    result = run(PYTHON, script(CALL), server.url, 1, env=environ)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert server.answered == 1
