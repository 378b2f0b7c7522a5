"""Forks in odd places: each child counts for itself, the parent goes on, and everybody ends."""

from __future__ import annotations

import os
import sys
import textwrap

import pytest

from commands import counts_of, own_counts, report_of, run
from peers import keep_alive
from programs import agrees, told_by

IN_A_THREAD = """
    use()
    told = []

    def fork():
        told.append(in_child(lambda: [use(), counts()][1]))

    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
    print(json.dumps([told, counts()]))
"""


def test_a_child_that_is_forked_in_a_thread_counts_for_itself(serve):
    server = serve(keep_alive)
    assert told_by(IN_A_THREAD, server) == [[[[1, 1, 2], 0]], [1, 1, 2]]
    assert agrees(server, 2, 4)


RETURNS = """
    use()
    pids = []

    def fork():
        pids.append(os.fork())
        if not pids[0]:
            use()  # and the only thread of this process ends

    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
    deadline = time.monotonic() + 10
    ended, status = 0, None
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
        ended, status = os.waitpid(pids[0], os.WNOHANG)
    if not ended:
        os.kill(pids[0], signal.SIGKILL)
    print(json.dumps([status if ended else "hangs", counts()]))
"""


def test_a_child_ends_with_its_only_thread_as_natively(serve):
    server = serve(keep_alive)
    assert told_by(RETURNS, server, before="") == [0, [0, 0, 0]]
    assert told_by(RETURNS, server) == [0, [1, 1, 2]]


IN_A_SIGNAL_HANDLER = """
    children, turns = [], 0

    def handler(_number, _frame):
        if len(children) < 20:
            children.append(in_child(lambda: [use(1), counts()][1]))
        if len(children) < 20:
            signal.setitimer(signal.ITIMER_REAL, 0.005)

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.005)
    while len(children) < 20:
        use()
        turns += 1
    print(json.dumps([turns, children, counts()]))
"""


def test_a_signal_handler_may_fork_amid_requests(serve):
    server = serve(keep_alive)
    turns, children, ours = told_by(IN_A_SIGNAL_HANDLER, server)
    assert children == [[[1, 1, 1], 0]] * 20
    assert ours == [turns, turns, 2 * turns]
    assert agrees(server, turns + 20, 2 * turns + 20)


AMID_A_FORK = """
    use()
    scope, children = poolscope._process.scope, []
    original = scope.hold

    def hold():
        held = original()
        if not children:
            children.append(None)
            children[0] = in_child(lambda: [use(1), counts()][1])
        return held

    scope.hold = hold  # as if a signal handler came then
    children.append(in_child(lambda: [use(1), counts()][1]))
    told = []
    thread = threading.Thread(target=lambda: told.append([use(), counts()][1]), daemon=True)
    thread.start()
    thread.join(10)
    print(json.dumps([children, told]))
    sys.stdout.flush()
    os._exit(0)
"""


def test_a_fork_amid_a_fork_leaves_the_drain_to_others(serve):
    server = serve(keep_alive)
    assert told_by(AMID_A_FORK, server) == [[[[1, 1, 1], 0]] * 2, [[2, 2, 4]]]
    assert agrees(server, 4, 6)


IN_A_FINALIZER = """
    children = []

    class Dying:
        def __init__(self):
            self.itself = self

        def __del__(self):
            children.append(in_child(lambda: [use(1), counts()][1]))

    for _ in range(10):
        Dying()
        use()
        gc.collect()
    print(json.dumps([children, counts()]))
"""


def test_a_garbage_collection_may_fork(serve):
    server = serve(keep_alive)
    assert told_by(IN_A_FINALIZER, server) == [[[[1, 1, 1], 0]] * 10, [10, 10, 20]]
    assert agrees(server, 20, 30)


IN_AN_OBSERVER = """
    from poolscope.observers import Observer

    class Forking(Observer):
        children = []

        def answered(self, event):
            if not self.children:
                self.children.append(None)
                self.children[0] = in_child(lambda: [use(1), counts()][1])

    poolscope.instrument(Forking())
    for _ in range(2):
        use()
        poolscope.snapshot()
    print(json.dumps([Forking.children, counts()]))
"""


