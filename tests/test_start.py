"""What stands in the way of ``instrument()``: the host starts all the same, with what works."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from peers import HOST, keep_alive

REQUEST = """
with urllib3.HTTPConnectionPool("{host}", {port}) as pool:
    pool.request("GET", "/")
(row,) = poolscope.snapshot()["origins"]
print(row["requests"]["answered"], row["connections"]["opened"])
"""


def start(code, server=None, python=sys.executable, **environ):
    """Run a script in a new process; return what it printed, and said."""
    port = server.port if server is not None else 0
    script = textwrap.dedent(code) + (REQUEST.format(host=HOST, port=port) if server else "")
    result = subprocess.run(
        [python, "-c", script],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split(), result.stderr.splitlines()


BROKEN = {
    "mocked": "sys.modules['{vendor}'] = unittest.mock.MagicMock()",
    "without a spec": "sys.modules['{vendor}'] = types.ModuleType('{vendor}')",
    "taken out": "sys.modules['{vendor}'] = None",
    "broken": "sys.meta_path.insert(0, Broken())",
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("vendor", ["prometheus_client", "opentelemetry", "opentelemetry.sdk"])
def test_a_backend_that_does_not_work_is_done_without(serve, vendor, how):
    """In a line at most, where it is there; the other one and snapshot() go on."""
    server = serve(keep_alive)
    code = f"""
    import sys, types, unittest.mock, urllib3
    class Broken:
        def find_spec(self, name, *_rest):
            if name.split(".")[0] == "{vendor.split(".")[0]}":
                raise ZeroDivisionError
    {BROKEN[how].format(vendor=vendor)}
    import poolscope
    poolscope.instrument()
    """
    printed, said = start(code, server)
    assert printed == ["1", "1"]
    assert len(said) <= 2
    for line in said:
        assert line.startswith("poolscope: nothing is reported to ")
    assert (server.accepted, server.answered) == (1, 1)


def test_a_default_registry_that_is_taken_is_done_without(serve):
    server = serve(keep_alive)
    code = """
    import poolscope, prometheus_client, urllib3
    prometheus_client.Counter("poolscope_faults", "somebody else's")
    poolscope.instrument()
    """
    printed, said = start(code, server)
    assert printed == ["1", "1"]
    (line,) = [line for line in said if "prometheus" in line]
    assert "already has metrics named poolscope_faults" in line


def test_a_given_registry_that_is_taken_is_complained_about():
    code = """
    import poolscope, prometheus_client
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.Counter("poolscope_faults", "somebody else's", registry=registry)
    try:
        poolscope.instrument(registry)
    except ValueError as error:
        print("poolscope_faults" in str(error))
    """
    assert start(code) == (["True"], [])


def test_without_wrapt_the_usual_hooks_count(serve):
    """It is there for functions that somebody else has wrapped before."""
    server = serve(keep_alive)
    code = """
    import sys
    sys.modules["wrapt"] = None
    import poolscope, urllib3
    poolscope.instrument(())
    """
    assert start(code, server) == (["1", "1"], [])
    assert (server.accepted, server.answered) == (1, 1)


def test_without_wrapt_what_it_is_needed_for_is_told():
    """Somebody has put a function with other parameters in urllib3's place."""
    code = """
    import sys
    sys.modules["wrapt"] = None
    import urllib3
    original = urllib3.HTTPConnectionPool._put_conn
    urllib3.HTTPConnectionPool._put_conn = lambda *args: original(*args)
    import poolscope
    poolscope.instrument()
    print(poolscope.snapshot()["origins"])
    """
    printed, (line,) = start(code)
    assert printed == ["[]"]
    assert line.startswith("poolscope: a fault of its own in attach.urllib3 (ModuleNotFoundError")


def test_a_multiprocess_directory_may_come_late(serve, tmp_path):
    """What was counted until then is missing, and said; what comes from then on is there."""
    server = serve(keep_alive)
    code = f"""
    import os, poolscope, urllib3
    from prometheus_client import CollectorRegistry, multiprocess
    poolscope.instrument()
    with urllib3.HTTPConnectionPool("{HOST}", {server.port}) as pool:
        pool.request("GET", "/")
        poolscope.snapshot()
        os.mkdir(os.environ["PROMETHEUS_MULTIPROC_DIR"])
        poolscope.snapshot()
        pool.request("GET", "/")
        poolscope.snapshot()
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        values = {{}}
        for family in registry.collect():
            for sample in family.samples:
                values[sample.name] = values.get(sample.name, 0) + sample.value
    print(values["poolscope_request_duration_seconds_count"], values["poolscope_pools_open"],
          values["http_client_open_connections"], values["poolscope_faults_total"])
    """
    printed, said = start(code, PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "late"))
    assert printed == ["1.0", "1.0", "1.0", "1.0"]
    (line,) = said
    assert line.startswith("poolscope: a fault of its own in observer.PrometheusObserver")


def test_a_module_that_is_reloaded_is_the_same(serve):
    server = serve(keep_alive)
    code = """
    import importlib, poolscope, urllib3
    original = urllib3.HTTPConnectionPool._get_conn
    poolscope.instrument()
    importlib.reload(poolscope)
    poolscope.instrument()
    poolscope.uninstrument()
    print(urllib3.HTTPConnectionPool._get_conn is original)
    poolscope.instrument()
    """
    printed, said = start(code, server)
    assert (printed, said) == (["True", "1", "1"], [])


def test_a_second_copy_of_the_modules_attaches_nothing(serve):
    """Some test suites throw modules away; the first copy's hooks are still there."""
    server = serve(keep_alive)
    code = f"""
    import sys, urllib3
    import prometheus_client
    import poolscope as first
    registry = prometheus_client.CollectorRegistry()
    first.instrument(registry)
    for name in [name for name in sys.modules if name.partition(".")[0] == "poolscope"]:
        del sys.modules[name]
    import poolscope as second
    assert second is not first
    second.instrument(())
    with urllib3.HTTPConnectionPool("{HOST}", {server.port}) as pool:
        pool.request("GET", "/")
    print(*(sample.value for family in registry.collect() for sample in family.samples
            if sample.name == "poolscope_connections_opened_total"),
          len(second.snapshot()["origins"]))
    first.uninstrument()
    second.uninstrument()
    second.instrument(())
    with urllib3.HTTPConnectionPool("{HOST}", {server.port}) as pool:
        pool.request("GET", "/")
    print(*(row["requests"]["answered"] for row in second.snapshot()["origins"]))
    """
    printed, said = start(code)
    assert printed == ["1.0", "0", "1"]
    assert said == [
        "poolscope: another copy of poolscope in this process is attached already.",
    ]


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="from 3.13 on it is watched")
def test_a_subinterpreter_is_left_alone_where_python_would_end_the_process():
    code = f"""
    import _xxsubinterpreters as interpreters
    import sys
    one = interpreters.create()
    interpreters.run_string(one, '''if True:
        import sys
        sys.path[:] = {sys.path!r}
        import poolscope
        poolscope.instrument()
        print(poolscope._process)
    ''')
    interpreters.destroy(one)
    """
    printed, said = start(code)
    assert printed == ["None"]
    assert said == [
        "poolscope: it does not attach: subinterpreters are watched from Python 3.13 on.",
    ]
