"""Bad input gets one sentence that says what to do, a non-zero exit, and never a traceback."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from commands import poolscope


def one_sentence(result, status):
    """Assert the exit status and return what was said."""
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    return result.stderr.strip()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["report"], "give either the URL of a service's metrics or --prometheus URL"),
        (["report", "a:1", "--prometheus", "b:2"], "give either the URL of a service's metrics"),
        (["report", "a:1", "--window", "1h"], "--window and --job go with --prometheus"),
        (["run"], "there is no command to run"),
        (["run", "--"], "there is no command to run"),
        (["run", "--prot", "1", "--", "true"], "unrecognized arguments: --prot"),
        (["run", "--port", "http", "--", "true"], "'http' is not a port"),
        (["run", "--port", "65536", "--", "true"], "'65536' is not a port"),
        (["run", "--max-origins", "0", "--", "true"], "max_origins must be a whole number"),
        (["runn"], "invalid choice: 'runn'"),
        ([], "VERB"),
        (["report"], "URL"),
    ],
    ids=" ".join,
)
def test_what_can_not_be_meant(args, said):
    assert said in one_sentence(poolscope(*args), 2)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("POOLSCOPE_MAX_ORIGINS", "many", "POOLSCOPE_MAX_ORIGINS must be a whole number"),
        ("POOLSCOPE_SPAN_ATTRIBUTES", "all", "POOLSCOPE_SPAN_ATTRIBUTES must be 1 or 0"),
        ("POOLSCOPE_DISABLED", "perhaps", "POOLSCOPE_DISABLED must be 1 or 0"),
    ],
)
@pytest.mark.parametrize("verb", [["run", "--", "true"], ["check"]], ids=lambda verb: verb[0])
def test_an_environment_value_that_means_nothing(name, value, said, verb):
    assert said in one_sentence(poolscope(*verb, env=os.environ | {name: value}), 2)


def test_a_command_that_does_not_exist():
    said = one_sentence(poolscope("run", "--", "no-such-command"), 127)
    assert "there is no command 'no-such-command'" in said


def test_a_command_that_can_not_be_executed(tmp_path):
    file = tmp_path / "file"
    file.touch()
    assert "can't be executed" in one_sentence(poolscope("run", "--", file), 126)


def test_a_script_whose_interpreter_is_not_there(tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    result = poolscope("run", "--port", 0, "--no-report", "--", script)
    assert result.returncode == 127
    assert "can't be executed" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_host_that_is_empty_does_not_open_the_metrics_to_everybody():
    said = one_sentence(poolscope("run", "--host", "", "--", "true"), 2)
    assert "--host is empty" in said


def test_disabled_beats_a_bad_setting():
    environ = os.environ | {"POOLSCOPE_DISABLED": "1", "POOLSCOPE_MAX_ORIGINS": "many"}
    assert poolscope("run", "--", "true", env=environ).returncode == 0


def test_without_a_temporary_directory_the_command_runs_unattached(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import errno, os\n"
        "def mkdir(*args, **kwargs):\n"
        "    raise OSError(errno.EROFS, 'Read-only file system', '/tmp')\n"
        "os.mkdir = mkdir\n"
    )
    environ = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    result = poolscope("run", "--", "sh", "-c", "echo on; exit 3", env=environ)
    assert (result.returncode, result.stdout) == (3, "on\n")
    said = "poolscope: the command runs unattached: Read-only file system (/tmp).\n"
    assert result.stderr == said


def test_an_occupied_port_costs_the_metrics_and_not_the_command():
    """A service must start at three in the morning, even if its port for metrics is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-c", "print('on')"]
        result = poolscope("run", "--port", port, "--no-report", "--", *command)
    assert (result.returncode, result.stdout) == (0, "on\n")
    assert len(result.stderr.splitlines()) == 1
    assert f"no metrics at 127.0.0.1:{port} (Address already in use)" in result.stderr
    assert "--port" in result.stderr


def test_a_host_that_is_none_costs_the_metrics_and_not_the_command():
    command = [sys.executable, "-c", "print('on')"]
    result = poolscope("run", "--host", "256.1.1.1", "--no-report", "--", *command)
    assert (result.returncode, result.stdout) == (0, "on\n")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "host", ["no-such-host.invalid", "a" * 100, "a..b", "a b", "\udcff", "1:2"]
)
def test_a_host_that_nobody_knows_costs_the_metrics_and_not_the_command(host):
    command = [sys.executable, "-c", "print('on')"]
    result = poolscope("run", "--host", host, "--no-report", "--", *command)
    assert (result.returncode, result.stdout) == (0, "on\n")
    (line,) = result.stderr.splitlines()
    assert line.startswith("poolscope: no metrics at ")
    assert line.endswith("Choose others with --host and --port.")


NO_NAMES = (
    "shop.example:9464",
    "http://shop",
    "",
    "a b",
    "*.example",
    "..",
    "a..b",
    "[::1]",
    "m\xfc",
)


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name_of_a_host_can_not_be_allowed(name):
    said = one_sentence(poolscope("run", "--allow-host", name, "--", "true"), 2)
    assert said.startswith("poolscope: --allow-host must be a host's name without a port")
    environ = os.environ | {"POOLSCOPE_ALLOW_HOST": f"good, {name}"}
    result = poolscope("run", "--port", 0, "--no-report", "--", "true", env=environ)
    if name:  # an empty one among others is nothing
        assert "POOLSCOPE_ALLOW_HOST must be a host's name" in one_sentence(result, 2)
    else:
        assert result.returncode == 0
    environ["POOLSCOPE_DISABLED"] = "1"
    assert poolscope("run", "--", "true", env=environ).returncode == 0


def test_an_urllib3_that_is_not_supported(tmp_path):
    """urllib3.future takes urllib3's place; its version's last part is 900 or more."""
    package = tmp_path / "urllib3"
    package.mkdir()
    for name, text in {
        "__init__": "from . import exceptions, connectionpool",
        "_version": "__version__ = '2.12.909'",
        "exceptions": "",
        "connectionpool": "class HTTPConnectionPool:\n    def _get_conn(self): return 1\n",
    }.items():
        (package / f"{name}.py").write_text(text)
    environ = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    result = poolscope("check", env=environ)
    assert result.returncode == 1
    assert "not watched: urllib3.future 2.12.909" in result.stdout
    assert "Traceback" not in result.stderr
    look = "import urllib3.connectionpool as c; print(c.HTTPConnectionPool()._get_conn())"
    run = poolscope("run", "--port", 0, "--", sys.executable, "-c", look, env=environ)
    assert (run.returncode, run.stdout) == (0, "1\n")
    assert "urllib3.future 2.12.909 has taken the place of urllib3" in run.stderr
