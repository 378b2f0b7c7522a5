"""Runs urllib3's and requests' own tests with poolscope attached: nothing may come out otherwise.

    python tests/host_suites.py [--only COMBINATION ...] [--work DIR] [--jobs N]

The suites come with the source distributions on the package index. Each of their files runs
in processes of its own: twice bare and once attached. A test whose outcomes (pass, fail of what,
skip) bare and attached have none in common is looked at again, attached and bare in turns, until
they have; one that still has none after LOOKS more looks each is a difference. The exit status
is 1 if there is one, or if poolscope had a fault or was not at work in any run at all.

Why that lets no real difference pass: what poolscope does to a test it does in every look, so an
outcome that only an attached test has can never become common. That holds for a test that is
flaky bare, too, and for one that needs the others of its file before it, as looks are at whole
files. What it can not see is damage that only happens now and then: that looks like a flaky
test, and the tests that came out differently for the same side are printed as such.

Why a flaky test is not reported: to be, one that comes out either way with probabilities p and
1 - p has to show one outcome in all its 2 + LOOKS bare runs and the other in all its 1 + LOOKS
attached ones. That is at most one in 60 000 whatever p is, and most take one more look.

Tests fail of the same bare and attached where they need more network than there is, or a server
that the index does not have: urllib3 2 tests its tunnels with a fork of hypercorn.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
import venv
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = "host_suites_plugin"
TEST_SECONDS = 40
FILE_SECONDS = 300
#: How often a test that seems to make a difference is looked at again, bare and attached each.
LOOKS = 7
#: Tests for what is gone (App Engine with Python 2), or that need a browser.
ELSEWHERE = {"appengine", "emscripten"}
RUN = "(the run)"  # stands for the process among the tests


@dataclass(frozen=True)
class Combination:
    """A suite, at the version under test ("" is the newest), and what it runs on."""

    suite: str
    version: str
    directory: str
    requirements: tuple[str, ...]


# What the suites' own development requirements ask for, as far as the tests use it.
URLLIB3_1 = (
    "pytest==8.3.2", "pytest-freezegun==0.4.2", "flaky==3.8.1", "tornado==6.4.1", "mock==5.1.0",
    "cryptography==43.0.0", "PySocks==1.7.1", "pyOpenSSL==24.2.1", "idna", "trustme",
    "python-dateutil", "six", "setuptools",
)  # fmt: skip
URLLIB3_2 = (
    "pytest", "pytest-socket", "anyio[trio]", "h2", "httpx", "hypercorn", "quart", "quart-trio",
    "trio", "PySocks", "pyOpenSSL", "cryptography", "idna", "trustme",
)  # fmt: skip
REQUESTS = ("pytest", "pytest-httpbin", "httpbin", "pytest-mock", "PySocks", "trustme")

COMBINATIONS = {
    "urllib3-1": Combination("urllib3", "1.26.20", "test", URLLIB3_1),
    "urllib3-2": Combination("urllib3", "", "test", URLLIB3_2),
    "requests-1": Combination("requests", "", "tests", (*REQUESTS, "urllib3==1.26.20")),
    "requests-2": Combination("requests", "", "tests", (*REQUESTS, "urllib3>=2")),
}


# ---- getting ready


@dataclass
class Suite:
    """A combination that is ready to run."""

    name: str
    python: Path
    source: Path
    work: Path
    files: list[Path]


def prepare(name: str, work: Path) -> Suite:
    """Make the environment and unpack the source distribution, unless that was done before."""
    combination, home = COMBINATIONS[name], work / name
    python = home / "venv" / "bin" / "python"
    if (home / "ready").exists():
        pip(python, "install", "--force-reinstall", "--no-deps", str(ROOT))
    else:
        venv.create(home / "venv", clear=True, with_pip=True)
        wanted = f"{combination.suite}=={combination.version}".removesuffix("==")
        no_wheel = ("--no-deps", "--no-binary", combination.suite)
        pip(python, "download", *no_wheel, "--dest", str(home / "sdist"), wanted)
        archive = next((home / "sdist").glob("*.tar.gz"))
        with tarfile.open(archive) as tar:
            tar.extractall(home / "source", filter="data")
        wanted = archive.name.removesuffix(".tar.gz").replace("-", "==", 1)
        pip(python, "install", *combination.requirements, "pytest-timeout", wanted, str(ROOT))
        (home / "ready").touch()
    (home / "plugin").mkdir(exist_ok=True)
    shutil.copy(ROOT / "tests" / f"{PLUGIN}.py", home / "plugin")
    shutil.rmtree(home / "runs", ignore_errors=True)
    source = next((home / "source").iterdir())
    found = sorted((source / combination.directory).rglob("test_*.py"))
    files = [file.relative_to(source) for file in found if not ELSEWHERE & set(file.parts)]
    return Suite(name, python, source, home, files)


def pip(python: Path, verb: str, *args: str) -> None:
    """Call an environment's pip; say in one sentence why it failed."""
    command = [str(python), "-m", "pip", verb, "--quiet", *args]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.splitlines() or ["no reason given"]
        why = [line for line in lines if line.startswith("ERROR")] or lines
        raise SystemExit(f"host_suites: pip {verb} {' '.join(args)} failed: {why[-1]}")


