"""``poolscope run`` gets into every Python of the command, beside others that want to be first."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import textwrap
import venv
from pathlib import Path

import pytest

from commands import CLI, Running, counts_of, own_counts, report_in, report_of, run
from peers import HOST, asks, eventually, free_port, keep_alive

PYTHON = sys.executable
BIN = Path(sysconfig.get_path("scripts"))

QUIET = {
    "OTEL_TRACES_EXPORTER": "none",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
    "DD_TRACE_ENABLED": "false",
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    "NEW_RELIC_LICENSE_KEY": "x" * 40,
    "NEW_RELIC_MONITOR_MODE": "false",
}
#: Commands that put a sitecustomize of their own first, and a module that it imports.
TOOLS = {
    "opentelemetry-instrument": ([], "opentelemetry.instrumentation.auto_instrumentation"),
    "ddtrace-run": ([], "ddtrace.bootstrap.preload"),
    "newrelic-admin": (["run-program"], "newrelic"),
}

APP = """
    import json, os, sys
    import urllib3
    kept = urllib3.PoolManager()
    for _ in range(50):
        kept.request("GET", os.environ["UPSTREAM"])
    own = getattr(sys.modules.get("sitecustomize"), "__file__", None)
    ours = os.path.join("poolscope", "bootstrap")
    print(json.dumps([
        [path for path in sys.path if not path.endswith(ours)],
        None if own is not None and ours in own else own,
        sys.argv[1] in sys.modules,
        type(urllib3.connectionpool.HTTPConnectionPool.urlopen).__module__,
    ]))
