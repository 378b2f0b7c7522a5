"""``poolscope dashboards``: writes dashboards, rules and runbook out of the installed package."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit

import poolscope

#: Where links in alerts lead unless told otherwise: that is the Grafana in compose.yaml.
GRAFANA = "http://localhost:3000"
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
    """Write all files below a directory; what is there already and differs is never touched."""
    if not _is_url(grafana_url):
        print(f"poolscope: {grafana_url!r} is not the URL of a Grafana", file=sys.stderr)
        return 2
    target = Path(directory)
    contents = {target / name: _source(name).read_text(encoding="utf-8") for name in FILES}
    for name in _LINKING:
        contents[target / name] = contents[target / name].replace(GRAFANA, grafana_url.rstrip("/"))
    try:
        for path, content in contents.items():
            if path.exists() and path.read_text(encoding="utf-8") != content:
                print(
                    f"poolscope: {path} is there already and differs, so nothing was written; "
                    "give a new directory, and compare",
                    file=sys.stderr,
                )
                return 1
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        print(f"poolscope: can't write to {directory}: {error}", file=sys.stderr)
        return 1
    print(f"{len(contents)} files are in {target}; its README.md says what each is for.")
    return 0


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:  # half an IPv6 address
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _source(name: str) -> Path:
    """Return where a file is: in the installed package, or in a checkout of the project."""
    package = Path(poolscope.__file__).parent
    installed = package / "dashboards" / name
    if installed.exists():
        return installed
    project = package.parent.parent
    return project / name if name.startswith("examples/") else project / "dashboards" / name
