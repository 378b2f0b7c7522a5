"""Programs in processes of their own that poolscope is attached to from within."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

from peers import eventually

# What a program begins with: its upstream's URL is its first argument, and in ``argv``.
PROLOGUE = """
    import gc, json, os, signal, sys, threading, time
    import poolscope, urllib3
    "".encode("idna")  # some of this runs where nothing can be imported any more

    argv = sys.argv[1:]

    def use(times=2):
        with urllib3.PoolManager() as manager:
            for _ in range(times):
                manager.request("GET", argv[0])

    def counts():
        snapshot = poolscope.snapshot()
        rows = snapshot["origins"]
        assert snapshot["faults"] == {}, snapshot["faults"]
        return [
            sum(row[part][name] for row in rows)
            for part, name in (
                ("connections", "opened"), ("connections", "closed"), ("requests", "answered")
            )
        ]

    def in_child(call):
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            status = 1
            try:
                os.write(writer, json.dumps(call()).encode())
                status = 0
            finally:
                os._exit(status)
        os.close(writer)
        status = os.waitpid(pid, 0)[1]
        told = os.read(reader, 1000)
        os.close(reader)
        return [json.loads(told or "null"), status]
"""
ATTACHED = "poolscope.instrument(())\n"


def start(code, server, *args, first="", before=ATTACHED, timeout=40, **options):
    """Run a program to its end; ``first`` comes before all imports."""
    parts = map(textwrap.dedent, (first, PROLOGUE, before, code))
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "\n".join(parts), server.url, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )


def told_by(code, server, *args, **options):
    """Return what a program prints, as JSON; nothing else may come of it."""
    done = start(code, server, *args, **options)
    assert (done.returncode, done.stderr) == (0, ""), (done.returncode, done.stderr, done.stdout)
    return json.loads(done.stdout)


def agrees(server, opened, answered):
    """Tell whether the server has counted this, in all processes together."""
    eventually(lambda: (server.accepted, server.answered) == (opened, answered))
    return (server.accepted, server.answered) == (opened, answered)
