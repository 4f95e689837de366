"""What docker-compose.yml and docs/deploy.md say, given to the programs that would read it."""

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
from virnucpro_exporter.cli import cli
from virnucpro_exporter.snapshot import Latest
from virnucpro_exporter.web import MetricsServer

ROOT = Path(__file__).parents[2]
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
# The examples of the page: language and text.
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(), re.DOTALL)


def mounted(service: str, folder: Path, profile: str) -> Path:
    """Where the files of a service lie after they were copied as its container would see them."""
    for volume in SERVICES[service]["volumes"]:
        if isinstance(volume, dict):
            volume = f"{volume['source']}:{volume['target']}"  # noqa: PLW2901 - the short form
        source, target, *_ = volume.replace("${COMPOSE_PROFILES:-.}", profile).split(":")
        if source.startswith("."):
            place = folder / target.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            copy(ROOT / source, place)
    return folder


@pytest.mark.parametrize("profile", [".", "gpu", "demo"])
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
    assert names == {
        *("runs.yml", "runs-here.yml", "nodes.yml", "nodes-here.yml"),
        "alertmanagers.yml",
    }
    for name, target in (("nodes", "node"), ("runs", "simulation")):
        here = yaml.safe_load((folder / f"etc/prometheus/targets/{name}-here.yml").read_text())
        is_here = profile == {"nodes": "gpu", "runs": "demo"}[name]
        assert here == [{"targets": [f"{target}:9877"] if is_here else []}]


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


@pytest.mark.parametrize("config", [b for k, b in BLOCKS if "scrape_configs" in b and k == "yaml"])
def test_prometheus_accepts_what_the_page_shows(tmp_path: Path, config: str) -> None:
    """A configuration can be copied from docs/deploy.md."""
    path = tmp_path / "prometheus.yml"
    path.write_text(config)
    assert exit_status([program("promtool"), "check", "config", "--syntax-only", str(path)]) == 0


@pytest.mark.parametrize("script", [b for k, b in BLOCKS if k == "shell"])
def test_the_shell_accepts_what_the_page_shows(script: str) -> None:
    """A script can be copied, and so can its options for the program."""
    assert exit_status(["/bin/bash", "-n", "-c", script]) == 0
    options = re.findall(r"(?<=[ \n])--[a-z-]+", script)
    known = {name for p in cli.commands["run"].params for name in (*p.opts, *p.secondary_opts)}
    assert set(options) <= known
