"""``poolscope check`` tells what is installed, hooked and degraded."""

from __future__ import annotations

import os
from importlib import metadata

from commands import poolscope
from poolscope.cli.check import LIMITS


def test_it_names_versions_and_hooks():
    result = poolscope("check")
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert f"urllib3 {metadata.version('urllib3')}:" in lines
    assert f"prometheus_client {metadata.version('prometheus_client')}" in lines
    hooked = [line.split()[1] for line in lines if line.startswith("  hooked")]
    assert "urllib3.connectionpool.HTTPConnectionPool._validate_conn" in hooked
    assert "urllib3.util.ssl_._ssl_wrap_socket_impl" in hooked
    assert len(hooked) == 13
    assert "degraded" not in result.stdout
    assert "urllib3.contrib.socks" in result.stdout


def test_a_missing_hook_point_is_degraded(tmp_path):
    code = "import urllib3.util.ssl_ as s; del s._ssl_wrap_socket_impl"
    (tmp_path / "sitecustomize.py").write_text(code)
    environ = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    result = poolscope("check", env=environ)
    assert result.returncode == 1
    assert (
        "  degraded  urllib3.util.ssl_._ssl_wrap_socket_impl: not in this version" in result.stdout
    )


def test_disabled_is_said():
    result = poolscope("check", env=os.environ | {"POOLSCOPE_DISABLED": "1"})
    assert result.returncode == 1
    assert "disabled" in result.stdout


def test_a_neighbour_with_whom_counts_are_not_all_true_is_named(tmp_path):
    for name in LIMITS:
        information = tmp_path / f"{name}-1.2.3.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n"
        )
    environ = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    result = poolscope("check", env=environ)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-len(LIMITS) :] == [
        f"{name} 1.2.3: {limit}" for name, limit in LIMITS.items()
    ]
