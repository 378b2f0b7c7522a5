"""Who asks for what: a request's head, and whether its Host may be answered at all."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from typing import NamedTuple

from poolscope.cli.listener import LONGEST_HEAD
from poolscope.fetching import is_loopback

_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) (/[!-~]*) HTTP/1\.[0-9]")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\x00-\x08\x0a-\x1f\x7f]*)")
_LABELS = r"[0-9A-Za-z_-]+(?:\.[0-9A-Za-z_-]+)*\.?"
_HOST = re.compile(rf"(?:\[([0-9A-Fa-f:.]+)\]|({_LABELS}))(?::[0-9]{{0,5}})?")

#: Any name may be asked for.
ANY = "*"
# Names that nobody can register for others to look up: special by a standard or by ICANN, or
# Kubernetes' own. A name without a dot is another one.
_PRIVATE = (".local", ".localhost", ".internal", ".home.arpa", ".test", ".svc")


class BadRequestError(Exception):
    """What came is not to be answered with a page: the status, and one sentence."""


class Request(NamedTuple):
    """What a client asks for; names of headers are in small letters."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    host: str


def read(head: bytes) -> Request:
    """Read what came of a request. Raises :exc:`BadRequestError`."""
    line, *rows = head.partition(b"\r\n\r\n")[0].split(b"\r\n")
    if len(head) > LONGEST_HEAD and b"\r\n\r\n" not in head[:LONGEST_HEAD]:
        is_line = len(line) > LONGEST_HEAD // 2
        status = "414 URI Too Long" if is_line else "431 Request Header Fields Too Large"
        raise BadRequestError(status, "That is too long.")
    asked = _LINE.fullmatch(line)
    if asked is None:
        raise BadRequestError("400 Bad Request", "That is no request for a page of this server.")
    headers: dict[str, str] = {}
    for row in rows:
        header = _HEADER.fullmatch(row)
        if header is None:
            raise BadRequestError("400 Bad Request", "One of the headers is none.")
        name, value = (part.decode("latin-1") for part in header.groups())
        if name.lower() == "host" and "host" in headers:
            raise BadRequestError("400 Bad Request", "There is more than one Host.")
        headers[name.lower()] = value.strip(" \t")
    host = _HOST.fullmatch(headers.get("host", ""))
    if host is None:
        raise BadRequestError("400 Bad Request", "There is no Host, or it is none.")
    path, _, query = asked[2].decode().partition("?")
    return Request(asked[1].decode(), path, query, headers, _plain(host[1] or host[2]))


class Hosts:
    """The names by which an endpoint may be asked for: its own, so to speak.

    A page of somebody else's may have its name lead here all of a sudden (DNS rebinding) and then
    read what this one shows. So addresses are answered, as they can't be led astray, and names that
    stand for nothing but this machine. An endpoint that was opened up has other names in its
    network: those that nobody outside can have are answered as well.
    """

    def __init__(self, bound: str, given: str, allowed: Sequence[str]) -> None:
        self._is_private = is_loopback(bound)
        self._allowed = {_plain(name) for name in (given, *allowed)}
        if not self._is_private:
            self._allowed.add(_plain(socket.gethostname()))

    def may_ask(self, host: str) -> bool:
        """Tell whether a request for this host, as :func:`read` returns it, is answered."""
        if _is_address(host) or is_loopback(host) or {host, ANY} & self._allowed:
            return True
        if any(host.endswith(name) for name in self._allowed if name.startswith(".")):
            return True
        return not self._is_private and ("." not in host or host.endswith(_PRIVATE))


def _plain(host: str) -> str:
    return host.lower().removesuffix(".")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
