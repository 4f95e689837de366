"""What the rules say of metrics, dashboards and documents, beside those."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.monitoring.rules import FOLDER, RULES, faster, load, rules_of
from virnucpro_exporter.config import RunConfig
from virnucpro_exporter.metrics.catalog import CATALOG

ROOT = FOLDER.parent
EVERY_RULE = [rule for path in RULES for rule in rules_of(load(path))]
ALERTS = {rule["alert"]: rule for rule in EVERY_RULE if "alert" in rule}
RECORDS = {rule["record"] for rule in EVERY_RULE if "record" in rule}
SECTIONS: dict[str, str] = dict(
    re.findall(
        r"^## (\w+)$(.*?)(?=^## |\Z)",
        (ROOT / "docs" / "runbook.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
)


def panels(uid: str) -> set[str]:
    """The titles of a dashboard."""
    dashboard = json.loads((ROOT / "grafana" / "dashboards" / f"{uid}.json").read_text())
    return {panel["title"] for panel in dashboard["panels"]}


def test_alerts_and_sections_of_the_runbook_are_the_same() -> None:
    """Nobody is paged without a section to read, and no section is about an alert of the past."""
    assert set(SECTIONS) == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_tells_what_where_and_how_bad(alert: str) -> None:
    """Its page reads by itself, and leads to a section and a dashboard that has what it names."""
    rule = ALERTS[alert]
    notes, severity = rule["annotations"], rule["labels"]["severity"]
    assert set(notes) == {"summary", "description", "runbook_url", "dashboard_uid"}
    assert "{{ $labels.instance }}" in notes["summary"]
    assert "{{ $labels.job }}" in notes["description"]
    assert notes["runbook_url"] == f"docs/runbook.md#{alert.lower()}"
    named = re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", SECTIONS[alert])
    assert {" ".join(name.split()) for name in named} <= panels(notes["dashboard_uid"])
    table = (ROOT / "docs" / "alerting.md").read_text()
    assert f"| [{alert}](runbook.md#{alert.lower()}) | {severity} |" in table
    for heading in ("What it means.", "Look at", "Do.", "False positives."):
        assert f"**{heading}**" in SECTIONS[alert]


def test_links_lead_to_sections() -> None:
    """Within the runbook, and from the page about alerts to it."""
    for page in ("runbook.md", "alerting.md"):
        anchors = re.findall(r"\(#(\w+)\)|runbook\.md#(\w+)\)", (ROOT / "docs" / page).read_text())
        assert anchors
        assert {one or other for one, other in anchors} <= {alert.lower() for alert in ALERTS}


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda r: str(r.get("alert") or r["record"]))
def test_rules_use_what_the_catalogue_has(rule: dict[str, Any]) -> None:
    """Its metrics, their labels, and the values of labels that are enumerations."""
    expression = rule["expr"]
    catalogue = {metric.name: metric for metric in CATALOG}
    used = set(re.findall(r"(?<![:\w])virnucpro_\w+(?!\w*:)", expression))
    assert used <= set(catalogue)
    recorded = {name for name in RECORDS if name in expression}
    assert set(re.findall(r"\w+:virnucpro_\w+:\w+", expression)) == recorded
    known = {label for metric in CATALOG for label in metric.labels} | {
        *("job", "exported_node", "run", "file")
    }
    named = re.findall(r"(?:ignoring|without|group_left) \(([\w, ]*)\)", expression)
    assert {label for found in named for label in found.split(", ") if label} <= known
    for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", expression):
        for label, value in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
            # Targets, runs and recording rules are named freely.
            if name in catalogue and label != "run":
                assert set(value.split("|")) <= set(catalogue[name].values[label])


def test_lengths_of_time_in_expressions_are_marked() -> None:
    """Or the rules could not be run faster in tests."""
    for rule in EVERY_RULE:
        expr = re.sub(r'"[^"]*"', '""', rule["expr"])  # without the values of labels
        for number in re.finditer(r"(?<![\w.\[])\d{2,}(?![\w\]])", expr):
            assert expr[number.end() :].startswith(" # seconds"), expr


def test_all_rules_run_faster() -> None:
    """Every length of time in the committed rules becomes shorter."""
    text = "".join(rule["expr"] for path in RULES for rule in rules_of(faster(load(path), 1e9)))
    assert set(re.findall(r"\[(\w+)\]", text)) == {"1ms"}
    assert set(re.findall(r"(\S+) # seconds", text)) == {
        "4.5e-08",
        "6e-08",
        "6e-07",
        "1.8e-06",
        "3.6e-06",
    }


def test_prometheus_sees_the_end_of_a_run() -> None:
    """The program serves its last values for two scrapes at least."""
    interval = load(FOLDER / "prometheus.yml")["global"]["scrape_interval"]
    assert RunConfig().metrics.linger >= 2 * float(interval.removesuffix("s"))
