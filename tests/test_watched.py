"""With real parts: every panel shows what happens, and an alert comes and goes as it should."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

import watching
from commands import Running, poolscope
from peers import HOST, Server, eventually, fin, free_port, keep_alive
from test_dashboards import board, panels
from watching import Watching, Webhook

pytestmark = [
    pytest.mark.skipif(not watching.INSTALLED, reason=watching.REASON),
    pytest.mark.timeout(240),
]
APP = Path(__file__).parent / "load_app.py"
JOBS = ("native", "otel")
#: An upstream for each habit of load_app.
TROUBLES = (
    "good", "bare", "small", "waiting", "impatient", "unread", "evicting", "racing", "holding",
)  # fmt: skip


def upstream(peer):
    """Answer as the path asks for; count as always."""
    for number, request in enumerate(peer):
        if request.target == "/slow":
            time.sleep(0.05)
        if request.target == "/fin" and number == 3:
            fin(peer)
            return
        peer.answer(b"x" * 3_000_000 if request.target == "/long" else b"ok")


class Service:
    """A process with poolscope inside, and the servers that it alone asks."""

    def __init__(self, job, tls):
        self.port = free_port()
        self.servers = {name: Server(upstream, tls=tls) for name in TROUBLES}
        self.refusing = free_port()
        habits = [f"{name}={server.url}" for name, server in self.servers.items()]
        self.process = subprocess.Popen(
            [sys.executable, APP, f"--{job}", str(self.port), *habits,
             f"refused=http://{HOST}:{self.refusing}"],
            stdin=subprocess.PIPE, text=True,
        )  # fmt: skip

    def tell(self, line):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.process.kill()
        self.process.communicate()
        for server in self.servers.values():
            server.stop()


@pytest.fixture(scope="module")
def services(tmp_path_factory, request):
    """Services on both paths, watched for a while."""
    authority = request.getfixturevalue("authority")
    with contextlib.ExitStack() as stack:
        made = {job: stack.enter_context(Service(job, authority.server(HOST))) for job in JOBS}
        targets = {job: f"{HOST}:{service.port}" for job, service in made.items()}
        watch = stack.enter_context(Watching(tmp_path_factory.mktemp("watch"), targets))
        made["watch"] = watch
        # Everything has happened once, and again a window later.
        watch.until(lambda: len(watch.query("poolscope_connection_timeouts_total")) == 2)
        time.sleep(15)
        yield made


def asked(name, job):
    """Return a dashboard's queries as Grafana sends them, with everything selected."""
    for panel in panels(name).values():
        for target in panel.get("targets", ()):
            text = target["expr"].replace("$__rate_interval", watching.WINDOW)
            text = text.replace("$job", job)
            for variable in ("$instance", "$upstream", "$client", "$cluster", "$namespace"):
                text = text.replace(variable, ".*")
            yield panel["title"], text


@pytest.mark.parametrize("job", JOBS)
def test_every_panel_of_the_service_view_has_an_answer(services, job):
    watch = services["watch"]
    for title, query in asked("poolscope-service", job):
        answer = watch.query(query)
        assert answer, (title, query)
        assert not all(math.isnan(value) for _, value in answer), (title, query)


def test_every_panel_of_the_overview_has_an_answer(services):
    for title, query in asked("poolscope-overview", ".*"):
        assert services["watch"].query(query), (title, query)


@pytest.mark.parametrize("name", ["poolscope-overview", "poolscope-service"])
def test_every_variable_has_values(services, name):
    for variable in board(name)["templating"]["list"]:
        if variable["type"] != "query" or variable["name"] in ("cluster", "namespace"):
            continue  # labels that only some people have
        inner = variable["query"]["query"][len("label_values(") : -1]
        series, _, label = inner.rpartition(", ")
        series = series.replace('"$job"', '"native"')
        values = {row[label] for row, _ in services["watch"].query(series)}
        assert values, (name, variable["name"])


def test_both_paths_have_the_same_series(services):
    """One dashboard serves both: names and labels are the same."""
    watch, found = services["watch"], {}
    # prometheus_client says when a series began; nobody else does.
    ours = "(poolscope|http_client)_.+"
    for job in JOBS:
        rows = watch.query(f'{{job="{job}", __name__=~"{ours}", __name__!~".+_created"}}')
        found[job] = {
            (row["__name__"], frozenset(set(row) - {"__name__"} - watching_only(row)))
            for row, _ in rows
        }
    assert found["otel"] == found["native"]


def watching_only(row):
    """Return the labels that say nothing: empty ones, and the scope's own."""
    return {label for label in row if label.startswith("otel_scope_") or not row[label]} | {
        "error_type"  # an empty label on one path, and no label on the other
    }


