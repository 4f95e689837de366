"""What clients without a right to it cost a run: 300 with wrong passwords, and 1,800 handshakes.

The clients run at the lowest priority, as they would not share the machine with the run. Runs with
and without them take turns. It takes about two minutes.

Run: python -m benchmarks.strangers [passwords|handshakes]
"""

from __future__ import annotations

import base64
import collections
import contextlib
import http.client
import multiprocessing
import os
import random
import selectors
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import cast

import bcrypt
import psutil

from benchmarks.scrape import judge
from benchmarks.servers import free_port
from tests.certificates import Authority
from tests.run_program import PROGRAM
from virnucpro_exporter.web.server import MetricsServer

CLIENTS = 300
PAIRS = 2
FILES, RESIDUES = 150, 2_000_000
HANDSHAKES = 1800


def header(password: str) -> bytes:
    """The line of a request that names a user and a password."""
    encoded = base64.b64encode(f"alice:{password}".encode())
    return b"Authorization: Basic " + encoded + b"\r\n"


def strangers(port: int, told: multiprocessing.Queue[collections.Counter[str]]) -> None:
    """Send requests with changing wrong passwords, each on a new connection."""
    os.nice(19)
    answers: collections.Counter[str] = collections.Counter()
    selector = selectors.DefaultSelector()
    chance = random.Random(1)

    def begin() -> None:
        client = socket.socket()
        client.setblocking(False)  # noqa: FBT003 - it takes no keyword
        client.connect_ex(("127.0.0.1", port))
        selector.register(client, selectors.EVENT_WRITE)

    for _ in range(CLIENTS):
        begin()
    with contextlib.suppress(OSError, KeyboardInterrupt):
        while True:
            for key, events in selector.select():
                client = cast("socket.socket", key.fileobj)
                try:
                    if events & selectors.EVENT_WRITE:
                        wrong = header(str(chance.random()))
                        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + wrong + b"\r\n")
                        selector.modify(client, selectors.EVENT_READ)
                        continue
                    answer = client.recv(4096)
                    answers[answer[9:12].decode() or "dropped"] += 1
                except ConnectionError as error:
                    answers[type(error).__name__] += 1
                    if isinstance(error, ConnectionRefusedError):
                        told.put(answers)
                        return
                selector.unregister(client)
                client.close()
                begin()


class Known(threading.Thread):
    """Scrapes twice a second with the right password, each time on a new connection."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self.seconds: list[float] = []
        self.failed = 0
        self.cost = 0.0  # of the program's own process, as a share of the machine
        self.over = threading.Event()

    def run(self) -> None:
        """Scrape until it is over."""
        while not self.over.wait(0.5):
            begun = time.perf_counter()
            client = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            name, value = header("secret").decode().strip().split(": ")
            try:
                client.request("GET", "/metrics", headers={name: value})
                self.failed += client.getresponse().status != 200
            except OSError:
                self.failed += not self.over.is_set()
            self.seconds.append(time.perf_counter() - begun)
            client.close()


def run_once(folder: Path, number: int, *, flooded: bool) -> tuple[float, Known]:
    """The seconds of the run by its own account, and the scrapes of its authenticated client."""
    port = free_port()
    words = ["--gpus=cpu:2", "--linger=60", "--no-dashboard", "--log-level=error"]
    words += [
        f"--web-listen-address=127.0.0.1:{port}",
        "--web-config-file",
        str(folder / "web.yml"),
    ]
    command = [*PROGRAM, "run", str(folder / "in"), "--output", str(folder / f"{number}"), *words]
    told: multiprocessing.Queue[collections.Counter[str]] = multiprocessing.Queue()
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            break
        time.sleep(0.05)
    begun = time.perf_counter()
    known = Known(port)
    known.start()
    time.sleep(1.0)
    flood = multiprocessing.Process(target=strangers, args=(port, told), daemon=True)
    if flooded:
        flood.start()
    line = next(line for line in run.stdout or () if " s, " in line)
    known.over.set()
    known.join()
    own = psutil.Process(run.pid).cpu_times()
    known.cost = (
        (own.user + own.system) / (time.perf_counter() - begun) / len(os.sched_getaffinity(0))
    )
    run.terminate()
    run.communicate()
    if flooded:
        print(f"  answers to strangers: {dict(told.get(timeout=20))}", flush=True)
        flood.join()
    return float(line.split(" s, ")[0]), known


def passwords() -> None:
    """Wrong passwords while a run goes on."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(10)).decode()
        (folder / "web.yml").write_text(f"basic_auth_users: {{alice: {hashed}}}\n")
        for number in range(FILES):
            bases = "".join(random.Random(number).choices("ACGT", k=RESIDUES // 20)) * 20
            (folder / "in" / f"{number}.fa").write_text(f">{number}\n{bases}\n")
        quiet: list[float] = []
        flooded: list[float] = []
        cost: list[float] = []
        failed, slowest = 0, 0.0
        for pair in range(PAIRS):
            seconds, calm = run_once(folder, 2 * pair, flooded=False)
            quiet.append(seconds)
            seconds, known = run_once(folder, 2 * pair + 1, flooded=True)
            cost.append(known.cost - calm.cost)
            flooded.append(seconds)
            failed += known.failed
            slowest = max(slowest, *known.seconds)
            print(f"  {quiet[-1]:.1f} s quiet, {seconds:.1f} s flooded", flush=True)
        judge("failed scrapes of the known client", failed, 0)
        judge("its slowest scrape", slowest, 2.0, "s")
        judge("CPU time of the program, of the machine", 100 * statistics.median(cost), 5, "%")
        lost = statistics.median(flooded) / statistics.median(quiet) - 1
        judge("what the run loses", 100 * lost, 5, "%")


def handshakes() -> None:
    """TLS connections that are made, asked on and ended, while the garbage collector sleeps."""
    import gc  # noqa: PLC0415 - beside what it is for

    gc.set_threshold(50_000)  # as a run sets it
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = Authority(folder)
        authority.issue("server")
        (folder / "web.yml").write_text(
            "tls_server_config: {cert_file: server.crt, key_file: server.key}\n"
        )
        context = ssl.create_default_context(cafile=authority.own.cert)
        with MetricsServer(listen=["127.0.0.1:0"], web_config=folder / "web.yml") as server:
            host, _, port = server.addresses[0].rpartition(":")
            grown: list[float] = []
            for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
                context.maximum_version = version
                before = 0
                for number in range(HANDSHAKES + 20):
                    if number == 20:
                        before = psutil.Process().memory_info().rss
                    with (
                        socket.create_connection((host, int(port))) as plain,
                        context.wrap_socket(plain, server_hostname=host) as client,
                    ):
                        client.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
                        client.recv(4096)
                grown.append((psutil.Process().memory_info().rss - before) / 1e6)
    judge(f"{HANDSHAKES} handshakes of TLS 1.3", grown[0], 30, "MB")
    judge(f"{HANDSHAKES} handshakes of TLS 1.2", grown[1], 30, "MB")


if __name__ == "__main__":
    for part in (passwords, handshakes):
        if part.__name__ in (sys.argv[1:] or ("passwords", "handshakes")):
            part()
