"""OpenTelemetry without code: ``run --otlp`` and the zero-code tools, against real receivers."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from commands import counts_of, own_counts, poolscope, report_of, run
from otlp import Receiver
from peers import free_port, keep_alive, scripted, silence

WORKERS = """
    import os, sys
    import urllib3
    children = []
    for number in range(3):
        child = os.fork()
        if not child:
            with urllib3.PoolManager() as pool:
                for _ in range(number + 2):
                    pool.request("GET", sys.argv[1])
            break
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
"""
ONE = """
    import sys
    import urllib3
    with urllib3.PoolManager() as pool:
        for _ in range(4):
            pool.request("GET", sys.argv[1])
"""


@pytest.fixture
def receive():
    """Start receivers that live as long as the test."""
    receivers = []

    def receive(*args, **kwargs):
        receivers.append(Receiver(*args, **kwargs))
        return receivers[-1]

    yield receive
    for receiver in receivers:
        receiver.stop()


def environ(**variables):
    """Return an environment without anybody's OpenTelemetry settings but these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return kept | {"OTEL_METRIC_EXPORT_INTERVAL": "60000"} | variables


def script(code, server):
    return (sys.executable, "-c", textwrap.dedent(code), server.url)


def total(receiver, name, server, **labels):
    """Add up the received samples of one name of an origin."""
    wanted = {("server_port", str(server.port)), *labels.items()}
    return sum(
        value
        for (sample, found), value in receiver.samples.items()
        if sample == name and wanted <= found
    )


def agrees(receiver, server):
    """Hold what was received against what the server has counted."""
    assert (
        total(receiver, "poolscope_connections_opened_total", server),
        total(receiver, "poolscope_connections_closed_total", server),
        total(receiver, "poolscope_request_duration_seconds_count", server),
    ) == (server.accepted, server.accepted, server.answered)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_run_exports_the_sum_of_all_processes(serve, receive, protocol):
    server, receiver = serve(keep_alive), receive(protocol)
    result = run(
        *script(WORKERS, server),
        options=("--otlp", receiver.url),
        env=environ(
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_SERVICE_NAME="orders",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
        ),
    )
    assert result.returncode == 0, result.stderr
    assert (server.accepted, server.answered) == (3, 9)
    agrees(receiver, server)
    assert counts_of(report_of(result), server) == own_counts(server)
    resource = receiver.resources[-1]
    assert resource["service.name"] == "orders"
    assert resource["deployment.environment.name"] == "test"
    assert len(resource["service.instance.id"]) == 36


@pytest.mark.parametrize(
    ("variable", "path"),
    [("OTEL_EXPORTER_OTLP_ENDPOINT", ""), ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "/v1/metrics")],
)
def test_the_standard_variables_are_enough(serve, receive, variable, path):
    server, receiver = serve(keep_alive), receive()
    env = environ(**{variable: receiver.url + path})
    result = run(*script(ONE, server), env=env)
    assert result.returncode == 0, result.stderr
    agrees(receiver, server)
    assert receiver.paths == ["/v1/metrics"]
    assert receiver.resources[-1]["service.name"] == f"unknown_service:{Path(sys.executable).name}"


