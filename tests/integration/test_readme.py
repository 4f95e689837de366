from __future__ import annotations

import re
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from prometheus_client import REGISTRY

from tests.monitoring.programs import eventually
from virnucpro_exporter import MetricsServer

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PYTHON = ROOT / "docs" / "python.md"


def completed(gpu: str) -> float:
    """How many files a GPU has completed, as a scrape of the registry tells."""
    labels = {"gpu": gpu}
    return REGISTRY.get_sample_value("virnucpro_files_completed_total", labels) or 0.0


def test_examples_of_the_readme_share_no_folder_that_would_be_refused() -> None:
    """All runs into one folder have the same processor with the same settings."""
    text = "".join(page.read_text() for page in (README, ROOT / "docs" / "running.md"))
    text = text.replace("\\\n", " ")
    work: dict[str, set[tuple[str, ...]]] = {}
    for line in re.findall(r"(?:\$ |`)virnucpro-exporter run ([^`\n]*)", text):
        folder = re.search(r"--output (\S+)", line)
        assert folder is not None, line
        of_processor = re.findall(r"--(?:processor|chunk-size) \S+| -- \S+", line)
        work.setdefault(folder[1], set()).add(tuple(of_processor))
    assert len(work) > 5
    assert [folder for folder, kinds in work.items() if len(kinds) > 1] == []


def test_the_metrics_of_a_pipeline_as_the_page_shows_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The code about the coordinator, the server and the registry works as it is written."""
    defaults = MetricsServer.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "listen", ["127.0.0.1:0"])
    blocks = re.findall(r"```python\n(.*?)```", PYTHON.read_text(), re.DOTALL)
    names: dict[str, Any] = {"embed": len}
    try:
        exec("\n".join(block for block in blocks if "coordinator" in block), names)  # noqa: S102 - our own page
        threads = [Thread(target=names["work"], args=(gpu,)) for gpu in ("0", "1")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        eventually(lambda: sum(completed(gpu) for gpu in ("0", "1")) == 2)
        assert names["server"].addresses
    finally:
        names["server"].stop()
        names["gpu_monitor"].stop()
        for name in ("virnucpro_run_state", "virnucpro_gpu_up"):
            REGISTRY.unregister(REGISTRY._names_to_collectors[name])


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    """A newcomer reads it in five minutes, and each file it names is there, pictures too."""
    text = README.read_text()
    assert len(text.splitlines()) < 150
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert "://" in link or (ROOT / link).exists(), link
    alerts = (ROOT / "prometheus" / "rules" / "alerts.yml").read_text().count("- alert:")
    dashboards = len(list((ROOT / "grafana" / "dashboards").glob("*.json")))
    assert f"{alerts} tested rules" in text
    assert dashboards == 4
    assert "four dashboards" in text
