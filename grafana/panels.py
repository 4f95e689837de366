"""The kinds of panels, each with everything that every panel must have.

Every function takes a title, a description of what is shown and what would be wrong, the unit, the
queries, the colours by value, and the words that stand there when there are no data: silence must
not look like health.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import heatmap as heatmaps
from grafana_foundation_sdk.builders import stat as stats
from grafana_foundation_sdk.builders import statetimeline as timelines
from grafana_foundation_sdk.builders import table as tables
from grafana_foundation_sdk.builders import timeseries as charts
from grafana_foundation_sdk.builders.common import (
    GraphThresholdsStyleConfig,
    LineStyle,
    ReduceDataOptions,
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.dashboard import FieldColor, ThresholdsConfig
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models.dashboard import (
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from grafana.queries import GPU, Query
from grafana.style import (
    CLEAR,
    GOOD,
    GPU_COLOURS,
    NEUTRAL,
    WARNING,
    States,
    fixed,
    mapping,
    thresholds,
)

DATASOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
PLAIN = thresholds(NEUTRAL)
COUNT = "locale"  # 2,000 and not 2 K
RATE = "sishort"  # 1.5 M
NO_DATA = "no data"
_WORDS = common_builders.VizTextDisplayOptions().value_size(28)  # so that they stay on one line

_BY = re.compile(r"\b(?:by|group_left|group_right) \(([\w, ]+)\)")

Panel = stats.Panel | charts.Panel | tables.Panel | timelines.Panel | heatmaps.Panel
P = TypeVar("P", stats.Panel, charts.Panel, tables.Panel, timelines.Panel, heatmaps.Panel)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of numbers in a table.

    Attributes:
        title: Its heading.
        expr: Its query; all columns of a table have the same labels, and those make the rows.
        unit: Of its values.
        colours: Of its cells by value; None leaves them plain.
        states: Texts in place of values.
        hidden: Whether only the labels of this query are shown.
        width: In pixels; 0 shares what is left.
        decimals: How many; None for Grafana's choice.
    """

    title: str
    expr: str
    unit: str = COUNT
    colours: ThresholdsConfig | None = None
    states: States | None = None
    hidden: bool = False
    width: int = 0
    decimals: int | None = None


@dataclass(frozen=True, slots=True)
class Label:
    """A column of texts in a table.

    Attributes:
        title: Its heading.
        width: In pixels; 0 shares what is left.
        link: The words of a link and where it leads.
    """

    title: str
    width: int = 0
    link: tuple[str, str] | None = None


def stat(
    title: str,
    text: str,
    query: Query,
    *,
    unit: str = COUNT,
    colours: ThresholdsConfig = PLAIN,
    missing: str = NO_DATA,
    decimals: int | None = None,
    states: States | None = None,
) -> stats.Panel:
    """One large number, the present one; or a word for it."""
    if states is not None:
        panel = stats.Panel().color_mode(common.BigValueColorMode.BACKGROUND_SOLID)
        panel.graph_mode(common.BigValueGraphMode.NONE).mappings([mapping(states)])
        panel.reduce_options(ReduceDataOptions().calcs(["lastNotNull"])).text(_WORDS)
        panel.with_target(_target(query, "A").instant())
        return _described(panel, title, text, unit, colours, missing)
    panel = (
        stats.Panel().color_mode(_stat_colour(colours)).graph_mode(common.BigValueGraphMode.NONE)
    )
    panel.reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    panel.with_target(_target(query, "A").instant())
    if decimals is not None:
        panel.decimals(decimals)
    if unit.startswith("dateTime"):
        panel.text(_WORDS)
    return _described(panel, title, text, unit, colours, missing)


def warning_stat(title: str, text: str, query: Query, missing: str) -> stats.Panel:
    """A number that should be 0, and is in the colour of a warning otherwise."""
    colours = thresholds(GOOD, (1, WARNING))
    return stat(title, text, query, colours=colours, missing=missing)


def bad_count(title: str, expr: str, width: int) -> Column:
    """A column of numbers that should be 0; others are in the colour of a warning."""
    return Column(title, expr, colours=thresholds(CLEAR, (1, WARNING)), width=width)


