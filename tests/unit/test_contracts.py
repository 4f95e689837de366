"""The contracts of the rooms hold, and would be seen to break."""

from __future__ import annotations

import ast

import pytest

from tests.contracts import FOREIGN, OURS, PURE, imports, sources, violations


def test_every_module_keeps_its_contract() -> None:
    """Each foreign package has its place, the core is pure, and `cli` knows `app` alone."""
    assert [line for module, text in sources() for line in violations(module, text)] == []


def test_every_place_is_used() -> None:
    """A place that imports its package no more leaves the table."""
    modules = dict(sources())
    used = {
        (item.name.partition(".")[0], module)
        for module, text in modules.items()
        for item in imports(ast.parse(text))
        if not item.is_ours
    }
    for package, places in FOREIGN.items():
        for place in places:
            users = [m for name, m in used if name == package]
            assert any(m == place or m.startswith(place + ".") for m in users), (package, place)
    for room in (*PURE, *OURS):
        assert any(m == room or m.startswith(room + ".") for m in modules), room


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("scheduling.policy", "import rich"),
        ("scheduling.policy", "import prometheus_client"),
        ("scheduling.policy", "from nvitop import Device"),
        ("scheduling.policy", "import distributed.comm"),
        ("scheduling.policy", "import asyncio"),
        ("scheduling.policy", "from pathlib import Path"),
        ("scheduling.policy", "def late():\n    from time import monotonic"),
        ("scheduling.policy", "import os.path"),
        ("scheduling.policy", "from virnucpro_exporter.gpu import state"),
        ("scheduling.policy", "from virnucpro_exporter import journal"),
        ("scheduling.policy", "open('a')"),
        ("scheduling.policy", "print('a')"),
        ("scheduling.diagram", "import os"),
        ("gpu.state", "import time"),
        ("snapshot.run", "import threading"),
        ("gpu.sampler", "import pynvml"),
        ("gpu.sampler", "import importlib\nimportlib.import_module('nvitop')"),
        ("processors.esm2", "if True:\n    import torch"),
        ("processors.embedding", "from transformers import AutoModel"),
        ("execution.runner", "from distributed import Client"),
        ("app.run", "import dask"),
        ("report.text", "from prometheus_client import Counter"),
        ("app.gpus", "from rich.live import Live"),
        ("execution.runner", "import click"),
        ("web.pages", "import requests"),
        ("cli.gpus", "from virnucpro_exporter.gpu.monitor import GPUMonitor"),
        ("cli.run", "from virnucpro_exporter import snapshot"),
    ],
)
def test_a_violation_is_seen(module: str, text: str) -> None:
    """Wherever in a module it stands, and however it is written."""
    assert violations(module, text)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("scheduling.policy", "from collections.abc import Mapping\nimport heapq"),
        ("scheduling.policy", "from virnucpro_exporter.scheduling import events as ev"),
        ("gpu.nvml", "import pynvml"),
        ("cluster.agent", "from distributed import Worker"),
        ("app.run", "import time\nfrom virnucpro_exporter.journal.writer import Journal"),
        ("cli.run", "from virnucpro_exporter import __version__\nimport click"),
        ("cli.run", "from virnucpro_exporter.app import run as app"),
    ],
)
def test_what_is_allowed_passes(module: str, text: str) -> None:
    """The contracts forbid no more than they say."""
    assert violations(module, text) == []
