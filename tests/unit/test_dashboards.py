from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import pytest
import yaml

from tests.monitoring.dashboards import (
    DASHBOARDS,
    DATASOURCE,
    FOLDER,
    load,
    panels,
    selectors,
    targets,
)
from tests.monitoring.rules import FOLDER as PROMETHEUS
from virnucpro_exporter.metrics.catalog import CATALOG, PROCESS_METRICS

SCHEMA_VERSION = 42  # of Grafana 12.4, which docker-compose.yml starts
UIDS = {"virnucpro-fleet", "virnucpro-run", "virnucpro-gpu", "virnucpro-exporter"}
# Ranges that follow the scrape interval, the distance of two points, or the time that is shown.
RANGES = {"$__rate_interval", "$__interval", "$__range", "$__range:$__interval", "$__range:15s"}
OF_RUNS = {"Run", "Work by GPU", "Workers", "Work stealing"}  # sections of the catalogue
BUILD_INFO = "virnucpro_build_info"
SCREEN = 22  # rows of the grid that a usual screen shows
# What Prometheus adds to what it scrapes, and what it says of alerts.
OF_PROMETHEUS = {"up", "scrape_duration_seconds", "scrape_samples_scraped", "ALERTS"}
BACKGROUNDS = {"light": "#FFFFFF", "dark": "#181B1F"}  # of a panel in Grafana's themes

every_dashboard = pytest.mark.parametrize(
    "dashboard", [load(path) for path in DASHBOARDS], ids=lambda dashboard: str(dashboard["uid"])
)


def texts(part: object) -> Iterator[tuple[str, str]]:
    """Every text in a part of a dashboard, with the key it is the value of."""
    if isinstance(part, Mapping):
        for key, value in part.items():
            if isinstance(value, str):
                yield key, value
            else:
                yield from texts(value)
    elif isinstance(part, list):
        for value in part:
            yield from texts(value)


def contrast(one: str, other: str) -> float:
    """How far two colours are apart in brightness, 1 to 21, as WCAG 2 defines it."""
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """The relative luminance of `#RRGGBB`, 0 to 1."""
    shares = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return sum(
        share * weight for share, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True)
    )


# The model that files of dashboards have; its successor cannot be imported before Grafana 13.
@pytest.mark.filterwarnings("ignore:Prefer using dashboardv2:DeprecationWarning")
@pytest.mark.skipif(sys.version_info < (3, 11), reason="Grafana's SDK needs Python 3.11")
def test_committed_files_are_what_is_built() -> None:
    """`make dashboards` would change nothing."""
    from grafana import build  # noqa: PLC0415 - it cannot be imported under Python 3.10

    assert {path.name: path.read_text() for path in DASHBOARDS} == build.files()


def test_uids_are_those_that_links_name() -> None:
    """Rules, runbook and links find the dashboards by these."""
    assert {load(path)["uid"] for path in DASHBOARDS} == UIDS
    assert all(path.stem == load(path)["uid"] for path in DASHBOARDS)


@every_dashboard
def test_a_dashboard_is_complete(dashboard: dict[str, Any]) -> None:
    """Title, description, version, read-only, variables, links, annotations."""
    assert dashboard["title"]
    assert dashboard["description"]
    assert dashboard["schemaVersion"] == SCHEMA_VERSION
    assert dashboard["editable"] is False
    assert "id" not in dashboard
    names = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert names[:3] == ["datasource", "job", "instance"]
    assert {annotation["name"] for annotation in dashboard["annotations"]["list"]} == {
        "Run starts",
        "Run ended",
        "Stall",
    }
    (link,) = dashboard["links"]
    assert (link["tags"], link["includeVars"], link["keepTime"]) == (["virnucpro"], True, True)
    assert dashboard["tags"] == ["virnucpro"]


@every_dashboard
def test_every_panel_is_complete(dashboard: dict[str, Any]) -> None:
    """Title, description, unit, thresholds, and words for the absence of data."""
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    titles = [panel["title"] for panel in dashboard["panels"]]
    assert len(set(titles)) == len(titles)
    for panel in panels(dashboard):
        defaults = panel["fieldConfig"]["defaults"]
        assert len(panel["description"]) > 20, panel["title"]
        assert defaults["unit"], panel["title"]
        assert defaults["noValue"], panel["title"]
        assert defaults["thresholds"]["steps"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs) > 0


