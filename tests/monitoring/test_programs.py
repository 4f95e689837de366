from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import builders
from tests.monitoring.programs import Alertmanager, Prometheus, Webhook, eventually, to_webhook
from tests.monitoring.rules import ALERTMANAGER, faster_rules, load
from virnucpro_exporter.snapshot import GpuSnapshot
from virnucpro_exporter.web import MetricsServer


class Sampler:
    """GPUs as of now, whenever they are asked for."""

    def __init__(self) -> None:
        self.state: Callable[..., GpuSnapshot] = builders.gpus_up

    def latest(self) -> GpuSnapshot:
        return self.state(now=time.time())


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    """A receiver of alerts."""
    with Webhook() as receiver:
        yield receiver


def test_a_lost_gpu_reaches_the_webhook_and_is_resolved(tmp_path: Path, webhook: Webhook) -> None:
    """From the exporter through Prometheus, its rules and Alertmanager to a receiver."""
    alert, gpus = "VirnucproGpuLost", Sampler()
    config = to_webhook(load(ALERTMANAGER), webhook.url)
    with (
        MetricsServer(gpu_monitor=gpus, listen=["127.0.0.1:0"]) as exporter,
        Alertmanager(tmp_path / "alertmanager", config) as alertmanager,
        Prometheus(
            tmp_path / "prometheus",
            {"virnucpro": [exporter.addresses[0]]},
            interval="500ms",
            rules=faster_rules(tmp_path / "rules", 20),
            alertmanager=alertmanager.address,
        ) as prometheus,
    ):
        eventually(lambda: prometheus.query("virnucpro_gpu_up == 1"))
        assert not prometheus.firing(alert)
        gpus.state = builders.gpu_lost
        (sent,) = eventually(lambda: webhook.alerts(alert, "firing"), prometheus.firing)
        assert (sent["gpu"], sent["instance"]) == ("1", exporter.addresses[0])
        assert [a["labels"]["gpu"] for a in alertmanager.alerts()] == ["1"]
        gpus.state = builders.gpus_up
        eventually(lambda: webhook.alerts(alert, "resolved"), prometheus.firing)