"""


@pytest.fixture
def app(tmp_path):
    path = tmp_path / "app.py"
    path.write_text(textwrap.dedent(APP))
    return path


@pytest.fixture
def tool(request):
    path = BIN / request.param
    if not path.exists():
        pytest.skip(f"{request.param} is not installed")
    arguments, module = TOOLS[request.param]
    return [str(path), *arguments], module


@pytest.mark.parametrize("tool", TOOLS, indirect=True)
@pytest.mark.parametrize("order", ["inside", "outside"])
def test_a_tool_with_a_sitecustomize_of_its_own(serve, app, tool, order):
    """Both do their work, in both orders, and the program sees what it sees without us."""
    server = serve(keep_alive)
    command, module = tool
    supervised = [*CLI, "run", "--port", "0", "--json", "--"]
    program = [PYTHON, str(app), module]
    how = [*supervised, *command] if order == "inside" else [*command, *supervised]
    options = {"env": os.environ | QUIET | {"UPSTREAM": server.url}}
    options |= {"capture_output": True, "text": True}
    result = subprocess.run([*how, *program], check=False, **options)
    report = report_of(result)
    assert counts_of(report, server) == own_counts(server) == (1, 0, 50)
    assert (result.returncode, report["incomplete"]) == (0, [])
    native = subprocess.run([*command, *program], check=False, **options)
    assert native.stdout == result.stdout
    assert "true" in native.stdout


def test_gunicorn_under_opentelemetry(serve, tmp_path):
    if not (BIN / "opentelemetry-instrument").exists() or not (BIN / "gunicorn").exists():
        pytest.skip("one of them is not installed")
    (tmp_path / "service.py").write_text(
        textwrap.dedent(
            """
            import os
            import urllib3
            pool = urllib3.PoolManager()
            def app(environ, start_response):
                pool.request("GET", os.environ["UPSTREAM"])
                start_response("200 OK", [("Content-Length", "2")])
                return [b"ok"]
            """
        )
    )
    server, port = serve(keep_alive), free_port()
    command = [BIN / "opentelemetry-instrument", BIN / "gunicorn", "-w", "2", "service:app"]
    command += ["-b", f"{HOST}:{port}", "--chdir", tmp_path]
    environ = os.environ | QUIET | {"UPSTREAM": server.url}
    with Running(*command, env=environ) as running:
        assert eventually(lambda: asks(port))
        for _ in range(49):
            assert asks(port)
        running.process.terminate()
        status, errors = running.end()
    report = report_in(errors)
    assert counts_of(report, server) == own_counts(server)
    assert (status, server.answered, report["incomplete"]) == (0, 50, [])


@pytest.mark.parametrize("how", ["-I", "-E", "-P", "-s", "-m"])
def test_a_python_with_options(serve, app, how):
    if how == "-P" and sys.version_info < (3, 11):
        pytest.skip("it is Python 3.11's")
    server = serve(keep_alive)
    what = [how, "app"] if how == "-m" else [how, app]
    environ = os.environ | {"UPSTREAM": server.url}
    result = run(PYTHON, *what, "x", env=environ, cwd=app.parent)
    assert counts_of(report_of(result), server) == own_counts(server) == (1, 0, 50)


@pytest.mark.parametrize("value", ["elsewhere", ""])
def test_a_search_path_of_the_commands_own(serve, app, value):
    """As in ``PYTHONPATH=src python app.py``."""
    server = serve(keep_alive)
    environ = os.environ | {"UPSTREAM": server.url}
    line = f"PYTHONPATH={value} {PYTHON} {app} x"
    result = run("sh", "-c", line, env=environ)
    assert counts_of(report_of(result), server) == own_counts(server) == (1, 0, 50)


def test_a_sitecustomize_runs_once_and_is_what_it_is(serve, app, tmp_path):
    server = serve(keep_alive)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("print('once')\n")
    environ = os.environ | {"UPSTREAM": server.url, "PYTHONPATH": str(tmp_path / "site")}
    result = run(PYTHON, app, "x", env=environ)
    environ["UPSTREAM"] = serve(keep_alive).url
    native = subprocess.run(
        [PYTHON, app, "x"], env=environ, capture_output=True, text=True, check=False
    )
    # The supervisor is a Python as well, in the same environment.
    assert result.stdout == f"once\n{native.stdout}"
    assert native.stdout.splitlines().count("once") == 1
    assert counts_of(report_of(result), server) == own_counts(server) == (1, 0, 50)


def test_coverage_of_child_processes(serve, app, tmp_path):
    """Which has a .pth file of its own."""
    pytest.importorskip("coverage", reason="coverage is not installed")
    server = serve(keep_alive)
    (tmp_path / ".coveragerc").write_text("[run]\nparallel = true\n")
    environ = os.environ | {
        "UPSTREAM": server.url,
        "COVERAGE_PROCESS_START": str(tmp_path / ".coveragerc"),
    }
    result = run(PYTHON, app, "coverage", env=environ, cwd=tmp_path)
    assert "true" in result.stdout
    assert counts_of(report_of(result), server) == own_counts(server) == (1, 0, 50)
    # The supervisor is a Python as well, in the same environment.
    assert len(list(tmp_path.glob(".coverage.*"))) == 2


def test_an_environment_that_another_python_makes(serve, tmp_path):
    """It has no poolscope, and is named."""
    server = serve(keep_alive)
    venv.create(tmp_path / "bare", with_pip=False)
    other = tmp_path / "bare" / "bin" / "python"
    code = f"import subprocess, sys; sys.exit(subprocess.call([{str(other)!r}, '-c', 'exit(4)']))"
    result = run(PYTHON, "-c", code, env=os.environ | {"UPSTREAM": server.url, "PYTHONPATH": ""})
    assert result.returncode == 4
    [sentence] = report_of(result)["incomplete"]
    assert sentence.startswith(f"not attached to {other}: ModuleNotFoundError")


def test_a_python_of_long_ago_runs_as_ever():
    """The way in through PYTHONPATH is read by every Python."""
    found = [path for path in map(Path, OLD) if path.exists()]
    if not found:
        pytest.skip("there is none here")
    for python in found:
        result = run(python, "-c", "print(5)", env=os.environ | {"PYTHONPATH": ""})
        assert (result.returncode, result.stdout) == (0, "5\n")
        assert "sitecustomize" not in result.stderr
        [sentence] = report_of(result)["incomplete"]
        assert sentence.startswith(f"not attached to {python}")


OLD = [
    path / "bin" / "python"
    for version in ("2.7", "3.6", "3.9")
    for path in Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(
        f"versions/{version}.*"
    )
]


def test_nothing_happens_in_a_python_that_is_not_run_by_us():
    code = "import sys; print(any(name.startswith('poolscope') for name in sys.modules))"
    result = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout == "False\n"
    assert (Path(sysconfig.get_path("purelib")) / "poolscope.pth").exists(), "install it again"
