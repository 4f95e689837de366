"""The composition root: puts the parts of a run together, owns signals, and closes everything."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from virnucpro_exporter.config import RunConfig
from virnucpro_exporter.errors import InputError, ProcessorError, UsageError
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.execution.counting import count_files, estimate
from virnucpro_exporter.execution.inputs import discover
from virnucpro_exporter.execution.journal import Journal, Source
from virnucpro_exporter.execution.lock import RunLock
from virnucpro_exporter.execution.outputs import Outputs
from virnucpro_exporter.execution.pool import LocalPool
from virnucpro_exporter.execution.runner import Runner, stamped
from virnucpro_exporter.gpu.identity import cuda_visible_devices, resolve
from virnucpro_exporter.gpu.monitor import GPUMonitor
from virnucpro_exporter.metrics.push import GatewayPusher, TextfileWriter
from virnucpro_exporter.metrics.registry import build_registry
from virnucpro_exporter.metrics.server import MetricsServer
from virnucpro_exporter.processors import build
from virnucpro_exporter.processors.command import CommandProcessor
from virnucpro_exporter.scheduling.assignment import assign_files_weighted
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.weights import GPU_WEIGHTS, get_gpu_weight, is_known_gpu
from virnucpro_exporter.snapshot import GpuSnapshot, Latest, RunSnapshot, RunState
from virnucpro_exporter.terminal.dashboard import LoadBalancingDashboard

log = logging.getLogger(__name__)

FACTORY = "virnucpro_exporter.processors:build"

# With this switch interval a thread that renders or serves delays a decision by 0.2 ms at most.
_SWITCH_SECONDS = 0.0002


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU or CPU slot that gets a worker."""

    gpu: str
    name: str
    weight: float
    environment: Mapping[str, str] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Finished:
    """How a run ended.

    Attributes:
        snapshot: The last one.
        exit_code: What the program returns.
        error: Why nothing could be processed, or empty.
    """

    snapshot: RunSnapshot
    exit_code: int
    error: str = ""


def processor_spec(config: RunConfig) -> dict[str, Any]:
    """What a worker needs to make its processor.

    Raises:
        ProcessorError: There is no such processor.
    """
    name = config.processor
    if config.command and name != "command":
        raise ProcessorError(f"a command was given, but the processor is {name!r}; leave one out")
    if name == "translate":
        return {"kind": "translate", "chunk_size": config.chunk_size}
    if name == "command":
        if not config.command:
            raise ProcessorError("write the command after `--`: -- PROGRAM {input} {output}")
        CommandProcessor(config.command, config.output_suffix).check()
        argv = list(config.command)
        return {"kind": "command", "argv": argv, "output_suffix": config.output_suffix}
    if ":" in name:
        return {"kind": "python", "target": name, "output_suffix": config.output_suffix}
    raise ProcessorError(f"{name!r} is none: use translate, command or package.module:name")


# -- devices --


@contextlib.contextmanager
def devices(config: RunConfig) -> Iterator[tuple[list[Device], GPUMonitor | None]]:
    """The devices to use, and the monitor that watches them while the context lasts.

    Raises:
        NoDeviceError: The GPUs that were asked for are not there.
        UsageError: `--gpus` cannot be read.
    """
    wanted = config.gpus
    if wanted is not None and wanted.startswith("cpu"):
        yield _cpu_slots(wanted), None
        return
    monitor = GPUMonitor()
    with monitor:
        snapshot = monitor.wait()
        if wanted is None and not any(device.up for device in snapshot.devices):
            slots = os.cpu_count() or 1
            log.info("no GPU is used (%s); %d CPU slots instead", _reason(snapshot), slots)
            yield _cpu_slots(f"cpu:{slots}"), None
            return
        found = resolve(wanted or "all", snapshot)
        for device in found:
            busy = device.sample.foreign_processes if device.sample else None
            if busy:
                log.warning("GPU %s is in use by %d other processes", device.gpu, busy)
        pins = {d.gpu: {"CUDA_VISIBLE_DEVICES": cuda_visible_devices(d)} for d in found}
        yield [Device(d.gpu, d.name, _weight(d.name, config), pins[d.gpu]) for d in found], monitor


def _reason(snapshot: GpuSnapshot) -> str:
    return snapshot.health.reason or "the driver lists none"


def _cpu_slots(wanted: str) -> list[Device]:
    _, _, number = wanted.partition(":")
    if wanted.partition(":")[0] != "cpu" or not number.isdecimal() or int(number) < 1:
        raise UsageError(f"--gpus {wanted}: write cpu:N with N above 0, all, or ids like 0,1")
    pin = {"CUDA_VISIBLE_DEVICES": ""}
    return [Device(f"cpu{index}", "CPU", 1.0, pin) for index in range(int(number))]


