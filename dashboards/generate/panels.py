"""How a panel and a dashboard of ours look: one place for units, colours, links and layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import common, heatmap, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models import common as look
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heat
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH = 24
#: The longest scrape interval that is drawn; $__rate_interval becomes four times that at least,
#: whatever the data source believes.
MIN_STEP = "1m"
GREEN, YELLOW, RED, BLUE, CLEAR = "green", "#EAB839", "red", "blue", "transparent"
#: How far an axis goes at least, so that nothing at all looks like nothing at all.
_AT_LEAST = {"percentunit": 1, "cps": 1, "none": 1, "s": 0.1}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Board = build.Dashboard
Step = tuple[float | None, str]


@dataclass(frozen=True)
class Query:
    """What a panel asks, and what its answer is called there."""

    expression: str
    legend: str
    instant: bool = False


def steps(*coloured: Step) -> build.ThresholdsConfig:
    """Return thresholds; the first one's value is None, from minus infinity."""
    return (
        build.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=value, color=colour) for value, colour in coloured])
    )


def colours(by_name: dict[str, str]) -> list[tuple[str, list[model.DynamicConfigValue]]]:
    """Return overrides that give each series of that name its colour."""
    return [
        (
            name,
            [model.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})],
        )
        for name, colour in by_name.items()
    ]


def link(title: str, url: str) -> build.DashboardLink:
    """Return a link to somewhere else in the same Grafana."""
    return build.DashboardLink(title).type(model.DashboardLinkType.LINK).url(url)


def _dressed(panel: Any, title: str, says: str, queries: Sequence[Query]) -> Any:
    panel = panel.title(title).description(says).datasource(SOURCE)
    for letter, query in zip(_LETTERS, queries, strict=False):
        target = (
            Dataquery().expr(query.expression).ref_id(letter).legend_format(query.legend)
            .datasource(SOURCE).interval(MIN_STEP)
        )  # fmt: skip
        target = target.instant() if query.instant else target.range()
        panel = panel.with_target(target)
    return panel


def lines(  # noqa: PLR0913 - what a picture is made of
    title: str,
    says: str,
    queries: Sequence[Query],
    *,
    unit: str,
    limit: float | None = None,
    stacked: bool = False,
    reds: bool = False,
    by_name: dict[str, str] | None = None,
    empty: str = "",
    span: int = 12,
) -> timeseries.Panel:
    """Return lines over time; beyond ``limit`` the picture is red, with ``reds`` every line is."""
    panel = _dressed(timeseries.Panel(), title, says, queries)
    panel = (
        panel.unit(unit).span(span).height(9).min(0).line_width(2).show_points(look.VisibilityMode.NEVER)
        .fill_opacity(60 if stacked else 8)
        .tooltip(common.VizTooltipOptions().mode(look.TooltipDisplayMode.MULTI).sort(look.SortOrder.DESCENDING))
        .legend(
            common.VizLegendOptions().display_mode(look.LegendDisplayMode.TABLE)
            .placement(look.LegendPlacement.BOTTOM).calcs(["lastNotNull", "max"]).show_legend(True)
        )
    )  # fmt: skip
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(look.StackingMode.NORMAL).group("A"))
    panel = panel.axis_soft_max(max(_AT_LEAST[unit], 2 * (limit or 0)))
    if limit is not None:
        panel = panel.thresholds(steps((None, GREEN), (limit, RED))).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(look.GraphThresholdsStyleMode.LINE_AND_AREA)
        )
    if reds:
        panel = panel.color_scheme(
            build.FieldColor().mode(model.FieldColorModeId.SHADES).fixed_color(RED)
        )
    if empty:
        panel = panel.no_value(empty)
    for name, properties in colours(by_name or {}):
        panel = panel.override_by_name(name, properties)
    return panel


