"""Of connections that need not have been opened, the line of code that asked for them is known."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from commands import origin_of, report_of, run
from otlp import metrics_of
from peers import keep_alive
from poolscope import callsites, catalog
from poolscope import events as ev
from poolscope.backends.otel import OtelObserver
from poolscope.callsites import CallSites, Site, asking
from poolscope.collector import Collector
from poolscope.observers import Observer
from poolscope.relay import Relay

FILES, SITES = 28, 75


def write(directory, name, text):
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def sites_of(result, server):
    """Return ``{(path, function, line, cause): count}`` of a report."""
    rows = origin_of(report_of(result), server)["connections"]["call_sites"]
    return {(row["path"], row["function"], row["line"], row["cause"]): row["count"] for row in rows}


def play(directory, script, server, *arguments, **options):
    """Run a script of a directory under ``poolscope run``."""
    return run(sys.executable, script, server.url, *arguments, cwd=directory, **options)


@pytest.fixture
def server(serve):
    return serve(keep_alive)


def test_one_bare_call_among_many_is_pointed_at(server, tmp_path):
    """75 call sites in 28 files, of which one makes a Session for each call."""
    write(tmp_path, "shared.py", "import requests\nSESSION = requests.Session()\n")
    for number in range(FILES):
        functions = [
            f"def ask_{site}(url):\n    return SESSION.get(url).text\n"
            for site in range(number, SITES, FILES)
        ]
        write(
            tmp_path, f"app/part_{number}.py", "".join(["from shared import SESSION\n", *functions])
        )
    bare = tmp_path / "app" / "part_17.py"
    text = bare.read_text().replace("SESSION.get(url).text\n", "requests.get(url).text\n", 1)
    bare.write_text("import requests\n" + text)
    write(
        tmp_path,
        "main.py",
        f"""
        import importlib, sys
        for _ in range(3):
            for site in range({SITES}):
                module = importlib.import_module(f"app.part_{{site % {FILES}}}")
                getattr(module, f"ask_{{site}}")(sys.argv[1])
        """,
    )
    result = play(tmp_path, "main.py", server)
    assert result.returncode == 0, result.stderr
    assert server.accepted == 1 + 3  # the Session's, and the bare ones
    assert sites_of(result, server) == {("app/part_17.py", "ask_17", 4, "new_pool"): 3}


def test_the_report_says_where(server, tmp_path):
    write(
        tmp_path,
        "main.py",
        """
        import sys, requests
        def price(url):
            return requests.get(url)
        for _ in range(20):
            price(sys.argv[1])
        """,
    )
    result = play(tmp_path, "main.py", server)
    [finding] = origin_of(report_of(result), server)["findings"]
    assert finding["where"] == "main.py:4 in price, 19 times"


@pytest.mark.parametrize("options", [{"options": ["--no-call-sites"]}, {"env": "0"}])
def test_it_can_be_switched_off(server, tmp_path, options, monkeypatch):
    if "env" in options:
        monkeypatch.setenv("POOLSCOPE_CALL_SITES", options.pop("env"))
    script = "import sys, requests\nfor _ in range(9): requests.get(sys.argv[1])\n"
    write(tmp_path, "main.py", script)
    result = play(tmp_path, "main.py", server, **options)
    assert server.accepted == 9
    assert sites_of(result, server) == {}


def test_a_bad_setting_is_one_sentence(monkeypatch):
    monkeypatch.setenv("POOLSCOPE_CALL_SITES", "maybe")
    result = run(sys.executable, "-c", "")
    assert result.returncode == 2
    assert result.stderr == "poolscope: POOLSCOPE_CALL_SITES must be 1 or 0, not 'maybe'.\n"


def test_each_way_to_ask_is_told_from_the_others(server, tmp_path):
    """A pool of workers names its task; where nothing is the application's, the package does."""
    write(
        tmp_path / "site-packages",
        "wrapper/client.py",
        "import requests\ndef fetch(url):\n    return requests.get(url)\n",
    )
    write(
        tmp_path / "site-packages",
        "shop/tasks.py",
        "from wrapper.client import fetch\ndef task(url):\n    return fetch(url)\n",
    )
    write(
        tmp_path,
        "main.py",
        """
        import sys, requests
        from concurrent.futures import ThreadPoolExecutor
        sys.path.insert(0, "site-packages")
        from shop.tasks import task
        from wrapper.client import fetch
        url = sys.argv[1]
        class Orders:
            def through_a_package(self):
                fetch(url)
        def mine():
            requests.get(url)
        first = requests.get(url)
        with ThreadPoolExecutor(1) as workers:
            workers.submit(mine).result()
            workers.submit(task, url).result()
            workers.submit(requests.get, url).result()
        Orders().through_a_package()
        """,
    )
    result = play(tmp_path, "main.py", server)
    assert result.returncode == 0, result.stderr
    qualified = "Orders.through_a_package" if sys.version_info >= (3, 11) else "through_a_package"
    found = sites_of(result, server)
    bare = [key for key in found if key[0] == "requests/api.py"]
    assert len(bare) == 1
    assert found == {
        ("main.py", "mine", 12, "new_pool"): 1,
        ("shop/tasks.py", "task", 3, "new_pool"): 1,
        bare[0]: 1,
        ("main.py", qualified, 10, "new_pool"): 1,
    }