@pytest.mark.parametrize("variable", ["OTEL_SDK_DISABLED=true", "OTEL_METRICS_EXPORTER=none"])
def test_what_switches_sdks_off_switches_the_export_off(serve, receive, variable):
    server, receiver = serve(keep_alive), receive()
    name, value = variable.split("=")
    env = environ(**{name: value, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
    assert run(*script(ONE, server), env=env).returncode == 0
    assert receiver.requests == 0


@pytest.mark.parametrize("trouble", ["refuses", "errors", "is slow"])
def test_an_endpoint_in_trouble_is_told_once_and_costs_nothing(serve, receive, trouble):
    server = serve(keep_alive)
    url = {
        "refuses": lambda: f"http://127.0.0.1:{free_port()}",
        "errors": lambda: receive(answer=500).url,
        "is slow": lambda: serve(scripted(silence)).url.rstrip("/"),
    }[trouble]()
    result = run(
        *script(ONE, server),
        options=("--otlp", url),
        env=environ(OTEL_METRIC_EXPORT_INTERVAL="50", OTEL_EXPORTER_OTLP_TIMEOUT="1"),
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("can't export") == 1
    assert url in result.stderr
    assert "Traceback" not in result.stderr
    assert counts_of(report_of(result), server) == own_counts(server)


@pytest.mark.parametrize(
    ("options", "variables"),
    [
        (("--otlp", "localhost:4318"), {}),
        (("--otlp", "http://127.0.0.1:1"), {"OTEL_EXPORTER_OTLP_PROTOCOL": "json"}),
    ],
)
def test_a_bad_option_is_one_sentence(options, variables):
    result = poolscope("run", *options, "--", "echo", "ran", env=environ(**variables))
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("poolscope: an OTLP ")


@pytest.mark.parametrize(
    "url",
    ["http://[", "http://:4318", "http://a:port", "http://a:0", "http://me:sec/ret@a", "ftp://a",
     "http://me:secret@a:99999", "a\x1b[31m\nb"],
)  # fmt: skip
def test_what_is_no_url_is_one_sentence_without_a_secret(url):
    result = poolscope("run", "--otlp", url, "--", "echo", "ran", env=environ())
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("poolscope: an OTLP endpoint is a URL")
    assert line.isprintable()
    assert "sec" not in line
    env = environ(OTEL_EXPORTER_OTLP_ENDPOINT=url)
    result = poolscope("run", "--port", 0, "--no-report", "--", "echo", "ran", env=env)
    assert (result.returncode, result.stdout) == (0, "ran\n")
    assert "nothing is exported over OTLP" in result.stderr
    assert "sec" not in result.stderr


SECRETS = {
    "refuses": "http://me:s%65cret@127.0.0.1:{}/v1/metrics?token=s%65cret",
    "speaks something else": "http://me:s%65cret@127.0.0.1:{}/a/v1/metrics?token=s%65cret",
    "has no name": "http://me:s%65cret@no-such-host.invalid/v1/metrics?token=s%65cret",
}


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize(("trouble", "more"), [*zip(SECRETS, ("",) * 3), ("refuses", ",s3cr3t")])
def test_secrets_are_not_told_when_an_export_fails(serve, trouble, more, protocol):
    """Neither those of the URL nor those of the headers, whoever words the failure."""
    port = serve(lambda peer: peer.send(b"secret\r\n")).port if "else" in trouble else free_port()
    url = SECRETS[trouble].format(port)
    result = run(
        *script(ONE, serve(keep_alive)),
        options=("--otlp", url, "--no-report"),
        env=environ(
            OTEL_METRIC_EXPORT_INTERVAL="100",
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_EXPORTER_OTLP_TIMEOUT="1",
            OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20s3cr3t,x=y" + more,
        ),
    )  # fmt: skip
    assert result.returncode == 0
    assert "can't export to http://...@" in result.stderr
    for secret in ("secret", "s%65cret", "s3cr3t"):
        assert secret not in result.stderr, result.stderr


def test_names_that_are_no_utf_8_are_sent_all_the_same(serve, receive, tmp_path):
    """What a program is called, and what an environment holds, may be any bytes."""
    program = tmp_path / "pro\udcff\x1bgram"
    program.write_text(f"#!{sys.executable}\n{textwrap.dedent(ONE)}")
    program.chmod(0o755)
    server, receiver = serve(keep_alive), receive()
    env = environ(OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=\udcff")
    options = ("--port", 0, "--no-report", "--otlp", receiver.url)
    result = poolscope("run", *options, "--", program, server.url, env=env)
    assert result.returncode == 0
    assert "can't export" not in result.stderr
    agrees(receiver, server)
    assert result.stderr[:-1].replace("\n", "").isprintable()
    resource = receiver.resources[-1]
    assert resource["service.name"] == "unknown_service:pro\\udcff\x1bgram"
    assert resource["deployment.environment.name"] == "\\udcff"


def test_a_bad_variable_does_not_stop_the_command():
    env = environ(OTEL_EXPORTER_OTLP_ENDPOINT="localhost:4318")
    result = poolscope("run", "--port", 0, "--no-report", "--", "echo", "ran", env=env)
    assert (result.returncode, result.stdout) == (0, "ran\n")
    assert "nothing is exported over OTLP" in result.stderr


# ---- zero-code tools


def auto_instrument(server, receiver, **variables):
    """Run a script as ``opentelemetry-instrument`` does, and wait for its end."""
    tool = Path(sys.executable).with_name("opentelemetry-instrument")
    env = environ(
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        OTEL_TRACES_EXPORTER="none",
        OTEL_LOGS_EXPORTER="none",
        **variables,
    )
    done = subprocess.run(
        [tool, *script(ONE, server)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def test_opentelemetry_instrument_picks_poolscope_up(serve, receive):
    server, receiver = serve(keep_alive), receive()
    auto_instrument(server, receiver)
    agrees(receiver, server)
    # The exporter's own connections are not in it.
    ports = {dict(labels).get("server_port") for _, labels in receiver.samples}
    assert ports == {str(server.port)}


def test_the_standard_variable_keeps_it_out(serve, receive):
    server, receiver = serve(keep_alive), receive()
    auto_instrument(server, receiver, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="poolscope")
    assert server.answered == 4
    assert receiver.samples == {}
