"""The endpoint and the pushes of the program, as whoever runs it meets them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.gateway import Gateway
from tests.monitoring.programs import Prometheus, eventually, program
from tests.run_program import DEADLINE, PROGRAM, READS, ROOT, address, ask, run, start, until

read_openmetrics: Callable[[str], Iterable[Family]] = openmetrics.text_string_to_metric_families
LOCAL = "--web-listen-address=127.0.0.1:0"
Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def values(page: str) -> Values:
    """Every sample of ours, but those that change by themselves."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name.startswith("virnucpro_") and "_collector_" not in sample.name
    }


def stored(prometheus: Prometheus) -> Values:
    """The same of what Prometheus holds now."""
    target = ("__name__", "instance", "job")
    return {
        (labels["__name__"], tuple(sorted((k, v) for k, v in labels.items() if k not in target))): v
        for labels, v in prometheus.query('{__name__=~"virnucpro_.*",__name__!~".*_collector_.*"}')
    }


ODD_NAMES = (b'quo"te.fa', b"new\nline.fa", b"back\\slash.fa", b"not\xff\xfetext.fa")


def test_a_run_is_scraped_to_its_end(tmp_path: Path) -> None:
    """Prometheus holds what was served at the end, and Ctrl-C ends the lingering."""
    odd = tmp_path / "odd"
    odd.mkdir()
    for name in ODD_NAMES:
        (odd / os.fsdecode(name)).write_bytes(b">a\nACGTACGTACGT\n")
    with start("--web", LOCAL, "--linger=3600", odd, output=tmp_path / "out") as process:
        where = address(process)
        with Prometheus(tmp_path / "prometheus", {"virnucpro": [where]}) as prometheus:
            eventually(lambda: prometheus.query('virnucpro_run_state{state="completed"} == 1'))
            files = len(ODD_NAMES)
            total = prometheus.query("sum(virnucpro_files_completed_total)")
            assert [value for _, value in total] == [files]
            page = ask(where, "/metrics")[1]
            strictly = read_openmetrics(
                ask(where, "/metrics", Accept="application/openmetrics-text")[1]
            )
            names = {e.labels["file"] for f in strictly for s in f.samples if (e := s.exemplar)}
            assert names, "files are named"
            eventually(
                lambda: stored(prometheus) == values(ask(where, "/metrics")[1]),
                lambda: set(stored(prometheus).items()) ^ set(values(page).items()),
            )
        checked = subprocess.run(
            [program("promtool"), "check", "metrics"],
            input=page,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert f"{files} files done, 0 failed" in output
    assert "Ctrl-C ends it" in errors
    assert "metrics: " not in errors, "the address is told once"
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--web", "--web-listen-address={taken}"], "cannot listen on {taken}: Address already in"),
        (["--web", LOCAL, "--web-telemetry-path=/"], "no metrics at '/'"),
        (["--web", LOCAL, "--web-config-file=none.yml"], "none.yml: No such file or directory"),
        (["--textfile={output}/none.prom"], "the folder of the textfile"),
        (["--push-gateway=localhost"], "is not the URL of a Pushgateway"),
    ],
)
def test_what_cannot_be_served_is_told_before_any_work(
    tmp_path: Path, words: list[str], told: str
) -> None:
    """One line, status 2, and not even an output folder."""
    output = tmp_path / "out"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = f"127.0.0.1:{listener.getsockname()[1]}"
        words = [word.format(taken=taken, output=output) for word in words]
        done = run(*words, "--fresh", READS, output=output)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert told.format(taken=taken) in line
    assert not output.exists()


def test_a_run_that_nobody_scrapes_is_pushed_and_written(tmp_path: Path) -> None:
    """The end is in the file and, if wanted, the gateway; a push that fails harms nothing."""
    textfile = tmp_path / "virnucpro.prom"
    with Gateway(503) as gateway:
        words = [f"--push-gateway={gateway.url}", f"--textfile={textfile}", "--push-interval=0.2"]
        words.append("--push-keep")
        done = run(*words, READS, output=tmp_path / "out")
    assert done.returncode == 0
    assert done.stderr.count(f"cannot send metrics to {gateway.url}: HTTP Error 503") == 1
    assert f"metrics reach {gateway.url} again after 1 failures" in done.stderr
    assert 'virnucpro_run_state{state="completed"} 1.0' in gateway.pushed[-1][1]
    assert "/run/out" in gateway.pushed[-1][0]
    assert not gateway.deleted
    end = 'virnucpro_run_state{run="out",state="completed"} 1.0'
    assert end in textfile.read_text()


def test_a_node_finds_its_gpus_when_the_driver_comes(tmp_path: Path, nvml_library: Path) -> None:
    """Without a driver it serves and says it is not ready; with one it is, and has the values."""
    driver, state = tmp_path / "driver", tmp_path / "state"
    driver.mkdir()
    state.write_text("count 2\n")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(driver), "NVML_STUB_STATE": str(state)}
    with subprocess.Popen(
        [*PROGRAM, "serve", LOCAL], cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE
    ) as process:
        where = address(process)
        assert 'virnucpro_gpu_monitor_info{backend="none"} 1.0' in ask(where, "/metrics")[1]
        assert ask(where, "/-/ready")[0] == 503
        assert ask(where, "/-/healthy")[0] == 200
        shutil.copy(nvml_library, driver / "copied")
        (driver / "copied").rename(driver / nvml_library.name)
        until(lambda: ask(where, "/-/ready")[0] == 200)
        until(lambda: ask(where, "/metrics")[1].count("\nvirnucpro_gpu_utilization_ratio{") == 2)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert "Traceback" not in errors