def test_what_runs_an_installed_application_is_not_what_asks(server, tmp_path):
    """Neither a command that pip made nor ``python -m``, but the line of the package."""
    write(
        tmp_path / "site-packages",
        "shop/prices.py",
        "import requests\ndef price(url):\n    return requests.get(url)\n",
    )
    main = "import sys\nfrom shop.prices import price\nfor _ in range(3): price(sys.argv[1])\n"
    write(tmp_path / "site-packages", "shop/__main__.py", main)
    write(tmp_path / "site-packages", "waitress/__main__.py", main)
    for package in ("shop", "waitress"):
        result = run(sys.executable, "-m", package, server.url, cwd=tmp_path / "site-packages")
        assert result.returncode == 0, result.stderr
        assert sites_of(result, server) == {("shop/prices.py", "price", 3, "new_pool"): 2}
    script = Path(sys.executable).parent / "poolscope-test-script"
    kind = callsites._kind(str(script), "__main__")
    assert kind == callsites._kind("/x/site-packages/gunicorn/app.py", "gunicorn")


def test_a_name_that_is_no_text_does_not_spoil_a_scrape():
    code = compile("def f(): pass", "\udcff/app.py", "exec").co_consts[0]
    assert CallSites().spelled(Site(code, 3)).path == "\\udcff/app.py"


@pytest.mark.parametrize("held", [False, True])
def test_processes_share_one_bound_under_run(tmp_path, held):
    told = []
    record = {"asked_for": lambda _self, event: told.append(event)}
    recorder = type("Recorder", (Observer,), record | {"held": record["asked_for"]})
    collector = Collector(str(tmp_path / "collector"), [recorder()], 100)
    collector.start()
    origin = ev.Origin("api", "443", "https", "urllib3")
    for process in range(3):
        relay = Relay(str(tmp_path / "collector"))
        relay.hello()
        sites = [(origin, f"{process}.py", "f", str(line)) for line in range(30)]
        relay.tell([ev.Held(*one) if held else ev.AskedFor(*one, "new_pool") for one in sites])
        relay.tell([ev.Held(origin)] if held else [])  # nobody knows which line: no name is needed
        relay.ended()
    collector.finish()
    named = [event[1:4] for event in told if event.path]
    assert (len(told), len(named)) == (93 if held else 90, 90)
    assert len(set(named)) == callsites.MAX_SITES + 1