@pytest.mark.parametrize("job", JOBS)
def test_what_is_watched_is_what_the_upstreams_counted(services, job):
    watch, service = services["watch"], services[job]
    service.tell("stop")
    for name, server in service.servers.items():
        at = f'{{job="{job}", server_port="{server.port}"'
        handshakes = "poolscope_tls_handshake_duration_seconds_count"
        queries = {
            "accepted": f"sum(poolscope_connections_opened_total{at}}})",
            "handshakes": f'sum({handshakes}{at}, error_type=""}})',
            "answered": f"sum(poolscope_request_duration_seconds_count{at}}})",
        }

        def agrees(queries=queries, server=server):
            seen = {key: watch.query(query)[0][1] for key, query in queries.items()}
            return seen == {key: getattr(server, key) for key in queries}

        assert eventually(agrees), name


def test_the_shares_that_panels_show_are_true(services):
    """Who opens one connection for each request shows 100 %, who re-uses its one shows 0 %."""
    watch = services["watch"]
    query = dict(asked("poolscope-service", "native"))[
        "How many requests had to open a connection?"
    ]
    bare, good = (str(services["native"].servers[name].port) for name in ("bare", "good"))

    def are_true():
        # Prometheus extrapolates each series to the window's ends, so that a window in which a
        # busy machine has let few requests through is some per cent off.
        shares = {row["server_port"]: value for row, value in watch.query(query)}
        return shares[bare] == pytest.approx(1, abs=0.05) and shares[good] == 0

    assert eventually(are_true)


#: What the report has to say of each upstream.
FINDINGS = {
    "good": set(),
    "bare": {"PoolscopeSessionPerRequest"},
    "small": {"PoolscopePoolTooSmall"},
    "waiting": {"PoolscopePoolWait"},
    "unread": {"PoolscopeUnreadResponses"},
}


def test_a_report_can_be_had_from_prometheus(services):
    watch, service = services["watch"], services["native"]
    options = ("--prometheus", watch.url, "--window", "5m", "--job", "native", "--json")
    result = poolscope("report", *options)
    assert result.returncode == 0, result.stderr
    found = {row["port"]: row["findings"] for row in json.loads(result.stdout)["origins"]}
    for name, expected in FINDINGS.items():
        ids = {finding["id"] for finding in found[str(service.servers[name].port)]}
        assert ids == expected, name
    [bare] = found[str(service.servers["bare"].port)]
    assert bare["where"].startswith("tests/load_app.py:")


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--window", "1x"], 2, "'1x' is not a window of time; give one such as 30m, 1h or 7d."),
        (["--job", "none"], 1, "URL has no series of poolscope of the job 'none' in the last 1h."),
    ],
)
def test_what_prometheus_does_not_know_is_one_sentence(services, options, status, said):
    url = services["watch"].url
    result = poolscope("report", "--prometheus", url, *options)
    assert (result.returncode, result.stdout) == (status, "")
    assert result.stderr == f"poolscope: {said.replace('URL', url)}\n"


def test_what_is_no_prometheus_is_one_sentence(services):
    url = f"http://{HOST}:{services['native'].port}"
    result = poolscope("report", "--prometheus", url)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"poolscope: {url} answers, but not as a Prometheus server does.\n"


def test_the_overview_can_be_asked_about_a_fleet():
    """A small one here; the benchmark is for a large one, and for how long it takes."""
    script = Path(__file__).parent / "benchmarks" / "fleet.py"
    result = subprocess.run(
        [sys.executable, script, "--instances", "50", "--upstreams", "3"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in result.stderr, result.stderr
    for panel in panels("poolscope-overview").values():
        assert panel["title"] in result.stdout


def test_an_alert_fires_is_delivered_and_resolves(tmp_path):
    """A service churns under load until it is mended: one Session for all requests."""
    server, webhook = Server(keep_alive), Webhook()
    expected = {"PoolscopeConnectionChurn", "PoolscopeSessionPerRequest"}
    with (
        contextlib.closing(webhook),
        Running(sys.executable, APP, f"bare={server.url}") as service,
        Watching(tmp_path, {"shop": service.url.split("/")[2]}, webhook) as watch,
    ):
        watch.until(lambda: webhook.heard("firing") >= expected)
        service.tell("fix")
        watch.until(lambda: not watch.firing())
        watch.until(lambda: webhook.heard("resolved") == webhook.heard("firing"))
        service.tell("stop")
        opened = "sum(poolscope_connections_opened_total)"
        assert eventually(lambda: watch.query(opened)[0][1] == server.accepted)
    server.stop()
    for _, name, labels, notes in webhook.told:
        assert labels["job"] == "shop", name
        assert labels["server_port"] == str(server.port)
        assert "error" not in notes["description"], notes
        assert "%" in notes["description"] or name not in expected
    churn = next(notes for _, name, _, notes in webhook.told if name == "PoolscopeConnectionChurn")
    assert "because of `new_pool`" in churn["description"]
    assert (
        churn["summary"] == f"shop does not re-use its connections to http://{HOST}:{server.port}."
    )
    assert f"var-job=shop&var-upstream={HOST}" in churn["dashboard_url"]