def chart(
    title: str,
    text: str,
    *queries: Query,
    unit: str = RATE,
    colours: ThresholdsConfig = PLAIN,
    missing: str = NO_DATA,
    limits: tuple[float | None, float | None] = (0, None),
) -> charts.Panel:
    """Lines over time, with a gap where there are no data.

    Args:
        title: Of the panel.
        text: What it shows.
        queries: One for each kind of line.
        unit: Of the values.
        colours: By value, drawn as lines across.
        missing: What stands there without data.
        limits: The lower and the upper end of the axis; None is as the data have it.
    """
    panel = charts.Panel().line_width(2).fill_opacity(0).show_points(common.VisibilityMode.AUTO)
    panel.span_nulls(False).legend(_legend())
    panel.color_scheme(FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    tooltip = VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI)
    panel.tooltip(tooltip.sort(common.SortOrder.DESCENDING))
    for ref, query in zip(string.ascii_uppercase, queries, strict=False):
        bounded = replace(query, expr=query.bounded())
        panel.with_target(_target(bounded, ref).range())
    least, most = limits
    if least is not None:
        panel.min(least)
    if most is not None:
        panel.max(most)
    if len(colours.build().steps) > 1:
        style = GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        panel.thresholds_style(style)
    if any(query.legend.startswith(GPU) for query in queries):
        for pattern, colour in _gpu_colours():
            panel.override_by_regexp(pattern, [fixed(colour)])
    return _described(panel, title, text, unit, colours, missing)


def share(
    title: str, text: str, *queries: Query, colours: ThresholdsConfig = PLAIN, missing: str
) -> charts.Panel:
    """A chart of a share of something, 0 to 100 %."""
    return chart(
        title, text, *queries, unit="percentunit", colours=colours, missing=missing, limits=(0, 1)
    )


def dashed(panel: charts.Panel, pattern: str) -> charts.Panel:
    """The same chart, with dashed lines for the series whose name matches."""
    line = LineStyle().fill("dash").dash([8, 8]).build()
    return panel.override_by_regexp(pattern, [DynamicConfigValue("custom.lineStyle", line)])


def named(panel: charts.Panel, series: Mapping[str, str]) -> charts.Panel:
    """The same chart, with colours by the names of series."""
    for name, colour in series.items():
        panel.override_by_name(name, [fixed(colour)])
    return panel


