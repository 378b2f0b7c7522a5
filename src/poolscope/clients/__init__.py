"""The HTTP clients: a table row each, imported when the client is."""

from __future__ import annotations

#: Module of ours, by the client's name.
CLIENTS = {"urllib3": "poolscope.clients.urllib3"}
