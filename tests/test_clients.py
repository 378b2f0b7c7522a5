"""Libraries on top of urllib3, with classes of their own: counted as their servers count."""

from __future__ import annotations

import contextlib
import gc
from urllib.parse import quote

import pytest
import urllib3

from peers import HOST, fin, scripted

BUCKETS = b"<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>"
VERSION = b'{"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "20"}'


def xml(peer):
    peer.answer(BUCKETS, "Content-Type: application/xml")


def json(peer):
    peer.answer(VERSION, "Content-Type: application/json", "X-Elastic-Product: Elasticsearch")


def bye(answer):
    """Answer, and hang up without having said so."""

    def step(peer):
        answer(peer)
        fin(peer)

    return step


def botocore(server, ca):
    package = pytest.importorskip("botocore.session", reason="botocore is not installed")
    client = package.Session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=server.url,
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",
        verify=ca,
    )
    return client.list_buckets, client.close


def elastic(node):
    def elastic(server, ca):
        package = pytest.importorskip("elastic_transport", reason="it is not installed")
        options = {"ca_certs": ca} if server.tls else {}
        config = package.NodeConfig(server.scheme, HOST, server.port, **options)
        transport = package.Transport(
            [config], node_class=getattr(package, node), meta_header=False, max_retries=0
        )
        return lambda: transport.perform_request("GET", "/"), transport.close

    return elastic


@pytest.fixture(autouse=True)
def _own_pools(monkeypatch):
    """elastic-transport puts a pool class of its own in for everybody when it drives requests."""
    classes = urllib3.poolmanager.pool_classes_by_scheme
    monkeypatch.setitem(classes, "https", classes["https"])


CLIENTS = {
    "botocore": (botocore, xml),
    "elastic-transport over urllib3": (elastic("Urllib3HttpNode"), json),
    "elastic-transport over requests": (elastic("RequestsHttpNode"), json),
}


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_is_counted_as_its_server_counts(scope, serve, tls, authority, name, secure):
    client, answer = CLIENTS[name]
    server = serve(scripted(answer, answer, bye(answer), answer), tls=tls if secure else None)
    seen = scope.of(server)
    ask, close = client(server, authority.file)
    for _ in range(3):
        ask()
    server.wait(closed=1)
    for _ in range(2):
        ask()
    close()
    del ask, close
    gc.collect()
    server.wait(closed=2)
    assert seen.opened == {"first": 1, "replaced_stale": 1}
    assert seen.created == 2
    assert seen.requests == {"first": 2, "reused": 3}
    assert seen.closed == {"stale": 1, "pool_closed": 1}
    assert seen.served == (2, 5)
    assert seen.failed == {}
    seen.agrees_with(server)


def docker(path):
    package = pytest.importorskip("docker", reason="docker is not installed")
    client = package.APIClient(base_url=f"unix://{path}", version="1.41")
    return client.version, client.close


def requests_unixsocket(path):
    package = pytest.importorskip("requests_unixsocket", reason="it is not installed")
    session = package.Session()
    url = f"http+unix://{quote(path, safe='')}/a/b?secret=1"
    return lambda: session.get(url), session.close


@pytest.mark.parametrize("client", [docker, requests_unixsocket])
def test_a_client_of_a_unix_socket_is_counted_under_its_path(scope, serve, tmp_path, client):
    server = serve(scripted(json, json, bye(json), json), path=str(tmp_path / "socket"))
    seen = scope.of(server)
    ask, close = client(server.path)
    for _ in range(3):
        ask()
    server.wait(closed=1)
    for _ in range(2):
        ask()
    close()
    assert seen.opened == {"first": 1, "replaced_stale": 1}
    assert seen.requests == {"first": 2, "reused": 3}
    assert seen.closed == {"stale": 1, "pool_closed": 1}
    assert seen.served == (2, 5)
    seen.agrees_with(server)
    addresses = {
        sample.labels.get("server_address", "")
        for family in scope.registry.collect()
        for sample in family.samples
    }
    assert addresses <= {"", server.path}


@pytest.mark.parametrize("client", [docker, requests_unixsocket])
def test_a_unix_socket_where_nobody_listens_fails_under_its_path(scope, tmp_path, client):
    class Nobody:
        path = str(tmp_path / "socket")
        port = 0

    seen = scope.of(Nobody)
    ask, close = client(Nobody.path)
    with contextlib.suppress(Exception):
        ask()
    close()
    assert seen.failed == {("first", "connect"): 1}
    assert seen.opened == {}
