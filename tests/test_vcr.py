"""vcrpy: what it plays from a cassette never was on the wire; what it records was, once."""

from __future__ import annotations

import pytest
import requests
import urllib3

from peers import HOST, fin, keep_alive, ok, scripted

vcr = pytest.importorskip("vcr", reason="vcrpy is not installed")
IS_OLD = urllib3.__version__.startswith("1.")


def ask(server, authority, paths="abc"):
    with urllib3.PoolManager(ca_certs=authority.file) as manager:
        for path in paths:
            manager.request("GET", f"{server.url}/{path}")


@pytest.mark.parametrize("secure", [False, True])
def test_a_recording_is_counted_once_and_its_playback_never(
    scope, serve, tls, authority, tmp_path, secure
):
    server = serve(keep_alive, tls=tls if secure else None)
    seen = scope.of(server)
    for _ in range(3):
        with vcr.use_cassette(tmp_path / "cassette.yaml"):
            ask(server, authority)
    assert seen.opened == {"first": 1}
    assert seen.created == 1
    assert seen.requests == {"first": 1, "reused": 2}
    assert seen.served == (1, 3)
    assert seen.failed == {}
    seen.agrees_with(server)
    ask(server, authority)
    assert seen.requests == {"first": 2, "reused": 4}
    seen.agrees_with(server)


@pytest.mark.skipif(IS_OLD, reason="1.26 checks the headers of what is played, too")
def test_what_is_played_in_between_is_not_counted(scope, serve, authority, tmp_path):
    server = serve(keep_alive)
    seen = scope.of(server)
    with vcr.use_cassette(tmp_path / "cassette.yaml"):
        ask(server, authority, "b")
    with vcr.use_cassette(tmp_path / "cassette.yaml", record_mode="new_episodes"):
        ask(server, authority, "abcd")
    assert server.answered == 4
    assert seen.requests == {"first": 2, "reused": 2}
    seen.agrees_with(server)


def test_a_recording_whose_server_says_close(scope, serve, authority, tmp_path):
    def bye(peer):
        peer.answer(b"bye", "Connection: close")
        fin(peer)

    server = serve(scripted(bye, ok))
    seen = scope.of(server)
    for _ in range(2):
        with vcr.use_cassette(tmp_path / "cassette.yaml"):
            ask(server, authority)
    assert seen.opened == {"first": 1, "replaced_server_close": 1}
    assert seen.requests == {"first": 2, "reused": 1}
    assert seen.served == (2, 3)
    seen.agrees_with(server)


def test_a_recording_that_fails(scope, serve, tmp_path):
    server = serve(scripted(ok, fin, ok))
    seen = scope.of(server)
    with vcr.use_cassette(tmp_path / "cassette.yaml"):
        pool = urllib3.HTTPConnectionPool(HOST, server.port)
        pool.request("GET", "/a")
        with pytest.raises(urllib3.exceptions.ProtocolError):
            pool.request("GET", "/b", retries=False)
        pool.request("GET", "/c")
        pool.close()
    assert seen.failed == {("reused", "reset"): 1}
    assert seen.requests == {"first": 2, "reused": 0}
    seen.agrees_with(server)


def test_attached_within_a_cassette(scope, serve, authority, tmp_path):
    scope.detach()
    server = serve(keep_alive)
    seen = scope.of(server)
    with vcr.use_cassette(tmp_path / "cassette.yaml"):
        scope.attach()
        ask(server, authority)
    ask(server, authority)
    scope.detach()
    scope.attach()
    ask(server, authority)
    seen.agrees_with(server)


def test_over_requests(scope, serve, tmp_path):
    """Older ones of vcrpy give no connection back here: as many are opened as the server says."""
    server = serve(keep_alive)
    seen = scope.of(server)
    for _ in range(2):
        with vcr.use_cassette(tmp_path / "cassette.yaml"), requests.Session() as session:
            for path in "abc":
                assert session.get(f"{server.url}/{path}").ok
    assert sum(seen.requests.values()) == 3
    seen.agrees_with(server)
