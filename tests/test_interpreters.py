"""More than one interpreter in a process, and eventlet's greenlets: right, or refused clearly."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from peers import keep_alive
from programs import ATTACHED, agrees, start, told_by

INNER = """
import json, os, sys
sys.argv = ["inner", {url!r}]
import poolscope
import urllib3
poolscope.instrument(())
with urllib3.PoolManager() as manager:
    for _ in range(2):
        manager.request("GET", sys.argv[1])
rows = poolscope.snapshot()["origins"]
told = [[row["connections"]["opened"], row["requests"]["answered"]] for row in rows]
os.write({writer}, (json.dumps(told) + chr(10)).encode())
"""
OUTER = """
    inner, reader, writer = argv[1], *os.pipe()
    inner = inner.format(url=argv[0], writer=writer)
    use()
    try:
        from concurrent import interpreters
    except ImportError:
        try:
            import _interpreters as low
        except ImportError:
            import _xxsubinterpreters as low
        for options in (True, False):
            if hasattr(low, "exec"):
                made = low.create("isolated" if options else "legacy")
                assert low.exec(made, inner) is None
            else:
                made = low.create(isolated=options)
                low.run_string(made, inner)
            low.destroy(made)
    else:
        for _ in range(2):
            made = interpreters.create()
            made.exec(inner)
            made.close()
    use()
    os.close(writer)
    with os.fdopen(reader) as pipe:
        told = [json.loads(line) for line in pipe]
    print(json.dumps([told, counts()]))
"""


def test_a_subinterpreter_counts_for_itself_or_says_that_it_does_not(serve):
    """A thread that it can't wait for would end the whole process together with it."""
    server = serve(keep_alive)
    done = start(OUTER, server, INNER)
    assert done.returncode == 0, done.stderr
    told, ours = json.loads(done.stdout)
    assert ours == [2, 2, 4]
    assert agrees(server, 4, 8)
    if told == [[], []]:
        assert "subinterpreter" in done.stderr
        assert "Traceback" not in done.stderr
    else:
        assert told == [[[1, 2]], [[1, 2]]]
        assert done.stderr == ""


ORDERS = {
    "patched first": "import eventlet; eventlet.monkey_patch(); poolscope.instrument(())",
    "attached first": "poolscope.instrument(()); import eventlet; eventlet.monkey_patch()",
}
GREENLETS = """
    manager = urllib3.PoolManager(maxsize=8)
    pool = eventlet.GreenPool(8)
    assert set(pool.imap(lambda _: manager.request("GET", argv[0]).status, range(40))) == {200}
    manager.clear()
    gc.collect()
    print(json.dumps(counts()))
"""


@pytest.mark.parametrize("order", ORDERS)
def test_eventlets_greenlets_are_counted_in_either_order(serve, order):
    if not _has_eventlet():
        pytest.skip(reason="eventlet is not installed, or does not run on this Python")
    server = serve(keep_alive)
    # It has to come before urllib3.
    code = f"import poolscope; {ORDERS[order]}"
    done = told_by(GREENLETS, server, before="", first=code)
    assert done == [server.accepted, server.accepted, 40]
    assert agrees(server, server.accepted, 40)


def _has_eventlet():
    code = "import eventlet; eventlet.monkey_patch(); import urllib3"
    return not subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, check=False
    ).returncode


GEVENT = """
    import gevent.pool
    manager = urllib3.PoolManager(maxsize=8)
    pool = gevent.pool.Pool(8)

    def ask(asked=manager):
        asked.request("GET", argv[0])

    def child():
        own = urllib3.PoolManager(maxsize=8)
        greenlets = [gevent.spawn(ask, own) for _ in range(8)]
        gevent.joinall(greenlets, raise_error=True)
        return counts()[2]

    told = []
    for _ in range(4):
        gevent.joinall([pool.spawn(ask) for _ in range(8)], raise_error=True)
        told.append(gevent.spawn(in_child, child).get())
    gevent.joinall([pool.spawn(ask) for _ in range(8)], raise_error=True)
    print(json.dumps([told, counts()[2]]))
"""


def test_children_that_a_greenlet_forks_count_for_themselves(serve):
    pytest.importorskip("gevent", reason="gevent is not installed")
    server = serve(keep_alive)
    first = "from gevent import monkey; monkey.patch_all()"
    assert told_by(GEVENT, server, before=ATTACHED, first=first) == [[[8, 0]] * 4, 40]
    assert agrees(server, server.accepted, 72)