def _weight(name: str, config: RunConfig) -> float:
    if not config.gpu_weighted:
        return 1.0
    table = {**GPU_WEIGHTS, **config.gpu_weights}
    if not is_known_gpu(name, table):
        log.warning("the speed of a %r is not known; it counts as an RTX 3090 at first", name)
    return get_gpu_weight(name, table)


# -- inputs --


def find_files(config: RunConfig, outputs: Outputs, spec: Mapping[str, Any]) -> list[Path]:
    """The input files.

    Raises:
        InputError: There are none, or two of them would write the same output.
    """
    if not config.inputs:
        raise InputError("name files, folders or patterns to process")
    paths = discover(config.inputs, outputs.folder)
    if spec["kind"] != "python":  # the user's own code is loaded in the workers alone
        processor = build(spec)
        owners: dict[str, Path] = {}
        for path in paths:
            for name in processor.output_names(path):
                other = owners.setdefault(name, path)
                if other is not path:
                    both = f"{str(other)!r} and {str(path)!r}"
                    raise InputError(f"{both} would both write {name!r}; run them apart")
    return paths


def measure(paths: Sequence[Path], how: str) -> list[SequenceFile]:
    """Count or estimate what the files hold."""
    if how == "estimate":
        return [estimate(path) for path in paths]
    return count_files(paths, os.cpu_count() or 1, lambda _file: None)


def _source(path: Path) -> Source:
    try:
        status = path.stat()
    except OSError:
        return Source(str(path), -1, -1)  # its own attempt will say what is wrong
    return Source(str(path), status.st_size, status.st_mtime_ns)


def plan(config: RunConfig) -> dict[Device, list[SequenceFile]]:
    """What each device would be given at the start, for `--dry-run`."""
    spec = processor_spec(config)
    paths = find_files(config, Outputs(_output(config)), spec)
    with devices(config) as (found, _):
        files = measure(paths, config.count)
        by_id = assign_files_weighted(files, {d.gpu: d.weight for d in found})
        return {device: by_id[device.gpu] for device in found}


def _output(config: RunConfig) -> str:
    if config.output is None:
        raise UsageError("name the output folder with --output DIR")
    return config.output


# -- the run --