def test_an_observer_may_fork_in_the_midst_of_a_drain(serve):
    server = serve(keep_alive)
    assert told_by(IN_AN_OBSERVER, server) == [[[[1, 1, 1], 0]], [2, 2, 4]]
    assert agrees(server, 3, 5)


DAEMON = """
    use()
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.setsid()
        if os.fork():
            os._exit(0)
        for number in range(256):
            if number != writer:
                try:
                    os.close(number)
                except OSError:
                    pass
        use(3)
        os.write(writer, json.dumps(counts()).encode())
        os._exit(0)
    os.close(writer)
    status = os.waitpid(pid, 0)[1]
    with os.fdopen(reader) as pipe:
        print(json.dumps([status, json.loads(pipe.read()), counts()]))
"""


def test_a_daemon_that_closes_all_descriptors_counts_for_itself(serve):
    server = serve(keep_alive)
    assert told_by(DAEMON, server) == [0, [1, 1, 3], [1, 1, 2]]
    assert agrees(server, 2, 5)


STARTS = """
    import subprocess
    use()
    statuses = [
        subprocess.run(["true"], preexec_fn=use).returncode,
        subprocess.run(["true"], preexec_fn=os.setsid).returncode,
        subprocess.run(["true"]).returncode,
        os.waitpid(os.posix_spawn("/bin/true", ["true"], os.environ), 0)[1],
    ]
    pid = os.fork()
    if not pid:
        use()
        os.execvp("true", ["true"])
    statuses.append(os.waitpid(pid, 0)[1])
    use()
    print(json.dumps([statuses, counts()]))
"""


def test_a_parent_that_starts_programs_in_any_way_goes_on(serve):
    server = serve(keep_alive)
    assert told_by(STARTS, server) == [[0] * 5, [2, 2, 4]]
    assert agrees(server, 4, 8)


AT_EXIT = """
    def forever():
        while True:
            use(1)

    for _ in range(4):
        threading.Thread(target=forever, daemon=True).start()
    while counts()[2] < 20:
        time.sleep(0.01)
    print(json.dumps("ends"))
"""


def test_daemon_threads_amid_requests_keep_no_process_from_ending(serve):
    assert told_by(AT_EXIT, serve(keep_alive)) == "ends"


# ---- multiprocessing and exec, attached from outside

MULTIPROCESSING = """
    import multiprocessing, os, sys, urllib3

    def work(times):
        with urllib3.PoolManager() as manager:
            for _ in range(times):
                manager.request("GET", os.environ["UPSTREAM"])

    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[1])
        with context.Pool(2) as pool:
            pool.map(work, [2] * 6, chunksize=1)
            pool.close()
            pool.join()
        alone = context.Process(target=work, args=(3,))
        alone.start()
        alone.join()
        print(alone.exitcode)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_are_counted_and_end_well(serve, tmp_path, method):
    server = serve(keep_alive)
    (tmp_path / "program.py").write_text(textwrap.dedent(MULTIPROCESSING))
    result = run(
        sys.executable, tmp_path / "program.py", method, env=os.environ | {"UPSTREAM": server.url}
    )
    assert (result.returncode, result.stdout) == (0, "0\n"), result.stderr
    assert counts_of(report_of(result), server) == own_counts(server) == (7, 0, 15)


EXECS = """
    import os, sys, urllib3
    with urllib3.PoolManager() as manager:
        manager.request("GET", os.environ["UPSTREAM"])
    step = int(sys.argv[1])
    if step == 1:
        if not os.fork():
            os.execv(sys.executable, [sys.executable, sys.argv[0], "2"])
        os.wait()
    elif step == 2:
        pid = os.posix_spawn(sys.executable, [sys.executable, sys.argv[0], "3"], os.environ)
        os.waitpid(pid, 0)
"""


def test_programs_that_a_child_becomes_or_spawns_are_counted(serve, tmp_path):
    server = serve(keep_alive)
    (tmp_path / "program.py").write_text(textwrap.dedent(EXECS))
    result = run(
        sys.executable, tmp_path / "program.py", "1", env=os.environ | {"UPSTREAM": server.url}
    )
    assert result.returncode == 0, result.stderr
    assert counts_of(report_of(result), server) == own_counts(server) == (3, 0, 3)
