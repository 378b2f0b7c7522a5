"""A WSGI service that calls its upstream with a bare requests.get() on every request.

From the repository's root, in three terminals (gunicorn_service.py does all of it in one go):

    python examples/upstream.py
    <the line it printed> poolscope run -- gunicorn -w 2 -b 127.0.0.1:8000 examples.gunicorn_app:app
    python examples/load.py 127.0.0.1:8000
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable

try:
    import requests
except ImportError:
    sys.exit("This example needs requests: pip install 'poolscope[examples]'")

UPSTREAM_URL = os.environ["UPSTREAM_URL"]
UPSTREAM_CA = os.environ["UPSTREAM_CA"]


def app(environ: dict[str, str], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Pass on what the upstream says."""
    answer = requests.get(f"{UPSTREAM_URL}{environ['PATH_INFO']}", verify=UPSTREAM_CA)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [answer.content]
