"""Starts ``poolscope`` commands as a user would, in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from peers import PATIENCE

CLI = [sys.executable, "-m", "poolscope"]


def poolscope(*args, **options):
    """Run the command line to its end."""
    options = {"capture_output": True, "text": True, "timeout": 45} | options
    return subprocess.run([*CLI, *map(str, args)], check=False, **options)


def run(*command, options=(), **popen):
    """Run a command under ``poolscope run`` to its end, with the report as JSON."""
    return poolscope("run", "--port", 0, "--json", *options, "--", *command, **popen)


def report_of(result):
    """Return what ``run --json`` reported on standard error."""
    return report_in(result.stderr)


def report_in(errors):
    """Return the report in what was on standard error."""
    return json.loads(errors[errors.index("\n{") if "\n{" in errors else 0 :])


def origin_of(report, server):
    """Return the report's row for a server of ours."""
    return next(row for row in report["origins"] if row["port"] == str(server.port))


def counts_of(report, server):
    """Return what can be held against a server's own counts."""
    row = origin_of(report, server)
    return (
        row["connections"]["opened"],
        row["handshakes"]["completed"],
        row["requests"]["answered"],
    )


def own_counts(server):
    """Return the server's own counts in the same order."""
    return server.accepted, server.handshakes, server.answered


class Running:
    """A command under ``poolscope run`` that goes on while the test looks at it."""

    def __init__(self, *command, options=(), limit=lambda: None, **popen):
        def prepare():
            os.setpgrp()
            limit()

        self.process = subprocess.Popen(
            [*CLI, "run", "--port", "0", "--json", *options, "--", *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A group of its own, with a parent outside: the kernel discards stop signals for
            # groups that are orphaned, as a CI job's may be.
            preexec_fn=prepare,  # noqa: PLW1509 - system calls; process_group is 3.11's
            **popen,
        )
        line = self.process.stderr.readline()
        self.url = re.search(r"http://\S+/metrics", line).group()

    def line(self):
        """Return the next line that the command prints."""
        return self.process.stdout.readline().strip()

    def tell(self, line):
        """Send the command a line."""
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def scrape(self):
        """Return the endpoint's text."""
        with urllib.request.urlopen(self.url, timeout=PATIENCE) as answer:
            return answer.read().decode()

    def total(self, name, **labels):
        """Add up the samples of a name that have these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in self.scrape().splitlines()
            if line.startswith(f"{name}{{") and all(label in line for label in wanted)
        )

    def send(self, number):
        """Send ``poolscope run`` a signal."""
        os.kill(self.process.pid, number)

    def end(self):
        """Wait for the end; return the exit status and what was on standard error."""
        _, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, errors

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.send(signal.SIGCONT)
                self.send(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):
                pipe.close()
        self.process.wait()


def state_of(pid):
    """Return the kernel's letter for a process's state (Linux)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for_state(pid, *letters):
    """Wait until a process is in one of these states."""
    deadline = time.monotonic() + PATIENCE
    while state_of(pid) not in letters:
        assert time.monotonic() < deadline, (state_of(pid), letters)
        time.sleep(0.01)