def stacked(panel: charts.Panel) -> charts.Panel:
    """The same chart, with its series on top of each other."""
    panel.stacking(StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    return panel.fill_opacity(40)


def timeline(
    title: str, text: str, query: Query, states: States, missing: str = NO_DATA
) -> timelines.Panel:
    """The state of each series over time, in words."""
    panel = timelines.Panel().mappings([mapping(states)]).fill_opacity(80).line_width(0)
    panel.merge_values(True).show_value(common.VisibilityMode.AUTO).row_height(0.8)
    panel.legend(VizLegendOptions().display_mode(common.LegendDisplayMode.LIST).show_legend(True))
    bounded = replace(query, expr=replace(query, least=True).bounded())
    panel.with_target(_target(bounded, "A").range())
    return _described(panel, title, text, "short", PLAIN, missing)


def durations(title: str, text: str, query: Query, missing: str = NO_DATA) -> heatmaps.Panel:
    """A histogram over time, with exemplars."""
    panel = heatmaps.Panel().calculate(False).exemplars_color("rgba(213, 94, 0, 0.9)")
    panel.color(
        heatmaps.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Viridis").steps(64)
    )
    panel.y_axis(heatmaps.YAxisConfig().unit("s")).show_legend().cell_gap(1)
    panel.filter_values(heatmaps.FilterValueRange().le(1e-9))
    target = _target(query, "A").format(PromQueryFormat.HEATMAP).exemplar(True).range()
    panel.with_target(target)
    return _described(panel, title, text, "short", PLAIN, missing)


def table(  # noqa: PLR0913 - what a table is made of, most with a default
    title: str,
    text: str,
    columns: Sequence[Column],
    labels: Mapping[str, Label],
    *,
    missing: str = NO_DATA,
    first: str = "",
    sort: str = "",
    falling: bool = False,
    time_from: str = "",
) -> tables.Panel:
    """Values, one row for each set of labels.

    Args:
        title: Of the panel.
        text: What it shows.
        columns: The numbers; all have the same labels, or fewer.
        labels: The labels shown before the numbers, in this order; the others are hidden.
        missing: What stands there without data.
        first: The heading of a column of numbers that stands first.
        sort: The heading of a column of numbers by which rows are sorted; empty: the first.
        falling: Whether its largest value is on top.
        time_from: The time that it is about, before now; empty: the one that the dashboard shows.
    """
    panel = tables.Panel().cell_height(common.TableCellHeight.SM)
    panel.cell_options(common.TableAutoCellOptions()).min_width(50)
    refs = string.ascii_uppercase[: len(columns)]
    for ref, column in zip(refs, columns, strict=True):
        panel.with_target(_target(Query(column.expr), ref).format(PromQueryFormat.TABLE).instant())
    values = [f"Value #{ref}" for ref in refs] if len(columns) > 1 else ["Value"]
    headings = {value: column.title for value, column in zip(values, columns, strict=True)}
    hidden = [value for value, column in zip(values, columns, strict=True) if column.hidden]
    order = sorted((*labels, *values), key=lambda name: headings.get(name) != first)
    shown = {name: label.title for name, label in labels.items()}
    organize = {
        "excludeByName": dict.fromkeys(
            ("Time", "__name__", *_unseen(columns, labels), *hidden), True
        ),
        "indexByName": {name: index for index, name in enumerate(order)},
        "renameByName": {**shown, **headings},
    }
    panel.with_transformation(DataTransformerConfig("merge", options={}))
    panel.with_transformation(DataTransformerConfig("organize", options=organize))
    # The words for a table without rows would stand in every cell without a value, too.
    panel.override_by_regexp("/.*/", [DynamicConfigValue("noValue", "")])
    for column in columns:
        if not column.hidden:
            panel.override_by_name(column.title, _column_style(column))
    for label in labels.values():
        style = _label_style(label)
        if style:
            panel.override_by_name(label.title, style)
    by = sort or first
    if by:
        panel.sort_by([common_builders.TableSortByFieldState().display_name(by).desc(falling)])
    if time_from:
        panel.time_from(time_from)
    # Or labels that look like numbers (a PID, the id of a run) would be shown as such.
    return _described(panel, title, text, "string", PLAIN, missing)


def _unseen(columns: Sequence[Column], labels: Mapping[str, Label]) -> list[str]:
    """The labels that distinguish rows, but are not shown."""
    found = {
        name.strip()
        for column in columns
        for by in _BY.findall(column.expr)
        for name in by.split(",")
    }
    return sorted(found - {*labels})


def matrix(
    title: str, text: str, query: Query, row: str, column: str, missing: str
) -> tables.Panel:
    """A table of one value by two labels, darker where it is larger."""
    panel = tables.Panel().cell_height(common.TableCellHeight.SM).min(0).min_width(40)
    panel.with_target(_target(query, "A").format(PromQueryFormat.TABLE).instant())
    options = {"rowField": row, "columnField": column, "valueField": "Value", "emptyValue": "null"}
    panel.with_transformation(DataTransformerConfig("groupingToMatrix", options=options))
    panel.color_scheme(FieldColor().mode(FieldColorModeId.CONTINUOUS_BLUES))
    panel.cell_options(_background())
    plain = DynamicConfigValue("custom.cellOptions", common.TableAutoCellOptions())
    panel.override_by_regexp("/.*/", [DynamicConfigValue("noValue", "")])
    panel.override_by_name(f"{row}\\{column}", [plain])
    return _described(panel, title, text, COUNT, PLAIN, missing)


def _described(
    panel: P, title: str, text: str, unit: str, colours: ThresholdsConfig, missing: str
) -> P:
    return (
        panel.title(title)
        .description(text)
        .datasource(DATASOURCE)
        .unit(unit)
        .thresholds(colours)
        .no_value(missing)
    )


def _target(query: Query, ref: str) -> Dataquery:
    target = Dataquery().datasource(DATASOURCE).ref_id(ref).expr(query.expr)
    target.legend_format(query.legend)
    return target.interval(query.interval) if query.interval else target


def _stat_colour(colours: ThresholdsConfig) -> common.BigValueColorMode:
    """A background where a value can be wrong, and plain text elsewhere."""
    judged = len(colours.build().steps) > 1
    return common.BigValueColorMode.BACKGROUND_SOLID if judged else common.BigValueColorMode.NONE


def _legend() -> VizLegendOptions:
    legend = VizLegendOptions().display_mode(common.LegendDisplayMode.TABLE).show_legend(True)
    return legend.placement(common.LegendPlacement.BOTTOM).calcs(["lastNotNull", "max"])


def _gpu_colours() -> Iterator[tuple[str, str]]:
    """Patterns of series and their colours: a GPU has the same colour in all panels.

    Those of many machines, `node/index`, would too often share one: Grafana gives each its own, by
    its name.
    """
    for number, colour in enumerate(GPU_COLOURS):
        again = number + len(GPU_COLOURS)
        yield rf"/^GPU (cpu)?({number}|{again})(:\d+)? @/", colour


def _background() -> common.TableColoredBackgroundCellOptions:
    return common.TableColoredBackgroundCellOptions(
        mode=common.TableCellBackgroundDisplayMode.BASIC
    )


def _column_style(column: Column) -> list[DynamicConfigValue]:
    style = [DynamicConfigValue("unit", column.unit)]
    if column.width:
        style.append(DynamicConfigValue("custom.width", column.width))
    if column.decimals is not None:
        style.append(DynamicConfigValue("decimals", column.decimals))
    if column.colours is not None:
        style.append(DynamicConfigValue("thresholds", column.colours.build()))
    if column.states is not None:
        style.append(DynamicConfigValue("mappings", [mapping(column.states)]))
    if column.colours is not None or column.states is not None:
        style.append(DynamicConfigValue("custom.cellOptions", _background()))
    return style


def _label_style(label: Label) -> list[DynamicConfigValue]:
    style = [DynamicConfigValue("custom.width", label.width)] if label.width else []
    if label.link is not None:
        words, url = label.link
        style.append(DynamicConfigValue("links", [{"title": words, "url": url}]))
    return style
