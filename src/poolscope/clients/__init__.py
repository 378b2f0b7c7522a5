"""The HTTP clients: a table row each, imported when the application imports the client."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClientRow:
    """A client's package, our module for it, that for spans, and which of its own comes first.

    Our module is loaded then and not before: it needs ssl and http.client, which an application
    may want to import after it has monkey-patched (gevent warns about anything else).
    """

    package: str
    module: str
    spans: str
    first: str


CLIENTS = (
    ClientRow(
        "urllib3",
        "poolscope.clients.urllib3",
        "poolscope.clients.urllib3_spans",
        "urllib3.exceptions",
    ),
)
