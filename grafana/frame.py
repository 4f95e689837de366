"""What all dashboards share: their variables, links, annotations and layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders.dashboard import (
    AnnotationQuery,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.builders.dashboard import Dashboard as Builder
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.dashboard import Panel as PanelModel
from grafana_foundation_sdk.models.prometheus import Dataquery as QueryModel

from grafana.panels import DATASOURCE, Panel
from grafana.queries import BY_RUN, RUN, WORKER, scoped
from grafana.style import BAD, GOOD, WARNING

TAG = "virnucpro"
_COLUMNS = 24  # of Grafana's grid
_ALL = VariableOption(selected=True, text="All", value="$__all")


@dataclass(frozen=True, slots=True)
class Shelf:
    """Panels side by side.

    Attributes:
        height: In units of Grafana's grid; a screen shows about 22.
        panels: From left to right.
        widths: Of the panels, which together fill the grid; empty for panels of one width.
        title: Of the section that begins here, if one does.
    """

    height: int
    panels: Sequence[Panel]
    widths: Sequence[int] = ()
    title: str = ""

    def placed(self) -> Iterator[tuple[Panel, int]]:
        """The panels with their widths.

        Raises:
            ValueError: They do not fill the grid.
        """
        widths = self.widths or [_COLUMNS // len(self.panels)] * len(self.panels)
        if sum(widths) != _COLUMNS:
            raise ValueError(f"{widths} are not {_COLUMNS} columns")
        yield from zip(self.panels, widths, strict=True)


def assemble(
    uid: str, title: str, text: str, shelves: Sequence[Shelf], *, variables: Sequence[str] = ()
) -> Dashboard:
    """A dashboard of these panels.

    Args:
        uid: By which links find it.
        title: As users see it.
        text: What it is for.
        shelves: From top to bottom.
        variables: By which it can be limited besides job and instance: `run`, `gpu`.

    Raises:
        ValueError: The panels of a shelf do not fill the grid.
        KeyError: A query has a metric that is not in the catalogue.
    """
    builder = Builder(title).uid(uid).description(text).tags([TAG]).readonly()
    builder.time("now-1h", "now").refresh("30s").timezone("browser")
    builder.tooltip(DashboardCursorSync.CROSSHAIR)
    _add_variables(builder, variables)
    links = (
        DashboardLink("VirNucPro").type(DashboardLinkType.DASHBOARDS).tags([TAG]).as_dropdown(False)
    )
    builder.link(links.include_vars(True).keep_time(True))
    for annotation in _annotations(variables):
        builder.annotation(annotation)
    number = 0
    for shelf in shelves:
        if shelf.title:
            number += 1
            builder.with_row(Row(shelf.title).id(number))
        for panel, width in shelf.placed():
            number += 1
            builder.with_panel(panel.id(number).span(width).height(shelf.height))
    dashboard = builder.build()
    _limit(dashboard, variables)
    return dashboard


def _limit(dashboard: Dashboard, variables: Sequence[str]) -> None:
    """Put the variables into every query of every panel."""
    for panel in dashboard.panels or ():
        if isinstance(panel, PanelModel):
            for target in panel.targets or ():
                assert isinstance(target, QueryModel)  # noqa: S101 - panels.py makes no others
                target.expr = scoped(target.expr, variables)


def _add_variables(builder: Builder, variables: Sequence[str]) -> None:
    builder.with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    # The jobs are listed when All is chosen, or targets of other programs would count as ours.
    job = _variable("job", "Job", "label_values(virnucpro_build_info, job)")
    builder.with_variable(job)
    instances = 'label_values(up{job=~"$job"}, instance)'
    builder.with_variable(_variable("instance", "Instance", instances).all_value(".*"))
    if "run" in variables:
        runs = 'label_values(virnucpro_run_info{job=~"$job", instance=~"$instance"}, run)'
        builder.with_variable(_variable("run", "Run", runs).all_value(".*"))
    if "gpu" in variables:
        both = '{__name__=~"virnucpro_(gpu|worker)_up", job=~"$job", instance=~"$instance"}'
        gpus = _variable("gpu", "GPU", f"label_values({both}, gpu)")
        builder.with_variable(gpus.all_value(".*").sort(VariableSort.NATURAL_ASC))


def _variable(name: str, label: str, query: str) -> QueryVariable:
    return (
        QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query({"query": query, "refId": f"variable-{name}"})
        .definition(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .current(_ALL)
    )


def _annotations(variables: Sequence[str]) -> list[AnnotationQuery]:
    # Over the whole time between two points: an end is to be seen for a minute or less.
    start = "last_over_time(virnucpro_run_start_timestamp_seconds[$__interval]) * 1000"
    end = (
        "1000 * last_over_time(virnucpro_run_end_timestamp_seconds[$__interval])"
        f" * on ({BY_RUN}) group_right ()"
        " (last_over_time(virnucpro_run_result[$__interval]) == 1)"
    )
    stall = "max_over_time(virnucpro_worker_stalled[$__interval]) == 1"
    return [
        _annotation("Run starts", start, RUN, GOOD, variables).use_value_for_time(True),
        _annotation(
            "Run ended", end, f"{{{{result}}}}, {RUN}", WARNING, variables
        ).use_value_for_time(True),
        _annotation("Stall", stall, WORKER, BAD, variables),
    ]


def _annotation(
    name: str, expr: str, text: str, colour: str, variables: Sequence[str]
) -> AnnotationQuery:
    target = Dataquery().ref_id("Anno").expr(scoped(expr, variables)).range()
    annotation = AnnotationQuery().name(name).datasource(DATASOURCE).enable(True)
    annotation.hide(False).icon_color(colour).target(target.datasource(DATASOURCE))
    return annotation.title_format(name).text_format(text)
