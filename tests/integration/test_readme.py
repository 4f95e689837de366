from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from tests.monitoring.programs import eventually
from virnucpro_exporter import MetricsServer

README = Path(__file__).parents[2] / "README.md"


def completed(gpu: str) -> float:
    """How many files a GPU has completed, as a scrape of the registry tells."""
    labels = {"gpu": gpu}
    return REGISTRY.get_sample_value("virnucpro_files_completed_total", labels) or 0.0


def test_the_metrics_of_a_pipeline_as_the_readme_shows_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The code about the coordinator, the server and the registry works as it is written."""
    monkeypatch.setitem(MetricsServer.__init__.__kwdefaults__, "listen", ["127.0.0.1:0"])
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names: dict[str, Any] = {"embed": len}
    try:
        exec("\n".join(block for block in blocks if "coordinator" in block), names)  # noqa: S102 - our own README
        for gpu in ("0", "1"):
            names["work"](gpu)
        eventually(lambda: sum(completed(gpu) for gpu in ("0", "1")) == 2)
        assert names["server"].addresses
    finally:
        names["server"].stop()
        names["gpu_monitor"].stop()
        for name in ("virnucpro_run_state", "virnucpro_gpu_up"):
            REGISTRY.unregister(REGISTRY._names_to_collectors[name])
