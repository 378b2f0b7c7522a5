"""``poolscope dashboards DIR`` writes everything, and overwrites nothing that differs."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import watching
from commands import poolscope
from poolscope.cli import main, planted
from poolscope.cli.dashboards import FILES
from watching import DASHBOARDS

ROOT = DASHBOARDS.parent


def written(directory):
    return {str(path.relative_to(directory)): path for path in directory.rglob("*.*")}


@pytest.fixture
def directory(tmp_path):
    result = poolscope("dashboards", tmp_path / "new" / "place")
    assert (result.returncode, result.stderr) == (0, "")
    return tmp_path / "new" / "place"


def test_everything_is_written_as_it_is_in_the_repository(directory):
    assert set(written(directory)) == set(FILES)
    for name, path in written(directory).items():
        source = ROOT / name if name.startswith("examples/") else DASHBOARDS / name
        assert path.read_bytes() == source.read_bytes(), name


def test_it_can_be_written_again(directory):
    assert poolscope("dashboards", directory).returncode == 0


def test_nothing_is_overwritten(directory):
    rules = directory / "recording-rules.yaml"
    rules.write_text(rules.read_text().replace("vector(5)", "vector(3)"))
    (directory / "compose.yaml").unlink()
    result = poolscope("dashboards", directory)
    assert result.returncode == 1
    assert result.stderr == (
        f"poolscope: {rules} is there already and differs, so nothing was written; "
        "give a new directory, and compare\n"
    )
    assert "vector(3)" in rules.read_text()
    assert not (directory / "compose.yaml").exists()


def test_alerts_lead_to_the_grafana_that_is_named(tmp_path):
    url = "https://grafana.example.com/sub/"
    assert poolscope("dashboards", tmp_path, "--grafana-url", url).returncode == 0
    for name in ("alerting-rules.yaml", "prometheus-rule.yaml"):
        text = (tmp_path / name).read_text()
        assert "localhost:3000" not in text
        assert "_url: https://grafana.example.com/sub/d/poolscope-" in text
    assert "localhost:3000" in (tmp_path / "compose.yaml").read_text()


NO_URLS = (
    "", "grafana", "ftp://grafana", "https://", "http://[", "http://:3000", "http://a:port",
    "http://grafana\n      evil: yes", "http://grafana\t", "http://grafana ", " http://grafana",
    "http://grafana/ # no", "http://gra'fana", 'http://gra"fana', "http://grafana/{{ $labels }}",
    "http://grafana\\", "http://grafana/?orgId=1", "http://grafana/#top", "http://gr\xe4fana",
    "http://grafana/\x1b[31m", "http://grafana/\u202e", "http://grafana/`x`", "http://grafana/|",
)  # fmt: skip


@pytest.mark.parametrize("url", NO_URLS)
def test_what_is_no_url_is_refused(tmp_path, url):
    result = poolscope("dashboards", tmp_path / "new", "--grafana-url", url)
    assert (result.returncode, result.stdout) == (2, "")
    assert " is not the URL of a Grafana; give one such as http://localhost:3000" in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr[:-1].isprintable()
    assert not (tmp_path / "new").exists()


def test_a_password_is_not_written_into_every_alert_nor_repeated(tmp_path):
    url = "http://me:secret@grafana"
    result = poolscope("dashboards", tmp_path / "new", "--grafana-url", url)
    assert result.returncode == 2
    assert result.stderr.startswith("poolscope: 'http://...@grafana' is not the URL of a Grafana;")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "url",
    ["http://[2001:db8::1]:3000", "HTTPS://Grafana/a-b_c~d/%7Be%7D;f=1,(g)/", "http://a/$1&b*!:"],
)
def test_rules_are_yaml_whatever_grafana_is_called(tmp_path, url):
    assert poolscope("dashboards", tmp_path, "--grafana-url", url).returncode == 0
    rules = yaml.safe_load((tmp_path / "alerting-rules.yaml").read_text())
    resource = yaml.safe_load((tmp_path / "prometheus-rule.yaml").read_text())
    for groups in (rules["groups"], resource["spec"]["groups"]):
        alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
        said = [rule["annotations"] for rule in alerts]
        assert said
        for links in said:
            for name in ("runbook_url", "dashboard_url"):
                assert links[name].startswith(f"{url.rstrip('/')}/d/poolscope-")


# ---- places where it does not belong


def refused(result, said):
    """Assert that nothing was written, and one sentence said why."""
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert said in result.stderr


def test_a_link_to_elsewhere_is_not_followed(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    inside.mkdir()
    for target in (outside, tmp_path / "there"):
        (inside / "runbook.md").symlink_to(target)
        refused(poolscope("dashboards", inside), "runbook.md is there already and is no plain file")
        assert [path.name for path in inside.iterdir()] == ["runbook.md"]
        assert not outside.exists()
        (inside / "runbook.md").unlink()
        (tmp_path / "there").write_bytes((DASHBOARDS / "runbook.md").read_bytes())


@pytest.mark.parametrize("name", ["grafana", "examples"])
def test_a_directory_that_is_a_link_is_not_followed(tmp_path, name):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    inside.mkdir()
    (inside / name).symlink_to(outside)
    for _ in range(2):  # one that leads nowhere, and one that leads out
        said = f"{inside / name} is there already and is no plain directory"
        refused(poolscope("dashboards", inside), said)
        assert [path.name for path in inside.iterdir()] == [name]
        outside.mkdir(exist_ok=True)
        assert not list(outside.iterdir())


def test_a_directory_that_its_owner_has_linked_is_the_owners_will(tmp_path):
    (tmp_path / "place").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "place")
    assert poolscope("dashboards", tmp_path / "link").returncode == 0
    assert set(written(tmp_path / "place")) == set(FILES)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "README.md")
    refused(poolscope("dashboards", tmp_path), "README.md is there already and is no plain file")


def test_a_directory_where_a_file_belongs_and_the_other_way_round(tmp_path):
    (tmp_path / "README.md").mkdir()
    refused(poolscope("dashboards", tmp_path), "README.md is there already and is no plain file")
    (tmp_path / "README.md").rmdir()
    (tmp_path / "grafana").write_text("")
    refused(poolscope("dashboards", tmp_path), "grafana is there already and is no plain directory")


def test_a_file_that_has_no_end_is_not_read_to_it(tmp_path):
    with (tmp_path / "README.md").open("wb") as file:
        file.write((DASHBOARDS / "README.md").read_bytes())
        file.truncate(1 << 40)
    refused(poolscope("dashboards", tmp_path), "README.md is there already and differs")


@pytest.mark.parametrize("place", ["/dev/null", "/dev/null/x", "/proc/x/y"])
def test_a_place_that_takes_no_files_is_named(place):
    refused(poolscope("dashboards", place), f"poolscope: can't write to {place}: ")


def test_a_place_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    said = f"poolscope: can't write to {tmp_path / 'file'}: Not a directory; nothing is there\n"
    refused(poolscope("dashboards", tmp_path / "file"), said)


def test_a_place_without_a_name_is_not_the_one_we_are_in(tmp_path):
    result = poolscope("dashboards", "", cwd=tmp_path)
    assert (result.returncode, result.stdout, written(tmp_path)) == (2, "", {})


NOBODY = """
    import os, sys
    from poolscope.cli.dashboards import GRAFANA, run  # before it can't be read any more
    if os.geteuid() == 0:  # who may write everywhere
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    sys.exit(run(sys.argv[1], GRAFANA))
"""


def test_a_place_that_may_not_be_written_to_is_named():
    command = [sys.executable, "-c", textwrap.dedent(NOBODY), "/usr/poolscope"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    refused(result, "can't write to /usr/poolscope: Permission denied; nothing is there\n")


def test_what_does_not_fit_is_taken_back(tmp_path):
    """As on a disk that is full: the longest file does not fit, shorter ones came before it."""
    small = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # noqa: E731 - two numbers
    (tmp_path / "mine").write_text("kept")
    for place in (tmp_path, tmp_path / "new" / "place"):
        result = poolscope("dashboards", place, preexec_fn=small)
        refused(result, f"poolscope: can't write to {place}: File too large; nothing is there\n")
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_cannot_be_taken_back_is_told(tmp_path, capsys, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "unlink", full)
    monkeypatch.setattr(planted, "open", full, raising=False)
    assert main(["dashboards", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"poolscope: can't write to {tmp_path}: No space left on device; some of it is there\n"
    )


def test_a_place_may_be_called_anything(tmp_path):
    for name in ("\udcff", "a\x1b[31mb\nc", "\u202e", "m\xfcnchen"):
        environ = os.environ | {"PYTHONIOENCODING": "ascii"}
        result = poolscope("dashboards", tmp_path / name, env=environ)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout[:-1].isprintable()
        assert set(written(tmp_path / name)) == set(FILES)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is new in Python 3.11")
def test_the_wheel_carries_every_file():
    project = import_module("tomllib").loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included.pop("src/poolscope.pth") == "poolscope.pth"  # the way in of `run`
    assert included == {
        (
            name if name.startswith("examples/") else f"dashboards/{name}"
        ): f"poolscope/dashboards/{name}"
        for name in FILES
    }


def test_the_demonstration_mounts_and_runs_what_is_there(directory):
    services = yaml.safe_load((directory / "compose.yaml").read_text())["services"]
    for service in services.values():
        for volume in service["volumes"]:
            assert (directory / volume.split(":")[0]).exists(), volume
    for name, connections in (("churning", 6), ("mended", 1)):
        script = services[name]["command"][2].partition("python /demo/")[2].split()
        result = poolscope(
            "run", "--port", 0, "--", sys.executable, directory / "examples" / script[0],
            "--orders", 2, "--rtt-ms", 0, env=os.environ,
        )  # fmt: skip
        assert f"accepts {connections}," in result.stdout, result.stderr
    targets = yaml.safe_load(Path(directory, "prometheus.yaml").read_text())["scrape_configs"]
    assert [one["job_name"] for one in targets] == ["churning", "mended"]


@pytest.mark.skipif(not watching.INSTALLED, reason=watching.REASON)
@pytest.mark.parametrize(
    "command",
    [
        ["promtool", "check", "config", "prometheus.yaml"],
        ["promtool", "check", "rules", "recording-rules.yaml", "alerting-rules.yaml"],
        ["amtool", "check-config", "alertmanager.yaml"],
    ],
    ids=" ".join,
)
def test_prometheus_own_tools_are_content(directory, command):
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
