"""The setting span_attributes: what spans and exemplars know of the connections under them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

APP = str(Path(__file__).with_name("spans_app.py"))


def run(server, setting, sampled="on"):
    environ = os.environ | {"POOLSCOPE_SPAN_ATTRIBUTES": setting}
    done = subprocess.run(
        [sys.executable, APP, f"http://127.0.0.1:{server.port}/", sampled],
        env=environ, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["faults"] == {}
    return found


@pytest.fixture
def server(serve):
    """Serve: an answer, one that says it is the last; an answer, none; an answer."""
    turns = iter((("", "Connection: close"), ("", None), ("",)))

    def handler(peer):
        for says in next(turns):
            if peer.request() is None or says is None:
                return
            peer.answer(b"ok", *filter(None, [says]))

    return serve(handler)


def test_spans_know_whether_and_why(server):
    found = run(server, "1")
    times = [
        attributes.pop("poolscope.connection.create_time", None)
        for attributes in found["spans"].values()
    ]
    assert found["spans"] == {
        "1": {"poolscope.reused": False, "poolscope.cause": "first"},
        "2": {"poolscope.reused": True},
        "3": {"poolscope.reused": False, "poolscope.cause": "replaced_server_close"},
        "4": {"poolscope.reused": False, "poolscope.cause": "new_pool"},
        "5": {"poolscope.reused": True},
    }
    assert [seconds is not None and 0 < seconds < 10 for seconds in times] == [
        True, False, True, True, False,
    ]  # fmt: skip


def test_exemplars_lead_to_the_spans(server):
    found = run(server, "1")
    led = {(name, reused) for name, reused, _ in found["examples"]}
    assert ("2", True) in led
    assert led <= {("1", False), ("2", True), ("3", False), ("4", False)}
    assert len([name for name, reused, _ in found["examples"] if not reused]) >= 1
    assert [found["sums"]["False"][0], found["sums"]["True"][0]] == [3, 1]
    # One sample, one exemplar: it is the sample itself, not its bucket's mean.
    [value] = [value for name, _, value in found["examples"] if name == "2"]
    assert value == pytest.approx(found["sums"]["True"][1])


def test_a_span_that_is_not_sampled_is_left_alone(server):
    found = run(server, "1", "off")
    assert found["spans"] == {}
    assert found["examples"] == []
    assert found["sums"]["True"][0] == 1


def test_off_by_default(server):
    found = run(server, "")
    assert found["spans"] == {str(number): {} for number in range(1, 6)}
    assert found["examples"] == []
