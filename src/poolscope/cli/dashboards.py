"""``poolscope dashboards``: writes dashboards, rules and runbook out of the installed package."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import poolscope
from poolscope.advice import words
from poolscope.cli.planted import LeftBehindError, TakenError, plant
from poolscope.cli.speak import say
from poolscope.fetching import without_secrets

#: Where links in alerts lead unless told otherwise: that is the Grafana in compose.yaml.
GRAFANA = "http://localhost:3000"
# What links can begin with and YAML takes as it is: no user, no query, no quotes, no templates.
_URL = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+(/[A-Za-z0-9._~!$&()*+,;=:/%-]*)?", re.IGNORECASE)
_LINKING = ("alerting-rules.yaml", "prometheus-rule.yaml")

#: What is written; examples are the services in compose.yaml.
FILES = (
    "README.md", "runbook.md",
    "poolscope-overview.json", "poolscope-service.json", "poolscope-runbook.json",
    "recording-rules.yaml", "alerting-rules.yaml", "prometheus-rule.yaml",
    "compose.yaml", "prometheus.yaml", "alertmanager.yaml",
    "grafana/datasources.yaml", "grafana/dashboards.yaml",
    "examples/bare_get.py", "examples/one_session.py", "examples/orders.py",
    "examples/slow_link.py", "examples/upstream.py",
)  # fmt: skip


def run(directory: str, grafana_url: str) -> int:
    """Write all files below a directory, or none; what is there and differs is never touched."""
    if not _is_url(grafana_url):
        say(
            f"{without_secrets(grafana_url)!r} is not the URL of a Grafana; give one such as "
            f"{GRAFANA}, without user, query or what a URL has to escape"
        )
        return 2
    if not directory:
        say("the directory's name is empty; say . for this one")
        return 2
    contents = {name: _source(name).read_text(encoding="utf-8") for name in FILES}
    for name in _LINKING:
        contents[name] = contents[name].replace(GRAFANA, grafana_url.rstrip("/"))
    try:
        plant(directory, {name: text.encode() for name, text in contents.items()})
    except TakenError as error:
        say(
            f"{Path(directory, error.name)} {error.how}, so nothing was written; "
            "give a new directory, and compare"
        )
        return 1
    except OSError as error:
        what = "some of it is there" if isinstance(error, LeftBehindError) else "nothing is there"
        say(f"can't write to {directory}: {error.strerror or error}; {what}")
        return 1
    where = words.clean(directory)
    print(f"{len(contents)} files are in {where}; its README.md says what each is for.")
    return 0


def _is_url(text: str) -> bool:
    if _URL.fullmatch(text) is None:
        return False
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # half an IPv6 address, a port that is no number
        return False


def _source(name: str) -> Path:
    """Return where a file is: in the installed package, or in a checkout of the project."""
    package = Path(poolscope.__file__).parent
    installed = package / "dashboards" / name
    if installed.exists():
        return installed
    project = package.parent.parent
    return project / name if name.startswith("examples/") else project / "dashboards" / name
