from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import builders
from tests.monitoring.programs import PATIENCE, Alertmanager, program
from tests.monitoring.rules import ALERTMANAGER, load
from virnucpro_exporter.metrics import MetricsServer
from virnucpro_exporter.snapshot import Latest

ROOT = Path(__file__).parents[2]
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def mounted(service: str, folder: Path, profile: str) -> Path:
    """Where the files of a service lie after they were copied as its container would see them."""
    for volume in SERVICES[service]["volumes"]:
        source, target, *_ = volume.replace("${COMPOSE_PROFILES:-.}", profile).split(":")
        if source.startswith("."):
            place = folder / target.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            copy(ROOT / source, place)
    return folder


@pytest.mark.parametrize("profile", [".", "gpu"])
def test_prometheus_reads_what_is_mounted(tmp_path: Path, profile: str) -> None:
    """Its configuration, the rules and the files of targets fit together in the container."""
    folder = mounted("prometheus", tmp_path, profile)
    checked = subprocess.run(
        [program("promtool"), "check", "config", str(folder / "etc/prometheus/prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "alerts.yml" in checked.stdout
    names = {path.name for path in (folder / "etc/prometheus/targets").glob("*.yml")}
    assert names == {"runs.yml", "nodes.yml", "nodes-here.yml", "alertmanagers.yml"}
    here = yaml.safe_load((folder / "etc/prometheus/targets/nodes-here.yml").read_text())
    assert here == [{"targets": ["node:9877"] if profile == "gpu" else []}]


def exit_status(command: list[str]) -> int:
    """Of a health check."""
    return subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE).returncode


def test_health_of_alertmanager_is_seen(tmp_path: Path) -> None:
    """The check of the Compose file passes while it answers, and fails when it is gone."""
    _, _, *rest = SERVICES["alertmanager"]["healthcheck"]["test"]
    with Alertmanager(tmp_path, load(ALERTMANAGER)) as alertmanager:
        check = [a.replace("127.0.0.1:9093", alertmanager.address) for a in rest]
        assert exit_status([program("amtool"), *check]) == 0
    assert exit_status([program("amtool"), *check]) != 0


def test_health_of_the_exporter_is_seen() -> None:
    """The check of the Dockerfile passes while it answers, and fails when it is gone."""
    found = re.search(r'CMD (\["python", "-c", .*\])', (ROOT / "Dockerfile").read_text())
    assert found
    _, *rest = json.loads(found[1])
    with MetricsServer(Latest(builders.idle()), listen=["127.0.0.1:0"]) as server:
        check = [a.replace("127.0.0.1:9877", server.addresses[0]) for a in rest]
        assert exit_status([sys.executable, *check]) == 0
    assert exit_status([sys.executable, *check]) != 0