def number(  # noqa: PLR0913 - what a picture is made of
    title: str,
    says: str,
    expression: str,
    *,
    unit: str,
    coloured: Sequence[Step] = ((None, BLUE),),
    empty: str = "",
    decimals: int | None = None,
    span: int = 4,
) -> stat.Panel:
    """Return one large number, as of now."""
    panel = _dressed(stat.Panel(), title, says, [Query(expression, "", instant=True)])
    mode = look.BigValueColorMode.BACKGROUND if coloured[1:] else look.BigValueColorMode.VALUE
    panel = (
        panel.unit(unit).span(span).height(4).thresholds(steps(*coloured)).color_mode(mode)
        .graph_mode(look.BigValueGraphMode.NONE)
        .color_scheme(build.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )  # fmt: skip
    if decimals is not None:
        panel = panel.decimals(decimals)
    return panel.no_value(empty) if empty else panel


def distribution(title: str, says: str, expression: str, *, span: int = 12) -> heatmap.Panel:
    """Return a histogram over time, in seconds."""
    panel = _dressed(heatmap.Panel(), title, says, [])
    target = (
        Dataquery().expr(expression).ref_id("A").legend_format("{{le}}").datasource(SOURCE)
        .interval(MIN_STEP).format(PromQueryFormat.HEATMAP).range()
    )  # fmt: skip
    return (
        panel.with_target(target).calculate(False).span(span).height(9)
        .y_axis(heatmap.YAxisConfig().unit("s"))
        .color(heatmap.HeatmapColorOptions().mode(heat.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
    )  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A column of a table: what it is called, asks and how it looks."""

    name: str
    expression: str
    unit: str
    coloured: Sequence[Step] = ()
    decimals: int | None = None


def rows(  # noqa: PLR0913 - what a picture is made of
    title: str,
    says: str,
    key: Sequence[str],
    columns: Sequence[Column],
    *,
    names: dict[str, str],
    href: str,
    sort_by: str,
) -> table.Panel:
    """Return a table with a row for each ``key`` (labels); the first label leads to ``href``."""
    panel = _dressed(table.Panel(), title, says, [])
    for letter, column in zip(_LETTERS, columns, strict=False):
        panel = panel.with_target(
            Dataquery().expr(column.expression).ref_id(letter).datasource(SOURCE)
            .format(PromQueryFormat.TABLE).instant()
        )  # fmt: skip
    letters = dict(zip((c.name for c in columns), _LETTERS, strict=False))
    organize = {
        "excludeByName": {
            "Time": True,
            "poolscope_client": True,
        },
        "renameByName": names | {f"Value #{letter}": name for name, letter in letters.items()},
        "indexByName": {
            name: at for at, name in enumerate((*key, *(f"Value #{v}" for v in letters.values())))
        },
    }
    panel = (
        panel.with_transformation(model.DataTransformerConfig("merge", options={}))
        .with_transformation(model.DataTransformerConfig("organize", options=organize))
        .span(WIDTH).height(10).min_width(80)
        .sort_by([common.TableSortByFieldState().display_name(sort_by).desc(True)])
    )  # fmt: skip
    for column in columns:
        properties = [model.DynamicConfigValue("unit", column.unit)]
        if column.decimals is not None:
            properties.append(model.DynamicConfigValue("decimals", column.decimals))
        if column.coloured:
            cell = {"type": "color-background", "mode": "basic"}
            limits = [{"value": value, "color": colour} for value, colour in column.coloured]
            properties += [
                model.DynamicConfigValue("custom.cellOptions", cell),
                model.DynamicConfigValue("thresholds", {"mode": "absolute", "steps": limits}),
            ]
        panel = panel.override_by_name(column.name, properties)
    for narrow in ("Scheme", "Port"):
        panel = panel.override_by_name(narrow, [model.DynamicConfigValue("custom.width", 80)])
    first = names.get(key[0], key[0])
    where = [{"title": "Open the service view", "url": href}]
    return panel.override_by_name(first, [model.DynamicConfigValue("links", where)])


def variable(name: str, label: str, query: str, *, several: bool = True) -> build.QueryVariable:
    """Return a variable whose values are a label's."""
    made = (
        build.QueryVariable(name).label(label).datasource(SOURCE)
        .query({"query": query, "refId": name})
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC)
    )  # fmt: skip
    if several:
        everything = model.VariableOption(selected=True, text="All", value="$__all")
        made = made.multi(True).include_all(True).all_value(".*").current(everything)
    return made


def places(made: Board, series: str) -> Board:
    """Add the variables for labels that only some people have."""
    for name in ("cluster", "namespace"):
        made = made.with_variable(variable(name, name.title(), f"label_values({series}, {name})"))
    return made


def board(uid: str, title: str, says: str) -> Board:
    """Return an empty dashboard with the data source to choose."""
    source = build.DatasourceVariable("datasource").label("Data source").type("prometheus")
    return (
        build.Dashboard(title).uid(uid).description(says).tags(["poolscope"]).timezone("browser")
        .time("now-1h", "now").refresh("30s").tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(source)
    )  # fmt: skip
