"""Where something has run out: disks, memory, descriptors; and where clocks jump."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import urllib3

import poolscope
from commands import run
from peers import HOST, eventually, keep_alive
from programs import told_by

QUIET = "import logging; logging.getLogger('poolscope').setLevel(logging.CRITICAL)"
ON_A_FULL_DISK = """
    import resource
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    poolscope.instrument()
    use()
    poolscope.snapshot()  # where it fails, of which the next one tells
    rows = poolscope.snapshot()
    told = [rows["origins"][0]["requests"]["answered"], list(rows["faults"])]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    use()
    poolscope.snapshot()

    from prometheus_client import CollectorRegistry, multiprocess
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    name = "poolscope_connections_opened_total"
    told.append(sum(
        sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == name
    ))
    print(json.dumps(told))
"""


def test_a_multiprocess_directory_without_room_costs_its_news_alone(serve, tmp_path):
    """What is told there goes on when there is room again; the service does not notice."""
    environ = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    server = serve(keep_alive)
    answered, faults, opened_since = told_by(ON_A_FULL_DISK, server, before=QUIET, env=environ)
    assert (answered, faults) == (2, ["observer.PrometheusObserver"])
    assert opened_since == 1
    assert (server.accepted, server.answered) == (2, 4)


#: A service with series of its own, one page of them, whose next page finds no room.
WITHOUT_A_PAGE = """
    import prometheus_client
    own = prometheus_client.Counter("own", "The service's own.")
    own.inc()
    try:
        with open(os.path.join(os.environ["PROMETHEUS_MULTIPROC_DIR"], "fill"), "wb") as file:
            while True:
                file.write(b"x" * 4096)
                file.flush()
    except OSError:
        pass
    poolscope.instrument()
    use()
    own.inc()
    print(json.dumps(poolscope.snapshot()["origins"][0]["requests"]["answered"]))
"""


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 2 MB."""
    mounted = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)],
            capture_output=True,
            check=False,
        )
        if shutil.which("mount")
        else None
    )
    if mounted is None or mounted.returncode:
        pytest.skip(reason="mounting needs to be root")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_under_the_multiprocess_directory_ends_no_service(serve, small_disk):
    """Files there are mapped: a write to a page that the disk has no room for is SIGBUS."""
    environ = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(small_disk)}
    assert told_by(WITHOUT_A_PAGE, serve(keep_alive), before=QUIET, env=environ) == 2


@pytest.mark.parametrize("place", ["missing", "full"])
def test_run_does_without_a_directory_for_temporary_files(request, place):
    directory = "/nonexistent"
    if place == "full":
        directory = request.getfixturevalue("small_disk")
        with pytest.raises(OSError, match="No space"), (directory / "fill").open("wb") as file:
            file.write(b"x" * 4_000_000)
    result = run(sys.executable, "-c", "print(1)", env=os.environ | {"TMPDIR": str(directory)})
    assert (result.returncode, result.stdout) == (0, "1\n")
    assert "Traceback" not in result.stderr


# Eats all the memory that it may have, gives some of it back, and asks.
WITHOUT_MEMORY = """
    import resource
    sys.unraisablehook = lambda _what: None  # the host's own finalizers have none either
    pool = urllib3.HTTPConnectionPool("127.0.0.1", int(argv[0].rpartition(":")[2]))
    pool.request("GET", "/")
    poolscope.snapshot()
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + 30_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    sizes = (1 << 20, 1 << 16, 1 << 12, 1 << 9, 1 << 8, 1 << 7, 48)

    def eat(hoard):
        for size in sizes:
            try:
                while True:
                    hoard.append(bytearray(size))
            except MemoryError:
                pass

    ours, theirs, answered = [], [], 1
    for turn in range(100):
        hoard = []
        try:
            eat(hoard)
            del hoard[-60 * turn :]
            pool.request("GET", "/", retries=False)
            answered += 1
        except MemoryError as error:
            hoard.clear()
            trace = error.__traceback__
            while trace.tb_next is not None:
                trace = trace.tb_next
            file = trace.tb_frame.f_code.co_filename
            (ours if f"{os.sep}poolscope{os.sep}" in file else theirs).append(file)
        hoard.clear()
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    pool.close()
    del pool
    gc.collect()
    rows = poolscope.snapshot()["origins"]
    before = [rows[0]["connections"]["opened"], rows[0]["connections"]["closed"]]
    before.append(rows[0]["requests"]["answered"])
    use()
    row = poolscope.snapshot()["origins"][0]
    after = [row["connections"]["opened"], row["connections"]["closed"]]
    after.append(row["requests"]["answered"])
    gains = [now - then for now, then in zip(after, before)]
    print(json.dumps([ours, len(theirs), answered, before, gains]))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc here")  # noqa: PTH110
def test_a_service_that_runs_out_of_memory_meets_its_own_errors_alone(serve):
    server = serve(keep_alive)
    ours, _theirs, answered, before, gains = told_by(WITHOUT_MEMORY, server)
    assert ours == []
    assert gains == [1, 1, 2]
    assert before[0] == before[1] == server.accepted - 1
    # An answer that came, and for which there was no memory any more, is the server's alone.
    assert answered <= before[2] <= server.answered - 2


def test_ages_and_durations_stay_sane_when_the_machine_was_suspended(scope, serve, monkeypatch):
    """Clocks jump ahead by days, and the wall clock anywhere."""
    server = serve(keep_alive)
    seen = scope.of(server)
    process = poolscope._process
    client = process.patchers["urllib3"].hooks[0].before.__self__
    clock, jump = client.clock, [0.0]

    def jumping():
        return clock() + jump[0]

    monkeypatch.setattr(client, "clock", jumping)
    monkeypatch.setattr(process.scope, "clock", jumping)
    monkeypatch.setattr("time.time", lambda: -1e9)
    with urllib3.HTTPConnectionPool(HOST, server.port) as pool:
        pool.request("GET", "/")
        response = pool.request("GET", "/", preload_content=False)
        jump[0] = 3 * 86_400.0
        poolscope.snapshot()
        response.drain_conn()
        response.release_conn()
        pool.request("GET", "/")
        age = seen.total("poolscope_connection_oldest_age_seconds")
        assert 3 * 86_400 <= age < 3 * 86_400 + 60
    assert seen.total("http_client_connection_duration_seconds_sum") >= 3 * 86_400
    busy = seen.total("poolscope_connection_busy_time_seconds_total")
    assert 3 * 86_400 <= busy < 3 * 86_400 + 60
    for family in scope.registry.collect():
        negative = [one for one in family.samples if one.value < 0 and "_created" not in one.name]
        assert negative == []


def test_a_service_without_descriptors_meets_its_own_errors_alone(serve):
    """EMFILE in ``connect``: our hooks need no descriptor."""
    code = """
        import resource
        use()
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, resource.getrlimit(7)[1]))
        hoard = []
        try:
            while True:
                hoard.append(open("/dev/null"))
        except OSError:
            pass
        errors = set()
        for _ in range(10):
            try:
                use()
            except urllib3.exceptions.HTTPError as error:
                errors.add(type(error).__name__)
        hoard.clear()
        use()
        print(json.dumps([sorted(errors), counts()]))
    """
    server = serve(keep_alive)
    errors, ours = told_by(code, server)
    assert errors == ["MaxRetryError"]
    assert ours == [2, 2, 4]
    assert eventually(lambda: (server.accepted, server.answered) == (2, 4))
