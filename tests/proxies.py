"""Proxies of the scripted kind: CONNECT and SOCKS 5, obliging or not."""

from __future__ import annotations

import selectors
import socket
import ssl
from typing import Any

from peers import Handler, Peer


def connect_proxy(peer: Peer) -> None:
    """Tunnel to where CONNECT says."""
    request = peer.request()
    if request is None:
        return
    host, _, port = request.target.partition(":")
    with socket.create_connection((host, int(port))) as upstream:
        peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        relay(peer.sock, upstream)


def refusing_proxy(status: str) -> Handler:
    """Refuse every tunnel."""

    def handler(peer: Peer) -> None:
        if peer.request() is not None:
            peer.send(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())

    return handler


def socks5(peer: Peer) -> None:
    """Speak as much SOCKS 5 as it takes."""
    host, port = _socks5_target(peer)
    with socket.create_connection((host, port)) as upstream:
        peer.send(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
        relay(peer.sock, upstream)


def refusing_socks5(peer: Peer) -> None:
    """Refuse by the rule set."""
    _socks5_target(peer)
    peer.send(b"\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00")


def _socks5_target(peer: Peer) -> tuple[str, int]:
    _, methods = peer.exactly(2)
    peer.exactly(methods)
    peer.send(b"\x05\x00")
    *_, kind = peer.exactly(4)
    if kind == 1:
        host = socket.inet_ntoa(peer.exactly(4))
    else:
        (length,) = peer.exactly(1)
        host = peer.exactly(length).decode()
    return host, int.from_bytes(peer.exactly(2), "big")


def relay(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until either side hangs up."""
    with selectors.DefaultSelector() as selector:
        selector.register(one, selectors.EVENT_READ, other)
        selector.register(other, selectors.EVENT_READ, one)
        while True:
            for key, _ in selector.select():
                source: Any = key.fileobj
                data = source.recv(65536)
                while isinstance(source, ssl.SSLSocket) and source.pending():
                    data += source.recv(65536)
                if not data:
                    return
                key.data.sendall(data)
