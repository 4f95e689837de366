"""Simulated runs, a real Prometheus with the real rules, and a real Alertmanager.

All runs go on at the same time, and each test waits for what must happen to its own. With 60 times
the speed the stall threshold is 5 s; the rules are 20 times as fast, as fast as scrapes once a
second allow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.monitoring.programs import (
    Alertmanager,
    Labels,
    Prometheus,
    Webhook,
    eventually,
    to_webhook,
)
from tests.monitoring.rules import ALERTMANAGER, faster_rules, load
from tests.monitoring.simulated import Simulated

# One process runs them all, so that their programs are started once.
pytestmark = pytest.mark.xdist_group("scenarios")

# The number of files decides how long a run takes: 0.35 s for each, if nothing goes wrong.
RUNS = {
    "balanced": ("--scenario=balanced", "--files=140"),
    "skewed": ("--scenario=skewed", "--files=80"),
    "skewed-static": ("--scenario=skewed", "--files=80", "--balancer=static"),
    # These are watched until an alert fires, however late a busy machine starts Prometheus.
    "failures": ("--scenario=failures", "--files=600"),
    "thrash": ("--scenario=thrash", "--files=300"),  # files are stolen once queues are empty
    # These begin last: what they show happens a few seconds after their start, and is then over.
    # Only reported: a second attempt elsewhere would end the stall before it is worth an alert.
    "stall": ("--scenario=stall", "--files=140", "--on-stall=report"),
    "lost-gpu": ("--scenario=lost-gpu", "--files=140", "--on-stall=report"),
}


@dataclass(frozen=True, slots=True)
class Stack:
    """What runs.

    Attributes:
        addresses: Where each run is scraped, by its name.
        prometheus: Scrapes all.
        alertmanager: Is told by Prometheus.
        pager: Is told by Alertmanager.
    """

    addresses: dict[str, str]
    prometheus: Prometheus
    alertmanager: Alertmanager
    pager: Webhook

    def firing(self, run: str, name: str) -> list[Labels]:
        """The alerts of this name that fire now for a run."""
        return [a for a in self.prometheus.firing(name) if a["instance"] == self.addresses[run]]

    def paged(self, run: str, name: str, status: str = "firing") -> list[Labels]:
        """The alerts of this name that reached the pager for a run."""
        alerts = self.pager.alerts(name, status)
        return [a for a in alerts if a["instance"] == self.addresses[run]]

    def held_back(self, run: str, name: str) -> list[dict[str, Any]]:
        """The alerts of this name that Alertmanager knows and inhibits."""
        return [
            alert
            for alert in self.alertmanager.alerts()
            if alert["labels"]["alertname"] == name
            and alert["labels"]["instance"] == self.addresses[run]
            and alert["status"]["inhibitedBy"]
        ]

    def ended(self, run: str) -> bool:
        """Whether Prometheus has seen the end of a run."""
        state = f'virnucpro_run_state{{instance="{self.addresses[run]}",state="completed"}} == 1'
        return bool(self.prometheus.query(state))

    def ever_fired(self, run: str) -> set[str]:
        """The names of the alerts that ever fired for a run."""
        alerts = f'ALERTS{{instance="{self.addresses[run]}",alertstate="firing"}}'
        found = self.prometheus.query(f"count by (alertname) (count_over_time({alerts}[1h]))")
        return {labels["alertname"] for labels, _ in found}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All runs, begun together."""
    folder = tmp_path_factory.mktemp("scenarios")
    with contextlib.ExitStack() as parts:
        pager = parts.enter_context(Webhook())
        config = to_webhook(load(ALERTMANAGER), pager.url)
        alertmanager = parts.enter_context(Alertmanager(folder / "alertmanager", config))
        runs = {
            name: parts.enter_context(Simulated(folder / name, *options))
            for name, options in RUNS.items()
        }
        addresses = {name: run.wait() for name, run in runs.items()}
        prometheus = Prometheus(
            folder / "prometheus",
            {"virnucpro": [*addresses.values()]},
            rules=faster_rules(folder / "rules", 20),
            alertmanager=alertmanager.address,
        )
        yield Stack(addresses, parts.enter_context(prometheus), alertmanager, pager)


def test_a_lost_gpu_pages_and_its_stall_does_not(stack: Stack) -> None:
    """The loss reaches the pager; the stall that follows from it is known, and held back."""
    (lost,) = eventually(lambda: stack.paged("lost-gpu", "VirnucproGpuLost"))
    assert lost["gpu"] == "1"
    (stalled,) = eventually(lambda: stack.held_back("lost-gpu", "VirnucproGpuStalled"))
    assert stalled["labels"]["gpu"] == "1"
    assert not stack.paged("lost-gpu", "VirnucproGpuStalled")


def test_a_stall_pages_and_its_recovery_too(stack: Stack) -> None:
    """The hung GPU is named, and the page is taken back once it works again."""
    (stalled,) = eventually(lambda: stack.paged("stall", "VirnucproGpuStalled"))
    assert stalled["gpu"] == "1"
    assert not stack.paged("stall", "VirnucproGpuLost")
    (resolved,) = eventually(lambda: stack.paged("stall", "VirnucproGpuStalled", "resolved"))
    assert resolved["gpu"] == "1"


def test_a_bad_assignment_alerts_unless_files_are_stolen(stack: Stack) -> None:
    """Without stealing the GPUs that are done starve; with it the same run stays silent."""
    starved = eventually(lambda: stack.firing("skewed-static", "VirnucproLoadImbalance"))
    assert {alert["gpu"] for alert in starved} <= set("234567")
    eventually(lambda: stack.ended("skewed"))
    assert stack.ever_fired("skewed") == set()


@pytest.mark.parametrize(
    ("run", "name"),
    [("failures", "VirnucproFileFailures"), ("thrash", "VirnucproStealThrashing")],
)
def test_what_the_scenario_says_is_told(stack: Stack, run: str, name: str) -> None:
    """The alert for it fires, and no other; files that come back may well make queues uneven."""
    eventually(lambda: name in stack.ever_fired(run))
    assert stack.ever_fired(run) - {"VirnucproQueueSkew"} == {name}


def test_a_balanced_run_alerts_nobody(stack: Stack) -> None:
    """Nothing fires from the start to the end of it."""
    eventually(lambda: stack.ended("balanced"))
    assert stack.ever_fired("balanced") == set()