@every_dashboard
def test_panels_fill_the_grid_without_overlap(dashboard: dict[str, Any]) -> None:
    """Nothing lies on something else or outside the screen."""
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    for place in places:
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
    for one, other in combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
    bottom = max(place["y"] + place["h"] for place in places)
    assert sum(place["w"] * place["h"] for place in places) == 24 * bottom
    assert sum(place["y"] < SCREEN - 2 for place in places) <= 12


@every_dashboard
def test_every_selector_is_limited_by_the_variables(dashboard: dict[str, Any]) -> None:
    """No job or instance is written down, and none slips through."""
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    catalogue = {metric.name: metric for metric in CATALOG}
    for target in targets():
        if target.dashboard != dashboard["uid"]:
            continue
        for name, matchers in selectors(target.expr):
            assert 'job=~"$job"' in matchers, target
            assert 'instance=~"$instance"' in matchers, target
            assert len(re.findall(r"\b(?:job|instance)\s*[=!]", matchers)) == 2, target
            metric = catalogue.get(re.sub("_(bucket|sum)$", "", name))
            has_gpu = metric is not None and "gpu" in metric.labels and "gpu" in variables
            assert ('gpu=~"$gpu"' in matchers) == has_gpu, target
            # Those of a run have its name, wherever one target shows several.
            of_run = metric is not None and metric.section in OF_RUNS and name != BUILD_INFO
            assert ('run=~"$run"' in matchers) == (of_run and "run" in variables), target


def test_every_metric_is_in_the_catalogue() -> None:
    """A panel cannot ask for what nobody exports."""
    known = {m.name for m in CATALOG if m.kind != "histogram"} | {*PROCESS_METRICS} | OF_PROMETHEUS
    known |= {m.name + s for m in CATALOG if m.kind == "histogram" for s in ("_bucket", "_sum")}
    asked = {name for target in targets() for name, _ in selectors(target.expr)}
    assert asked <= known
    assert {m.name for m in CATALOG} <= {re.sub("_(bucket|sum)$", "", name) for name in asked}


def test_ranges_follow_the_scrape_interval() -> None:
    """No range is written down, but that of counters over the time shown."""
    for target in targets():
        for found in re.findall(r"\[([^\]]*)\]", target.expr):
            assert found in RANGES, target


def test_absence_is_never_made_zero() -> None:
    """`or vector(0)` and its kin would show health where there are no data."""
    for target in targets():
        assert not re.search(r"vector\s*\(|absent|or\s+on\s*\(\s*\)", target.expr), target


@every_dashboard
def test_series_about_a_gpu_say_which(dashboard: dict[str, Any]) -> None:
    """Legends of all series by GPU begin with it."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            if re.search(r"by \([^)]*\bgpu\b[^)]*\)", target["expr"]) and panel["type"] in (
                "timeseries",
                "state-timeline",
            ):
                assert target["legendFormat"].startswith("GPU {{gpu}} @ {{instance}}"), panel


@every_dashboard
def test_colours_stand_out_in_both_themes(dashboard: dict[str, Any]) -> None:
    """Every colour has a contrast of 3 with the background of a panel."""
    colours = {text for _, text in texts(dashboard) if text.startswith("#")}
    assert len(colours) > 3
    for colour in colours:
        for theme, background in BACKGROUNDS.items():
            assert contrast(colour, background) >= 3, (colour, theme)
    named = {text for key, text in texts(dashboard) if key in ("color", "fixedColor")}
    assert {text for text in named - colours if not text.startswith("rgba(")} <= {"transparent"}


@every_dashboard
def test_links_lead_to_dashboards_that_exist(dashboard: dict[str, Any]) -> None:
    """A link from a cell opens one of ours, with the same variables."""
    for key, url in texts(dashboard):
        if key == "url":
            found = re.match(r"/d/([\w-]+)\?\$\{datasource:queryparam\}&\$\{job:queryparam\}", url)
            assert found, url
            assert found[1] in UIDS


def test_the_datasource_knows_the_scrape_interval() -> None:
    """Otherwise `$__rate_interval` would be too short, and rates empty."""
    (source,) = yaml.safe_load(DATASOURCE.read_text())["datasources"]
    assert source["uid"] == "virnucpro-prometheus"
    scraped = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]
    assert not any("scrape_interval" in config for config in scraped["scrape_configs"])


def test_dashboards_are_provisioned_read_only() -> None:
    """Nobody edits by hand what the next start would overwrite."""
    path = FOLDER / "provisioning" / "dashboards" / "virnucpro.yml"
    (provider,) = yaml.safe_load(path.read_text())["providers"]
    assert (provider["type"], provider["allowUiUpdates"]) == ("file", False)
