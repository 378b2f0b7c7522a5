"""The chaos: everything that can happen to a process at once, and the totals are the servers'.

``python tests/chaos.py --minutes 30 [--seed N]`` goes on for so long; ``test_chaos`` does a short
one. It prints its seed: the same seed draws the same acts in the same order for every thread and
child, however far the machine lets each of them come. Each round is a process of its own with
other disturbances, and every round ends with an account of all processes that it had.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import trustme

from chaos_subject import END_LIMIT, counts_of
from commands import CLI, report_in
from peers import HOST, Server, fin, free_port
from scenarios import STEPS

HERE = Path(__file__).parent
#: The disturbances of a round; all have threads, garbage, odd servers, scrapes and bad observers.
ROUNDS = {
    "forks": {"forks": True},
    # The host is never struck on its own there, so that all that is lost is lost by us.
    "signals in our lines": {"signals": "ours"},
    "signals anywhere": {"signals": "anywhere"},
    "comings and goings": {"comings": True},
    "under run": {"forks": True, "under_run": True},
}


def chunks(peer):
    """Answer in many small chunks; whoever is tired of them hangs up."""
    body = b"".join(b"10\r\n%015d\n\r\n" % number for number in range(200)) + b"0\r\n\r\n"
    peer.answer(body, "Transfer-Encoding: chunked", length=-1)


HANDLED = {**STEPS, "/chunks": chunks}


def obliging(peer):
    """Do with every request what its target says."""
    for request in peer:
        HANDLED.get(request.target, fin)(peer)
        if peer.sock.fileno() < 0:
            return


class Outcome(NamedTuple):
    """How a round ended: what is wrong, and what was counted."""

    round: str
    seed: str
    wrongs: list
    counted: dict
    #: Exceptions that signal handlers raised, and what was lost by them.
    raised: int
    lost: int

    def __str__(self):
        numbers = ", ".join(f"{number} {name}" for name, number in self.counted.items())
        told = f"{self.round}: {numbers}"
        if self.raised:
            told += f"; {self.lost} lost by {self.raised} exceptions of signal handlers"
        return "\n".join([told, *(f"  WRONG {wrong}" for wrong in self.wrongs)])


class Servers:
    """Five servers, one of them with TLS, that count for themselves."""

    def __init__(self, directory):
        authority = trustme.CA()
        self.authority = str(Path(directory, "ca.pem"))
        authority.cert_pem.write_to_path(self.authority)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(HOST).configure_cert(tls)
        self.all = [Server(obliging) for _ in range(4)] + [Server(obliging, tls=tls)]

    def counts(self):
        """Return by port what each has counted."""
        return {str(one.port): [one.accepted, one.handshakes, one.answered] for one in self.all}

    def settled(self):
        """Wait until nothing is under way any more, and return the counts."""
        counts = None
        while counts != (counts := self.counts()) or any(
            one.closed < one.accepted for one in self.all
        ):
            time.sleep(0.1)
        return counts

    def stop(self):
        for server in self.all:
            server.stop()


def play(name, seed, seconds):
    """Play one round; return its outcome."""
    wanted = ROUNDS[name]
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        servers = Servers(directory)
        stack.callback(servers.stop)
        orders = {
            "seed": seed,
            "seconds": seconds,
            "directory": directory,
            "authority": servers.authority,
            "urls": [server.url for server in servers.all],
            "ports": [str(server.port) for server in servers.all],
            "nobody": free_port(),
            "threads": random.Random(seed).randint(2, 6),
            **{kind: wanted.get(kind, False) for kind in ("forks", "signals", "comings")},
        }
        command = [sys.executable, str(HERE / "chaos_subject.py"), json.dumps(orders)]
        end = _run_under_run if wanted.get("under_run") else _run
        wrongs, report = end(command, seed, seconds)
        accounts = [json.loads(path.read_text()) for path in Path(directory).glob("*.json")]
        return _judge(name, seed, accounts, servers.settled(), wrongs, report)


def _run(command, _seed, seconds):
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=seconds + 2 * END_LIMIT
        )
    except subprocess.TimeoutExpired as error:
        return [f"it hangs: {(error.stderr or b'').decode()}"], None
    return _wrong_with(done.returncode, done.stderr), None


def _run_under_run(command, seed, seconds):
    """Run it under ``poolscope run``, whose collector is stopped for a moment now and then."""
    rng = random.Random(f"{seed} collector")
    with subprocess.Popen(
        [*CLI, "run", "--port", "0", "--json", "--", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and running.poll() is None:
            time.sleep(rng.random())
            running.send_signal(signal.SIGSTOP)
            time.sleep(rng.random())
            running.send_signal(signal.SIGCONT)
        try:
            _, errors = running.communicate(timeout=2 * END_LIMIT)
        except subprocess.TimeoutExpired:
            running.kill()
            return ["it hangs"], None
    try:
        report = report_in(errors)
    except ValueError:
        return [f"run reports nothing: {errors}"], None
    before = errors[: errors.index("\n{")] if "\n{" in errors else ""
    said = "\n".join(
        line for line in before.splitlines() if not re.match(r"poolscope: (metrics|\d)", line)
    )
    return _wrong_with(running.returncode, said), report


def _wrong_with(status, errors):
    wrongs = [f"it ended with {status}"] if status else []
    # Python itself tells of what a signal handler raises in a finalizer.
    if "(most recent call first)" in errors or status:
        wrongs.append(f"it said: {errors}")
    return wrongs


def _judge(name, seed, accounts, theirs, wrongs, report):
    """Hold the accounts of all processes, and run's, against the servers' counts."""
    ours = {port: [0, 0, 0] for port in theirs}
    for account in accounts:
        wrongs += [f"{account['name']}: {wrong}" for wrong in account["wrongs"]]
        odd = {where: n for where, n in account["faults"].items() if where != "observer.Failing"}
        wrongs += [f"{account['name']}: faults {odd}"] * bool(odd)
        for port, counts in account["by_port"].items():
            ours[port] = [a + b for a, b in zip(ours[port], counts)]
    subject = next((one for one in accounts if one["name"] == "subject"), None)
    if subject is None:
        return Outcome(name, seed, [*wrongs, "the subject left no account"], {}, 0, 0)
    missing = {port: [b - a for a, b in zip(ours[port], counts)] for port, counts in theirs.items()}
    lost = max(sum(map(abs, numbers)) for numbers in zip(*missing.values()))
    raised = sum(account["raised"] for account in accounts)
    if not _may_miss(ROUNDS[name], missing, lost, raised):
        wrongs.append(f"missing of [accepts, handshakes, answers]: {missing} of {theirs}")
    if report is not None:
        reported = {
            row["port"]: counts_of(row) for row in report["origins"] if row["port"] in theirs
        }
        if reported != {port: counts for port, counts in theirs.items() if any(counts)}:
            wrongs.append(f"run reports {reported}, the servers {theirs}")
    totals = [sum(numbers) for numbers in zip(*theirs.values())]
    numbers = [*totals, len(accounts), *subject["looks"]]
    kinds = ("accepts", "handshakes", "answers", "processes", "scrapes", "collections")
    return Outcome(name, seed, wrongs, dict(zip(kinds, numbers)), raised, lost)


def _may_miss(wanted, missing, lost, raised):
    """Tell whether a round may miss so much: nothing, but for what is not ours to see."""
    if wanted.get("comings"):  # nobody counts while we are away
        return all(number >= 0 for numbers in missing.values() for number in numbers)
    if wanted.get("signals"):
        return lost <= raised
    return not lost


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each round")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--round", choices=ROUNDS, action="append")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    deadline, failed, number = time.monotonic() + options.minutes * 60, 0, 0
    while not number or time.monotonic() < deadline:
        for name in options.round or ROUNDS:
            outcome = play(name, f"{options.seed}-{number}", options.seconds)
            print(f"[{outcome.seed}] {outcome}", flush=True)
            failed += bool(outcome.wrongs)
        number += 1
    print(f"{failed} of {number * len(options.round or ROUNDS)} rounds failed, seed {options.seed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
