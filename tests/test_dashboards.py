"""Dashboards, rules and runbook say the same as the catalogue, as each other, and as committed."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import promql_parser
import pytest
import yaml

from poolscope import advice, catalog
from watching import DASHBOARDS, alerts

BOARDS = ("poolscope-overview", "poolscope-service", "poolscope-runbook")
RULES = ("recording-rules.yaml", "alerting-rules.yaml")
GRAFANA = "http://localhost:3000"
#: What Prometheus itself adds, and what we record.
SCRAPED = {"job", "instance", "cluster", "namespace", "le"}
OTHERS = {"up": set(), "ALERTS": {"alertname", "alertstate", "severity"}}


def board(name):
    return json.loads((DASHBOARDS / f"{name}.json").read_text())


def panels(name):
    """Return a dashboard's panels by their number, rows left out."""
    return {one["id"]: one for one in board(name)["panels"] if one["type"] != "row"}


def rules(kind):
    """Return all rules of a kind, ``record`` or ``alert``."""
    documents = [yaml.safe_load((DASHBOARDS / name).read_text()) for name in RULES]
    groups = [group for document in documents for group in document["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def sections():
    """Return the runbook's headings."""
    text = (DASHBOARDS / "runbook.md").read_text()
    return re.findall(r"^## (.+)$", text, flags=re.MULTILINE)


def plain(expression):
    """Replace Grafana's variables by values of their kind."""
    expression = re.sub(r"\$__rate_interval", "5m", expression)
    return re.sub(r"\$\w+", "x", expression)


def selectors(node):
    """Find every vector selector in a parsed expression, and every label that is grouped by."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node.name, {matcher.name for matcher in node.matchers.matchers}
    for name in ("lhs", "rhs", "expr", "vector_selector", "args"):
        below = getattr(node, name, None)
        for one in below if isinstance(below, list) else [below]:
            if one is not None and not isinstance(one, str | float | int):
                yield from selectors(one)


def grouped(expression):
    """Return the labels after every ``by``, ``on`` and ``ignoring``."""
    lists = re.findall(r"\b(?:by|on|ignoring|group_left) \(([^)]*)\)", expression)
    return {label.strip() for one in lists for label in one.split(",")} - {""}


def known():
    """Return the labels of every series that may be asked for."""
    found = dict(OTHERS)
    for metric in catalog.CATALOG:
        suffixes = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        for suffix in suffixes:
            found[metric.prometheus_name + suffix] = set(metric.labels)
    for rule in rules("record"):
        # What is made of other records has their labels: those of an upstream.
        by = re.search(r"\bby \(([^)]*)\)", rule["expr"])
        labels = by.group(1).split(", ") if by else map(catalog.prometheus_label, catalog.COMMON)
        found[rule["record"]] = set(labels)
    return found


def expressions():
    """Return every expression there is, with where it stands."""
    for name in BOARDS:
        for panel in panels(name).values():
            for target in panel.get("targets", ()):
                yield f"{name}: {panel['title']}", target["expr"]
        for variable in board(name)["templating"]["list"]:
            if variable["type"] == "query":
                yield f"{name}: ${variable['name']}", variable["query"]["query"]
    for rule in rules("record") + rules("alert"):
        yield rule.get("record") or rule["alert"], rule["expr"]
    fences = re.findall(
        r"```promql\n(.*?)```", (DASHBOARDS / "runbook.md").read_text(), flags=re.DOTALL
    )
    for number, fence in enumerate(fences):
        yield f"runbook {number}", fence


def test_every_metric_and_label_is_in_the_catalogue():
    series = known()
    every = set().union(*series.values()) | SCRAPED
    for where, expression in expressions():
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", expression)
        text, label = found.groups() if found else (expression, "job")
        assert {label} | grouped(text) <= every, where
        asked = list(selectors(promql_parser.parse(plain(text))))
        assert asked or text.startswith("vector("), where
        for name, labels in asked:
            assert name in series, where
            assert labels <= series[name] | SCRAPED, where


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Grafana's SDK needs Python 3.11")
def test_what_is_committed_is_what_is_generated():
    files = {path: path.read_bytes() for path in DASHBOARDS.iterdir() if path.is_file()}
    subprocess.run([sys.executable, DASHBOARDS / "generate"], check=True)
    assert {path: path.read_bytes() for path in DASHBOARDS.iterdir() if path.is_file()} == files


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Grafana's SDK needs Python 3.11")
@pytest.mark.parametrize("name", BOARDS)
def test_grafanas_own_classes_lose_nothing_of_it(name):
    encoder = import_module("grafana_foundation_sdk.cog.encoder").JSONEncoder
    read = import_module("grafana_foundation_sdk.models.dashboard").Dashboard.from_json(board(name))
    assert json.loads(json.dumps(read, cls=encoder)) == board(name)


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_can_be_imported_anywhere(name):
    made = board(name)
    assert made["uid"] == name
    assert "__inputs" not in made
    sources = re.findall(r'"uid": "([^"]+)"', json.dumps(made["panels"]))
    assert set(sources) <= {"${datasource}"}
    numbers = [panel["id"] for panel in made["panels"]]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("name", BOARDS)
def test_panels_do_not_overlap(name):
    for one, other in itertools.combinations(board(name)["panels"], 2):
        a, b = one["gridPos"], other["gridPos"]
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, (one["title"], other["title"])
        assert a["x"] + a["w"] <= 24


@pytest.mark.parametrize("name", ["poolscope-overview", "poolscope-service"])
def test_every_panel_says_what_is_normal_and_has_a_unit(name):
    for panel in panels(name).values():
        assert len(panel["description"]) > 20, panel["title"]
        if panel["type"] in ("timeseries", "stat"):
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_links_between_dashboards_lead_somewhere():
    for name in BOARDS:
        for url in re.findall(r'"url": "([^"]+)"', json.dumps(board(name))):
            where = urlsplit(url)
            target = where.path.removeprefix("/d/")
            assert target in BOARDS, url
            if view := parse_qs(where.query).get("viewPanel"):
                assert int(view[0].removeprefix("panel-")) in panels(target), url


def test_each_alert_has_its_place_in_the_runbook_and_on_a_panel():
    runbook, service = panels("poolscope-runbook"), panels("poolscope-service")
    for rule in rules("alert"):
        name, notes = rule["alert"], rule["annotations"]
        assert set(notes) == {"summary", "description", "runbook_url", "dashboard_url"}, name
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        section, anchor = notes["runbook_url"].split("#")
        assert anchor == name.lower()
        number = int(section.rpartition("-")[2])
        assert section == f"{GRAFANA}/d/poolscope-runbook?viewPanel=panel-{number}"
        assert runbook[number]["title"] == name
        panel = service[int(notes["dashboard_url"].rpartition("-")[2])]
        links = [urlsplit(link["url"]).query for link in panel["links"]]
        assert f"viewPanel=panel-{number}" in links, name


def test_the_runbook_has_a_section_for_each_alert_and_leads_nowhere_else():
    names = [rule["alert"] for rule in rules("alert")]
    assert sections() == [*names, "What must be shorter than what"]
    anchors = {heading.lower().replace(" ", "-") for heading in sections()}
    text = (DASHBOARDS / "runbook.md").read_text()
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors
    for threshold in re.findall(r"`(poolscope:\w+:threshold)`", text):
        assert threshold in {rule["record"] for rule in rules("record")}


def test_the_runbook_says_each_threshold_and_severity_as_it_is():
    text = (DASHBOARDS / "runbook.md").read_text()
    values = {
        rule["record"]: rule["expr"][len("vector(") : -1]
        for rule in rules("record")
        if rule["record"].endswith(":threshold")
    }
    for name, value in re.findall(r"`(poolscope:\w+:threshold)`\s+\(([\d.]+)", text):
        assert float(value) == float(values[name]), name
    for rule in rules("alert"):
        section = re.split(rf"^## {rule['alert']}$", text, flags=re.MULTILINE)[1]
        said = re.search(r"Severity:\s+(\w+)", section).group(1)
        assert said == rule["labels"]["severity"], rule["alert"]


def test_kubernetes_gets_the_same_rules():
    custom = yaml.safe_load((DASHBOARDS / "prometheus-rule.yaml").read_text())
    documents = [yaml.safe_load((DASHBOARDS / name).read_text()) for name in RULES]
    assert custom["spec"]["groups"] == [
        group for document in documents for group in document["groups"]
    ]


def test_thresholds_are_numbers_of_their_own():
    """An alert's expression has no number but 0 and 1, so nobody has to edit one."""
    for rule in rules("alert"):
        bare = re.sub(r"\b\d+[mh]\b|[\w:]*[a-z_][\w:]*|\"[^\"]*\"", "", rule["expr"])
        assert set(re.findall(r"\d[\d.]*", bare)) <= {"0", "1"}, rule["alert"]


def test_every_finding_is_named_after_an_alert():
    """The runbook has a section of that name for each."""
    sources = (
        Path(advice.__file__).parent / f"{name}.py" for name in ("failures", "waste", "churn")
    )
    ids = {found for source in sources for found in re.findall(r'"(Pool\w+)"', source.read_text())}
    assert len(ids) == 14
    assert ids <= alerts()
