"""The judge of the host suites: it finds what is different, and is not fooled by the flaky."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import host_suites
from host_suites import LOOKS, Run, judge, pip

PASSED, FAILED = "passed", "failed in call of AssertionError"


@pytest.fixture
def verdict(monkeypatch):
    """Judge a file whose tests come out as functions of the side say."""

    def verdict(complaints=(), **tests):
        def run(_suite, _file, *, attached):
            runs.append("attached" if attached else "bare")
            outcomes = {name: outcome(attached) for name, outcome in tests.items()}
            return Run(outcomes, list(complaints) if attached else [])

        runs = []
        monkeypatch.setattr(host_suites, "run", run)
        made = judge(None, Path("test_it.py"))
        made.runs = runs
        return made

    return verdict


def test_what_is_the_same_needs_no_second_look(verdict):
    made = verdict(well=lambda _: PASSED, badly=lambda _: FAILED)
    assert (made.flaky, made.differences) == ([], [])
    assert made.runs == ["bare", "bare", "attached"]


def test_what_always_differs_is_a_difference_after_all_looks(verdict):
    made = verdict(it=lambda attached: FAILED if attached else PASSED, other=lambda _: PASSED)
    assert len(made.differences) == 1
    assert made.differences[0].startswith("it: bare passed")
    assert made.runs == ["bare", "bare", "attached"] + ["attached", "bare"] * LOOKS


def test_a_difference_is_found_in_a_test_that_is_flaky_bare(verdict):
    dice = random.Random(1)
    made = verdict(
        it=lambda attached: "failed of us" if attached else dice.choice((PASSED, FAILED))
    )
    assert len(made.differences) == 1


def test_a_test_that_is_missing_attached_is_a_difference(verdict):
    made = verdict(it=lambda attached: "not run" if attached else PASSED)
    assert len(made.differences) == 1


def test_a_fault_of_ours_is_a_difference_in_whatever_run(verdict):
    made = verdict(["poolscope had a fault in it"], it=lambda _: PASSED)
    assert made.differences == ["poolscope had a fault in it"]


def test_a_process_that_dies_at_once_has_no_outcomes(tmp_path):
    dead = host_suites.Suite("any", Path("/bin/false"), tmp_path, tmp_path, [])
    made = host_suites.run(dead, Path("test_it.py"), attached=True)
    assert made.outcomes == {host_suites.RUN: "ended with 1"}
    assert made.complaints == ["poolscope was not attached to the end"]


@pytest.mark.parametrize("chance", [0.05, 0.5, 0.95])
def test_flaky_tests_are_not_reported(verdict, chance):
    """The same 500 files in every run: at the worst chance one in 60 000 would be reported."""
    dice = random.Random(2)
    made = [
        verdict(it=lambda _: dice.choices((PASSED, FAILED), (chance, 1 - chance))[0])
        for _ in range(500)
    ]
    assert [one.differences for one in made if one.differences] == []
    assert sum(bool(one.flaky) for one in made) > 20
    looks = sum(len(one.runs) - 3 for one in made) / len(made)
    assert looks < 1.5


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--work", __file__], "host_suites: can't keep anything in "),
        (["--only", "nothing"], "invalid choice: 'nothing'"),
        (["--jobs", "0"], "invalid choice: 0"),
    ],
    ids=["no directory", "no such suite", "no jobs"],
)
def test_bad_input_ends_in_one_sentence(arguments, sentence):
    script = Path(host_suites.__file__)
    done = subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode
    assert sentence in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_missing_index_ends_in_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(SystemExit, match=r"^host_suites: pip download .* failed: ERROR: .*"):
        pip(Path(sys.executable), "download", "--dest", str(tmp_path), "urllib3==1.26.20")
