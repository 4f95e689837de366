"""Draws the dashboards from what Prometheus answers: `python -m tests.monitoring.pictures DIR`.

Some machines are simulated for some minutes, one of them in trouble, and scraped by a Prometheus
with the committed rules. Grafana's components draw what it answers, in headless Chromium.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.chromium import PROGRAM as CHROMIUM
from tests.monitoring.dashboards import DASHBOARDS, load
from tests.monitoring.programs import Prometheus
from tests.monitoring.rendered import FOLDER, question
from tests.monitoring.rules import RULES
from tests.run_program import PROGRAM, ROOT

WIDTH = 1900
_HEAD = 44
_ROW = 38
_LOADERS = [f"--loader:.{kind}=dataurl" for kind in ("svg", "png", "ttf", "woff", "woff2")]
_PORT = 19_777
ONE_MACHINE = {"virnucpro-run", "virnucpro-gpu"}  # that is the one in trouble


def main() -> None:
    """Simulate, scrape, ask and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--minutes", type=float, default=7.5, help="that are simulated")
    parser.add_argument("--machines", type=int, default=16)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Path(scratch) / "draw.js"
        subprocess.run(_bundle(bundle), cwd=FOLDER, check=True)
        pages = _asked(Path(scratch), options.machines, 60 * options.minutes)
        for uid, page in pages.items():
            _draw(Path(scratch), bundle, page, options.folder / f"{uid}.png")


def _bundle(to: Path) -> list[str | Path]:
    mode = '--define:process.env.NODE_ENV="production"'
    esbuild = FOLDER / "node_modules" / ".bin" / "esbuild"
    return [
        esbuild,
        "draw.mjs",
        "--bundle",
        "--log-level=error",
        f"--outfile={to}",
        mode,
        *_LOADERS,
    ]


def _asked(scratch: Path, machines: int, seconds: float) -> dict[str, dict[str, Any]]:
    """What Prometheus answers to all panels, once it has watched for so long."""
    address = f"127.0.0.1:{_PORT}"
    words = f"--machines={machines} --gpus=8 --files=300 --speed=60 --scenario=stall --forever"
    simulation = subprocess.Popen(
        [
            *PROGRAM,
            "simulate",
            *words.split(),
            f"--web-listen-address={address}",
            "--gpu-processes",
        ],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    targets = [f"127.0.0.1:{_PORT + number}" for number in range(machines)]
    try:
        with Prometheus(
            scratch / "prometheus", {"virnucpro": targets}, interval="5s", rules=RULES
        ) as prometheus:
            time.sleep(seconds)
            _until_stalled(prometheus, address)
            return {path.stem: _page(prometheus, path, address, seconds) for path in DASHBOARDS}
    finally:
        simulation.terminate()
        simulation.wait()


def _until_stalled(prometheus: Prometheus, address: str) -> None:
    """Wait for the moment at which there is something to see."""
    for _ in range(120):
        if prometheus.query(f'virnucpro_worker_stalled{{instance="{address}"}} == 1'):
            return
        time.sleep(1)


def _page(prometheus: Prometheus, path: Path, address: str, seconds: float) -> dict[str, Any]:
    dashboard, now = load(path), time.time()
    chosen = address.replace(".", r"\\.") if path.stem in ONE_MACHINE else ".*"
    variables = {"job": "virnucpro", "instance": chosen, "run": ".*", "gpu": ".*"}
    return {
        "title": dashboard["title"],
        "width": WIDTH,
        "from": 1000 * (now - seconds),
        "to": 1000 * now,
        "rows": max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in dashboard["panels"]),
        "questions": [
            {"panel": panel, "results": {}}
            if panel["type"] == "row"
            else question(prometheus, panel, variables, at=now, shown=seconds)
            for panel in dashboard["panels"]
        ],
    }


def _draw(scratch: Path, bundle: Path, page: dict[str, Any], to: Path) -> None:
    data = json.dumps(page).replace("<", r"\u003c")
    html = scratch / "page.html"
    html.write_text(
        f"<meta charset=utf-8><link rel=stylesheet href={bundle.with_suffix('.css').name}>"
        f"<body><div id=page></div><script>window.DASHBOARD = {data}</script>"
        f"<script src={bundle.name}></script>"
    )
    height = page["rows"] * _ROW + _HEAD
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *(f"--window-size={WIDTH},{height}", "--virtual-time-budget=15000"),
        *(f"--screenshot={to.absolute()}", html.as_uri()),
    ]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=120)


if __name__ == "__main__":
    main()
