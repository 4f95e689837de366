"""`simulate` as its users start it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

from tests.run_program import DEADLINE, PROGRAM, ROOT, call, until

_ADDRESS = re.compile(r"machine (\d+): metrics: (http://\S+)")
_RUN = re.compile(r'virnucpro_run_info\{.*processor="(.+?)",run_id="(\w+)"')


def scrape(url: str) -> tuple[str, str]:
    """The processor and the id of the run."""
    with urllib.request.urlopen(url, timeout=DEADLINE) as page:  # noqa: S310 - an address of ours
        found = _RUN.search(page.read().decode())
    assert found
    return found[1], found[2]


def test_several_machines_run_for_ever(tmp_path: Path) -> None:
    """Each has its address, its file for Prometheus, and run after run; SIGTERM ends them all."""
    options = "--machines=2 --gpus=2 --files=2 --speed=1000 --forever --scenario=stall --linger=0"
    log = tmp_path / "log"
    targets = f"--target-file={tmp_path}"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*PROGRAM, "simulate", *options.split(), "--web-listen-address=127.0.0.1:0", targets],
            cwd=ROOT,
            stderr=output,
        )
    until(lambda: len(set(_ADDRESS.findall(log.read_text()))) == 2)
    urls = dict(_ADDRESS.findall(log.read_text()))
    first, second = scrape(urls["1"]), scrape(urls["2"])
    assert (first[0], second[0]) == ("simulated:stall", "simulated:balanced")
    assert len(list(tmp_path.glob("*.json"))) == 2
    until(lambda: scrape(urls["1"])[1] != first[1])
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE) == 0
    assert not list(tmp_path.glob("*.json"))


def test_machines_that_would_write_to_one_file_are_refused(tmp_path: Path) -> None:
    """The line says which option, and nothing is started."""
    done = call([*PROGRAM, "simulate", "--machines=2", f"--textfile={tmp_path / 'x.prom'}"])
    assert done.returncode == 2
    assert "--machines and --textfile: all would write to one place" in done.stderr


def test_a_machine_whose_port_is_taken_ends_all() -> None:
    """The line says which machine, and the others end, too."""
    here = "127.0.0.7"  # where nothing else listens, so that the port below is free
    with socket.create_server((here, 0)) as taken:
        port = taken.getsockname()[1]
        address = f"--web-listen-address={here}:{port - 1}"
        done = call([*PROGRAM, "simulate", "--machines=2", "--gpus=1", "--forever", address])
    assert done.returncode == 2
    assert re.search(rf"ERROR machine 2: .*{here}:{port}", done.stderr)
