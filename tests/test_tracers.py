"""Tracers that wrap urllib3 too: both count right, whoever comes or goes first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tracers import TRACERS

SCRIPT = Path(__file__).with_name("tracers.py")
NOTHING = [[0] * 5] * 2


@pytest.mark.parametrize("first", ["ours", "theirs"])
@pytest.mark.parametrize("name", TRACERS)
def test_both_count_right_whoever_comes_or_goes_first(name, first, tmp_path):
    tracer = TRACERS[name]
    pytest.importorskip(tracer.package, reason=f"{tracer.package} is not installed")
    result = subprocess.run(
        [sys.executable, SCRIPT, name, first],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["faults"] == {}
    assert len(told["rounds"]) == 8
    for played in told["rounds"]:
        # Opened, closed, handshakes, answered, failed; the second server speaks TLS.
        assert played["servers"] == [[4, 4, 0, 6, 2], [4, 4, 4, 6, 2]], played
        assert played["ours"] == (played["servers"] if "ours" in played["attached"] else NOTHING)
        assert played["theirs"] == (tracer.per_round if "theirs" in played["attached"] else 0)
        assert played["changed"] == [] or played["attached"], played
