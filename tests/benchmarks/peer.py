"""A server for benchmarks, in a process of its own: answers as fast as Python can."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import threading
from collections.abc import Iterator
from typing import Any

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nok"
CLOSE = b"Connection: close\r\n"
LAST = ANSWER.replace(b"Content-Type", CLOSE + b"Content-Type")


def _answer(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while request := connection.recv(65536):
            if CLOSE in request:
                connection.sendall(LAST)
                return
            connection.sendall(ANSWER)


def _serve(where: Any) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        where.send(listener.getsockname()[1])
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_answer, args=(connection,), daemon=True).start()


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Start the server; yield its URL."""
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=_serve, args=(its,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/"
    finally:
        process.terminate()
        process.join()
