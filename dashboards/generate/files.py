"""Spells every file: dashboards as JSON, rules as YAML, the runbook as a dashboard of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from grafana_foundation_sdk.builders import text
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.text import TextMode

from alerts import ALERTS
from layout import OVERVIEW, RUNBOOK, SERVICE, Row, Shown, fill, section_of
from overview import overview
from panels import WIDTH, board, link
from poolscope.cli.dashboards import GRAFANA
from promql import JOB
from recordings import RECORDINGS
from service import service
from thresholds import THRESHOLDS

#: What a text panel's head and a line in it need, in a dashboard's units of height.
_HEAD, _LINE = 4, 0.6

_NOTE = "# Written by dashboards/generate; poolscope's runbook says what each alert means.\n"


class _Block(str):
    """A text of several lines, spelled as such."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """Indents lists, as people do."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: FBT001, FBT002 - yaml's
        super().increase_indent(flow, False)


_Dumper.add_representer(
    _Block, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|")
)


def _yaml(content: Any) -> str:
    text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)
    for each in THRESHOLDS:
        line = rf"^( *)(- record: {each.record})$"
        text = re.sub(line, rf"\1# {each.meaning}\n\1\2", text, flags=re.MULTILINE)
    return _NOTE + text


def _json(dashboard: Any) -> str:
    return json.dumps(dashboard.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _expression(promql: str) -> str:
    return _Block(promql + "\n") if "\n" in promql else promql


def _recording_groups() -> list[dict[str, Any]]:
    thresholds = [{"record": each.record, "expr": f"vector({each.value:g})"} for each in THRESHOLDS]
    recordings = [
        {"record": record, "expr": expression} for record, expression in RECORDINGS.items()
    ]
    return [
        {"name": "poolscope-thresholds", "rules": thresholds},
        {"name": "poolscope-recordings", "rules": recordings},
    ]


def _alert_group(seen_on: dict[str, int]) -> dict[str, Any]:
    rules = []
    for alert in ALERTS:
        where = "&".join(f"var-{label}={{{{ $labels.{label} | urlquery }}}}" for label in JOB)
        if "server_address" in alert.by:
            where += "&var-upstream={{ $labels.server_address | urlquery }}"
        rules.append(
            {
                "alert": alert.name,
                "expr": _expression(alert.expression),
                "for": alert.lasts,
                "labels": {"severity": alert.severity},
                "annotations": {
                    "summary": alert.summary,
                    "description": alert.description,
                    "runbook_url": f"{GRAFANA}/d/{RUNBOOK}?viewPanel=panel-{section_of(alert.name)}"
                    f"#{alert.name.lower()}",
                    "dashboard_url": f"{GRAFANA}/d/{SERVICE}?{where}"
                    f"&viewPanel=panel-{seen_on[alert.name]}",
                },
            }
        )
    return {"name": "poolscope-alerts", "rules": rules}


def sections(runbook: str) -> dict[str, str]:
    """Return a Markdown text's parts by their second-level headings; "" is what comes before."""
    parts = re.split(r"^## (.+)$", runbook, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def _runbook(parts: dict[str, str]) -> Any:
    made = board(RUNBOOK, "poolscope: runbook", "What each alert means, and what to do.")
    numbers = {title.lower().replace(" ", "-"): at for at, title in enumerate(parts, 1)}

    def elsewhere(anchor: re.Match[str]) -> str:
        return f"](/d/{RUNBOOK}?viewPanel=panel-{numbers[anchor[1]]})"

    shown = []
    for title, content in parts.items():
        panel = text.Panel().title(title or "How to read this").mode(TextMode.MARKDOWN)
        # A panel knows no anchors, but has an address of its own.
        panel = panel.content(re.sub(r"\]\(#([^)]+)\)", elsewhere, content.strip()))
        height = _HEAD + round(content.count("\n") * _LINE)
        shown.append(Shown(panel.span(WIDTH).height(height)))
    made.link(link("All services", f"/d/{OVERVIEW}"))
    fill(made, [Row("", shown)])
    return made


def files(runbook: Path) -> dict[str, str]:
    """Return the content of every generated file by its name."""
    detail, seen_on = service()
    recording, alerting = _recording_groups(), [_alert_group(seen_on)]
    custom = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "poolscope", "labels": {"app.kubernetes.io/name": "poolscope"}},
        "spec": {"groups": recording + alerting},
    }
    return {
        f"{OVERVIEW}.json": _json(overview()),
        f"{SERVICE}.json": _json(detail),
        f"{RUNBOOK}.json": _json(_runbook(sections(runbook.read_text(encoding="utf-8")))),
        "recording-rules.yaml": _yaml({"groups": recording}),
        "alerting-rules.yaml": _yaml({"groups": alerting}),
        "prometheus-rule.yaml": _yaml(custom),
    }
