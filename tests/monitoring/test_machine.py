from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.machine import Machine
from tests.monitoring.programs import Prometheus, eventually
from tests.monitoring.rules import faster_rules

FACTOR = 20  # times as fast as the rules are
WATCHED = 24  # seconds after the last end: eight minutes of the rules, longer than any waits
QUICK = "sleep 2; cp {input} {output}"


@pytest.mark.campaign
def test_a_prometheus_that_scrapes_serve_alone_knows_how_each_run_ended(tmp_path: Path) -> None:
    """Killed, interrupted, failed at once: all that is known stays; only failures fire an alert."""
    with Machine(tmp_path / "machine") as machine:
        _, where = machine.serve()
        jobs = {"virnucpro-node": [where]}
        rules = faster_rules(tmp_path / "rules", FACTOR)
        with Prometheus(tmp_path / "prometheus", jobs, rules=rules) as prometheus:
            killed, stopped = machine.run("killed", QUICK), machine.run("stopped", QUICK)

            def running() -> set[str]:
                found = prometheus.query('virnucpro_run_state{state="running"} == 1')
                return {labels["run"] for labels, _ in found}

            eventually(lambda: running() == {"killed", "stopped"}, running)
            killed.kill()
            stopped.send_signal(signal.SIGINT)
            machine.run("failed", "exit 3")

            def ends() -> set[tuple[str, str]]:
                found = prometheus.query("virnucpro_run_result == 1")
                return {(labels["run"], labels["result"]) for labels, _ in found}

            wanted = {("killed", "vanished"), ("stopped", "interrupted"), ("failed", "failed")}
            eventually(lambda: ends() == wanted, ends)
            age = f"min(time() - virnucpro_run_end_timestamp_seconds) > {WATCHED}"
            eventually(lambda: prometheus.query(age))
            assert ends() == wanted
            fired = prometheus.query('max_over_time(ALERTS{alertstate="firing"}[1h])')
            assert {(labels["alertname"], labels["run"]) for labels, _ in fired} == {
                ("VirnucproRunFailed", "killed"),
                ("VirnucproRunFailed", "failed"),
            }
            gpus = prometheus.query("sum by (gpu) (virnucpro_gpu_power_watts)")
            assert {labels["gpu"] for labels, _ in gpus} == {"0", "1"}