GIVING_UP = """
    import sys, requests, urllib3
    session = requests.Session()
    pool = urllib3.PoolManager()
    def leave(url):
        with session.get(url, stream=True) as response:
            for line in response.iter_lines():
                break
    def fail(url):
        try:
            for chunk in session.get(url, stream=True).iter_content(4):
                raise LookupError
        except LookupError:
            pass
    def tidy(url):
        response = pool.request("GET", url, preload_content=False)
        response.read(5)
        shut(response.connection)
    def shut(conn):
        conn.close()
    for _ in range(20):
        globals()[sys.argv[2]](sys.argv[1])
"""


@pytest.mark.parametrize(
    ("way", "where", "cause", "finding"),
    [
        ("leave", 6, "replaced_unread", "PoolscopeUnreadResponses"),
        ("fail", 11, "replaced_unread", "PoolscopeUnreadResponses"),
        ("tidy", 20, "replaced_explicit", "PoolscopeApplicationCloses"),
    ],
)
def test_who_gives_connections_up_is_pointed_at(serve, tmp_path, way, where, cause, finding):
    def chunks(peer):
        for _ in peer:
            peer.answer(b"6\r\nhello\n\r\n" * 9, "Transfer-Encoding: chunked", length=-1)

    server = serve(chunks)
    write(tmp_path, "main.py", GIVING_UP)
    result = play(tmp_path, "main.py", server, way)
    assert result.returncode == 0, result.stderr
    assert (server.accepted, server.answered) == (20, 20)
    [(path, function, line, told)] = sites = sites_of(result, server)
    assert (path, line, told) == ("main.py", where, cause)
    assert list(sites.values()) == [19]
    [one] = origin_of(report_of(result), server)["findings"]
    assert (one["id"], one["where"]) == (finding, f"main.py:{where} in {function}, 19 times")


def test_what_need_be_opened_has_no_site(server, tmp_path):
    """Growth is needed, and the other side's doing is not the application's."""
    write(
        tmp_path,
        "main.py",
        """
        import sys, threading, urllib3
        pool = urllib3.PoolManager(maxsize=4)
        open_ = [pool.request("GET", sys.argv[1], preload_content=False) for _ in range(3)]
        for response in open_:
            response.drain_conn()
        for _ in range(3):
            pool.request("GET", sys.argv[1])
        """,
    )
    result = play(tmp_path, "main.py", server)
    assert server.accepted == 3
    assert sites_of(result, server) == {}


# ---- in this process


def sites(number):
    code = compile("def f(): pass", f"{number}.py", "exec").co_consts[0]
    return Site(code, number)


def test_sites_are_bounded():
    known = CallSites()
    spelled = [known.spelled(sites(number)) for number in range(callsites.MAX_SITES + 10)]
    assert len(set(spelled)) == callsites.MAX_SITES + 1
    assert spelled[-10:] == [callsites.OTHER] * 10
    assert known.spelled(sites(3)) == spelled[3]


def test_files_that_are_made_up_are_forgotten(monkeypatch):
    monkeypatch.setattr(callsites, "_MAX_FILES", 10)
    monkeypatch.setattr(callsites, "_kinds", {})
    for number in range(100):
        space = {"__name__": "app", "asking": asking, "sys": sys}
        exec(compile("site = asking(sys._getframe(0))", f"made-{number}.py", "exec"), space)
        assert space["site"].code.co_filename == f"made-{number}.py"
        assert len(callsites._kinds) <= 10


def test_opentelemetry_gets_the_lines_number_as_a_number():
    reader = InMemoryMetricReader()
    observer = OtelObserver(MeterProvider([reader]), drain=int)
    origin = ev.Origin("api", "443", "https", "urllib3")
    observer.tell([ev.AskedFor(origin, "app.py", "price", "31", "new_pool")])
    [metric] = [
        one for one in metrics_of(reader.get_metrics_data()) if one.name == catalog.BY_CALLSITE.name
    ]
    [point] = metric.data.data_points
    assert point.value == 1
    assert point.attributes["code.line.number"] == 31
    assert point.attributes["code.file.path"] == "app.py"