def run(config: RunConfig) -> Finished:
    """Run all files and serve what happens meanwhile.

    Raises:
        VirnucproError: The run cannot start, or cannot go on.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    spec = processor_spec(config)
    outputs = Outputs(_output(config))
    with contextlib.ExitStack() as stack:
        outputs.prepare()
        stack.enter_context(contextlib.closing(RunLock(outputs.lock)))
        paths = find_files(config, outputs, spec)
        found, monitor = stack.enter_context(devices(config))
        journal = Journal(outputs, fresh=config.fresh)
        stack.enter_context(contextlib.closing(journal))
        coordinator, files = _prepare(config, journal, paths, found)
        _show(config, stack, outputs, coordinator, monitor)
        stack.enter_context(_tidied(outputs))
        pool = LocalPool(
            spec, FACTORY, outputs.attempts, outputs.logs, {d.gpu: d.environment for d in found}
        )
        stack.callback(pool.close)
        runner = Runner(coordinator, pool, [d.gpu for d in found], outputs, journal)
        signals = stack.enter_context(_Signals(runner, pool.wake))
        runner.run(files)
        snapshot = coordinator.snapshot()
        finished = _outcome(snapshot, runner, signals)
        journal.finish(snapshot.state.value if not signals.caught else "interrupted", time.time())
        if config.web and config.linger and not signals.caught:
            log.info("the last values stay for %g s (Ctrl-C ends this)", config.linger)
            signals.wait(config.linger)
        return finished


@contextlib.contextmanager
def _tidied(outputs: Outputs) -> Iterator[None]:
    """Remove what losing attempts left, once no worker writes any more.

    After an error all is kept: the next run may have to move an output that won.
    """
    yield
    outputs.clean()


def _prepare(
    config: RunConfig, journal: Journal, paths: Sequence[Path], found: Sequence[Device]
) -> tuple[WorkStealingCoordinator, list[SequenceFile]]:
    resumed = journal.plan([_source(path) for path in paths])
    todo = [path for path in paths if str(path) not in resumed.done]
    known = [path for path in todo if str(path) in resumed.counts]
    rest = [path for path in todo if str(path) not in resumed.counts]
    files = [stamped(SequenceFile(str(path)), resumed.counts[str(path)]) for path in known]
    measured = measure(rest, config.count)
    if config.count == "exact":
        journal.add_counts(
            {f.path: (f.sequences, f.residues) for f in measured if f.sequences is not None}
        )
    done = [stamped(SequenceFile(path), resumed.counts.get(path)) for path in resumed.done]
    if done:
        log.info("%d files were finished by an earlier run and are skipped", len(done))
    coordinator = WorkStealingCoordinator(
        {device.gpu: device.weight for device in found},
        names={device.gpu: device.name for device in found},
        balancer=config.balancer,
        settings=config.scheduler_settings(),
        processor=config.processor,
        first_attempt=journal.next_attempt(),
        skipped=done,
    )
    journal.begin(coordinator.run_id, config.model_dump(mode="json"), time.time())
    return coordinator, [*files, *measured]


def _show(
    config: RunConfig,
    stack: contextlib.ExitStack,
    outputs: Outputs,
    coordinator: WorkStealingCoordinator,
    monitor: GPUMonitor | None,
) -> None:
    """Start what shows the run: the endpoint, the pushes, the terminal and the log."""
    health = {}
    gpus: GPUMonitor | Latest[GpuSnapshot] = monitor or Latest(GpuSnapshot(time.time()))
    dashboard = LoadBalancingDashboard(
        coordinator,
        gpus,
        log_file=None if config.metrics_log is None else outputs.folder / config.metrics_log,
        plain=None if config.dashboard is None else not config.dashboard,
        log_interval=config.metrics_log_interval,
        log_max_bytes=config.metrics_log_max_bytes,
        endpoint=config.web_listen_address[0] if config.web else "",
    )
    if config.metrics_log is not None:
        health["log"] = _LogHealth(dashboard)
    if config.web:
        server = MetricsServer(
            coordinator,
            monitor,
            listen=config.web_listen_address,
            telemetry_path=config.web_telemetry_path,
            web_config=config.web_config_file,
            health=health,
        )
        server.start()
        stack.callback(server.stop)
        log.info("metrics: %s", ", ".join(server.urls))
    if config.textfile or config.push_gateway:
        registry = build_registry(coordinator, monitor, health, process=False)
        if config.textfile:
            stack.enter_context(TextfileWriter(registry, config.textfile, config.push_interval))
        if config.push_gateway:
            stack.enter_context(GatewayPusher(registry, config.push_gateway, config.push_interval))
    dashboard.start()
    stack.callback(dashboard.stop)


class _LogHealth:
    """The health of the metrics log, as the collectors read it."""

    def __init__(self, dashboard: LoadBalancingDashboard) -> None:
        self.latest = dashboard.log_health


class _Signals:
    """The first SIGINT or SIGTERM drains the run, the second ends it at once."""

    def __init__(self, runner: Runner, wake: Callable[[], None]) -> None:
        self._runner = runner
        self._wake = wake
        self._before: dict[int, Any] = {}
        self._over = threading.Event()
        self.caught: list[int] = []

    def __enter__(self) -> _Signals:  # noqa: PYI034 - typing.Self needs Python 3.11
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.caught.append(number)
        if len(self.caught) == 1:
            self._runner.drain()
        else:
            self._runner.stop()
        self._over.set()
        self._wake()

    def wait(self, seconds: float) -> None:
        """Wait, or until the next signal."""
        self._over.wait(seconds)


def _outcome(snapshot: RunSnapshot, runner: Runner, signals: _Signals) -> Finished:
    if signals.caught:
        return Finished(snapshot, 128 + signals.caught[0])
    if snapshot.files_queued or snapshot.files_processing:
        return Finished(snapshot, ProcessorError.exit_code, runner.last_loss)
    return Finished(snapshot, 0 if snapshot.state is RunState.COMPLETED else 1)


def run_files(
    inputs: Sequence[str],
    output: str,
    processor: str = "translate",
    **options: Any,
) -> RunSnapshot:
    """Process files on all GPUs (or CPU slots) of this machine, from Python.

    Args:
        inputs: Files, folders and patterns.
        output: Folder for the results.
        processor: `translate`, `command`, or `package.module:name` of a class or function.
        options: Any other setting of `virnucpro-exporter run`, with `_` for `-`.

    Returns:
        The state of the run at its end; `failures` has the files that could not be done.

    Raises:
        VirnucproError: The run cannot start, or no file could be processed.
    """
    given = {"web": False, "metrics_log": None, "dashboard": False, **options}
    config = RunConfig(inputs=tuple(inputs), output=output, processor=processor, **given)
    finished = run(config)
    if finished.error:
        raise ProcessorError(finished.error)
    return finished.snapshot


# -- the node exporter and the remote dashboard --


def serve(listen: Sequence[str], path: str, web_config: str | None) -> int:
    """Serve GPU metrics until a signal comes."""
    with GPUMonitor() as monitor:
        server = MetricsServer(
            None, monitor, listen=listen, telemetry_path=path, web_config=web_config
        )

        def start() -> None:
            server.start()
            log.info("metrics: %s", ", ".join(server.urls))

        return until_signal(start, server.stop)


def until_signal(start: Callable[[], object], stop: Callable[[], object]) -> int:
    """Start something, and stop it at SIGINT or SIGTERM.

    Returns:
        0: whoever sends the signal wants it to end.
    """
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    start()
    try:
        over.wait()
    finally:
        stop()
    return 0