# ---- running


@dataclass
class Run:
    """What one process said of one file."""

    outcomes: dict[str, str]
    complaints: list[str] = field(default_factory=list)
    requests: int = 0

    @property
    def counts(self) -> Counter[str]:
        """The number of tests by outcome."""
        return Counter(one.split()[0] for test, one in self.outcomes.items() if test != RUN)


def run(suite: Suite, file: Path, *, attached: bool) -> Run:
    """Run one file in a process of its own; what it prints stays in the work directory."""
    home = suite.work / "runs" / ".".join(file.with_suffix("").parts)
    home.mkdir(parents=True, exist_ok=True)
    number = len(list(home.glob("*.txt"))) + 1
    output = home / f"{number}-{'attached' if attached else 'bare'}.txt"
    records = output.with_suffix(".jsonl")
    records.touch()  # a process may die before it writes the first line
    # Nothing else of this environment: its proxies and certificates are not the suites' matter.
    env = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    env |= {
        "CI": "1",  # makes urllib3's suite more patient
        "HOST_SUITES_ATTACHED": str(int(attached)),
        "HOST_SUITES_RECORDS": str(records),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(suite.work / "plugin"),
    }
    options = ("-q", "-p", PLUGIN, "-p", "no:cacheprovider", f"--timeout={TEST_SECONDS}")
    command = [str(suite.python), "-m", "pytest", *options, str(file)]
    with tempfile.TemporaryDirectory() as scratch, output.open("w") as printed:
        try:
            status: object = subprocess.run(
                command,
                check=False,
                cwd=suite.source,
                env=env | {"HOME": scratch, "TMPDIR": scratch},
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                timeout=FILE_SECONDS,
            ).returncode
        except subprocess.TimeoutExpired:
            status = "nothing, it took too long"
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    return read(rows, status, attached=attached)


def read(rows: list[dict], status: object, *, attached: bool) -> Run:
    """Make sense of what the plugin wrote."""
    phases: dict[str, dict[str, str]] = {}
    for row in rows:
        if "test" in row:
            phases.setdefault(row["test"], {})[row["when"]] = row["outcome"]
    outcomes = {
        test: " and ".join(each for each in by.values() if each != "passed") or "passed"
        for test, by in phases.items()
    }
    outcomes[RUN] = f"ended with {status}"
    told = [row for row in rows if "faults" in row]
    wrong = [f"poolscope had a fault in {where}" for row in told for where in row["faults"]]
    wrong += [f"poolscope's hook is not at work: {name}" for row in told for name in row["asleep"]]
    if attached and not told:
        wrong.append("poolscope was not attached to the end")
    if any(row["requests"] and not row["exported"] for row in told):
        wrong.append("poolscope counted requests and exported nothing")
    requests = max((row["requests"] for row in told), default=0)
    return Run(outcomes, list(dict.fromkeys(wrong)), requests)


# ---- judging


@dataclass
class Verdict:
    """What all runs of a file came to."""

    suite: Suite
    file: Path
    bare: Run
    attached: Run
    flaky: list[str]
    differences: list[str]
    seconds: float


