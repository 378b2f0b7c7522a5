"""``poolscope dashboards DIR`` writes everything, and overwrites nothing that differs."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import watching
from commands import poolscope
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


@pytest.mark.parametrize("url", ["", "grafana", "ftp://grafana", "https://", "http://["])
def test_what_is_no_url_is_refused(tmp_path, url):
    result = poolscope("dashboards", tmp_path, "--grafana-url", url)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"poolscope: {url!r} is not the URL of a Grafana\n"
    assert not written(tmp_path)


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    result = poolscope("dashboards", tmp_path / "file")
    assert result.returncode == 1
    assert result.stderr.startswith(f"poolscope: can't write to {tmp_path / 'file'}: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is new in Python 3.11")
def test_the_wheel_carries_every_file():
    project = import_module("tomllib").loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
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