def judge(suite: Suite, file: Path) -> Verdict:
    """Run a file twice bare and once attached, and more often as long as that differs."""
    began = time.monotonic()
    bare = [run(suite, file, attached=False), run(suite, file, attached=False)]
    attached = [run(suite, file, attached=True)]
    for side in (attached, bare) * LOOKS:
        if not compare(bare, attached)[1]:
            break
        side.append(run(suite, file, attached=side is attached))
    flaky, differences = compare(bare, attached)
    wrong = itertools.chain.from_iterable(one.complaints for one in attached)
    differences += dict.fromkeys(wrong)
    seconds = time.monotonic() - began
    return Verdict(suite, file, bare[0], attached[-1], flaky, differences, seconds)


def compare(bare: list[Run], attached: list[Run]) -> tuple[list[str], list[str]]:
    """Tell which tests did not always come out the same, and which never did on both sides."""
    flaky, differences = [], []
    for test in dict.fromkeys(test for one in (*bare, *attached) for test in one.outcomes):
        without = [one.outcomes.get(test, "not run") for one in bare]
        along = [one.outcomes.get(test, "not run") for one in attached]
        line = f"{test}: bare {', '.join(without)}; attached {', '.join(along)}"
        if set(without).isdisjoint(along):
            differences.append(line)
        elif len({*without, *along}) > 1:
            flaky.append(line)
    return flaky, differences


def show(verdict: Verdict) -> None:
    """Print a line for a file, and below it what stands out."""
    bare, attached = words(verdict.bare.counts), words(verdict.attached.counts)
    same = "the same" if attached == bare else attached
    print(
        f"{verdict.suite.name} {verdict.file} ({verdict.seconds:.0f} s): {bare}; attached: {same}"
    )
    stand_out = [f"  flaky: {line}" for line in verdict.flaky]
    stand_out += [f"  DIFFERENCE: {line}" for line in verdict.differences]
    print(*stand_out, sep="\n", end="\n" * bool(stand_out), flush=True)


def words(counts: Counter[str]) -> str:
    """Spell out the number of tests by outcome."""
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in sorted(counts)) or "no tests"


def conclude(suite: Suite, verdicts: list[Verdict]) -> bool:
    """Print what a suite came to, and return whether it did not notice poolscope."""
    bare = sum((verdict.bare.counts for verdict in verdicts), Counter())
    attached = sum((verdict.attached.counts for verdict in verdicts), Counter())
    requests = sum(verdict.attached.requests for verdict in verdicts)
    flaky = sum(len(verdict.flaky) for verdict in verdicts)
    differences = sum(len(verdict.differences) for verdict in verdicts)
    print(f"{suite.name} ({suite.source.name}): {flaky} flaky, {differences} differences")
    print(f"  bare:     {words(bare)}")
    print(f"  attached: {words(attached)}; poolscope saw {requests} requests")
    if bare["passed"] and requests:
        return not differences
    print("  DIFFERENCE: no test passed, or poolscope saw no request, so this proves nothing")
    return False


def main() -> int:
    """Run what was asked for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=COMBINATIONS, default=list(COMBINATIONS))
    parser.add_argument("--work", type=Path, help="keep environments and outputs here, for later")
    parser.add_argument("--jobs", type=int, choices=range(1, 9), default=3, help="files at a time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.jobs) as workers:
        work = (options.work or Path(scratch)).resolve()
        try:
            work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SystemExit(f"host_suites: can't keep anything in {work}: {error}") from None
        suites = list(workers.map(lambda name: prepare(name, work), dict.fromkeys(options.only)))
        tasks = [(suite, file) for suite in suites for file in suite.files]
        # The long ones first; test_pyopenssl is a short file that imports long ones.
        tasks.sort(key=lambda task: -(task[0].source / task[1]).stat().st_size)
        tasks.sort(key=lambda task: "openssl" not in task[1].name)
        verdicts = []
        for ended in as_completed([workers.submit(judge, *task) for task in tasks]):
            verdicts.append(ended.result())
            show(verdicts[-1])
    well = [conclude(suite, [one for one in verdicts if one.suite is suite]) for suite in suites]
    return 0 if all(well) else 1


if __name__ == "__main__":
    raise SystemExit(main())
