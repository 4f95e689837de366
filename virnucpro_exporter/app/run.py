"""A run: its parts put together, in the order in which they start and the reverse of it."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from virnucpro_exporter.app.announce import (
    announced,
    is_served,
    registry_folder,
    run_name,
)
from virnucpro_exporter.app.devices import OwnGpus, devices
from virnucpro_exporter.app.inputs import (
    Names,
    find_files,
    measure,
    output_folder,
    output_names,
)
from virnucpro_exporter.app.listing import Listing, done_before, looked_at
from virnucpro_exporter.app.predictions import (
    Predictions,
    Tables,
    predictions_of,
    with_sheet,
)
from virnucpro_exporter.app.processor import check_here, describe, processor_spec
from virnucpro_exporter.app.record import Ended, Record, Recorder
from virnucpro_exporter.app.sending import Sending, in_store
from virnucpro_exporter.app.sharing import may_do_parts, sharing_text
from virnucpro_exporter.app.signals import RunSignals
from virnucpro_exporter.app.summary import failures_text, plan_text, summary_text
from virnucpro_exporter.app.views import AGAIN, RESUMES, linger, reserve, show
from virnucpro_exporter.app.workforce import cluster_at_hand, workforce
from virnucpro_exporter.config import (
    Cluster,
    Inputs,
    Metrics,
    Processor,
    RunConfig,
    Scheduling,
    Views,
    run_config,
)
from virnucpro_exporter.config.keywords import RunOptions
from virnucpro_exporter.errors import (
    HaltedError,
    JournalError,
    NoWorkerError,
    OutputError,
    ProcessorError,
    StorageError,
    UploadError,
    UsageError,
    VirnucproError,
)
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.execution.halting import parse_halt
from virnucpro_exporter.execution.runner import Runner, Terms
from virnucpro_exporter.files.inputs import Inputs as Found
from virnucpro_exporter.files.lock import RunLock
from virnucpro_exporter.files.outputs import RECORD, Outputs
from virnucpro_exporter.journal.writer import Journal
from virnucpro_exporter.metrics.collectors import Published
from virnucpro_exporter.overview.findings import draining
from virnucpro_exporter.scheduling.assignment import assign_files_weighted
from virnucpro_exporter.snapshot import GpuSnapshot, RunResult, RunSnapshot, RunState
from virnucpro_exporter.stores import urls
from virnucpro_exporter.stores.paths import path_of
from virnucpro_exporter.text import counted
from virnucpro_exporter.web.discovery import NodeDiscovery
from virnucpro_exporter.workers import orphans

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from virnucpro_exporter.cluster.connect import Handle, Scheduled

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

log = logging.getLogger(__name__)

# With this switch interval a thread that renders or serves delays a decision by 0.2 ms at most.
SWITCH_SECONDS = 0.0002

# So many objects are made before the garbage collector looks for the first time; Python's own 700
# are less than one look at a thousand GPUs makes. It then takes passing objects for lasting ones,
# and goes through all objects again and again, for half a second where there are a million files.
COLLECT_AFTER = 50_000

# All files have their results, but GPUs were given up on the way.
GIVEN_UP_STATUS = 4

# The run loop takes a signal at its next turn; that is waited for so long, in seconds.
_DRAIN_SECONDS = 2.0
_LOOK_SECONDS = 0.02
_BEFORE_DRAINING = (RunState.STARTING, RunState.RUNNING)
_ENDED = (RunState.COMPLETED, RunState.FAILED)

# Workers that are idle at the end get so long to give back what they hold.
_CLOSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Finished:
    """How a run ended.

    Attributes:
        snapshot: The last one.
        exit_code: What the program returns.
        error: Why files are left that no worker can process, or None.
        notice: A warning about a run that left no files, in one line, or empty.
    """

    snapshot: RunSnapshot
    exit_code: int
    error: VirnucproError | None = None
    notice: str = ""

    @property
    def summary(self) -> str:
        """What the run did, in a few lines."""
        return summary_text(self.snapshot)

    @property
    def failures(self) -> str:
        """What it could not do, a line for each file; empty when it did all."""
        return failures_text(self.snapshot)


def steady_clock(
    clock: Callable[[], float] = time.monotonic, wall_clock: Callable[[], float] = time.time
) -> Callable[[], float]:
    """Unix seconds for the journal of one run.

    They advance evenly when the clock of the machine is set: this changes no duration, and no file
    ends before it began.
    """
    offset = wall_clock() - clock()
    return lambda: clock() + offset


def keep_pace() -> None:
    """Let neither another thread nor the garbage collector of this process delay decisions."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(COLLECT_AFTER)


def own_process() -> None:
    """This process belongs to the run alone: it adopts what dead workers leave, and ends it."""
    orphans.adopt()


def plan(config: RunConfig) -> str:
    """What each device would be given at the start, as text for `--dry-run`."""
    if config.cluster.is_used:
        raise UsageError("--dry-run does not work with a Dask cluster; remove one of the two")
    config = config.model_copy(update={"inputs": with_sheet(config.inputs, config.processor)})
    spec = _spec(config.processor, config.scheduling, config.cluster)
    outputs = output_folder(config.inputs)
    inputs = _find(config.inputs, config.views, config.metrics, outputs, output_names(spec))
    with devices(config.devices) as (found, _):
        files = measure([path_of(file.path) for file in inputs.files], config.inputs.count)
        by_id = assign_files_weighted(files, {d.gpu: d.weight for d in found})
        plan = plan_text({device: by_id[device.gpu] for device in found})
        if len(found) < 2:
            return plan
        paths = [file.path for file in inputs.files]
        return f"{plan}\n{sharing_text(spec, config.scheduling, paths)}"


def run(
    config: RunConfig,
    tell: Callable[[Finished], None] = lambda _: None,
    scheduled: Scheduled | None = None,
) -> Finished:
    """Run all files and serve what happens meanwhile.

    Args:
        config: What to run, and how.
        tell: Called at the end of the run, before the endpoint lingers: the workers are gone, the
            output folder is free and the terminal is given back.
        scheduled: The Dask cluster that the caller has at hand, if it has one.

    Raises:
        VirnucproError: The run cannot start, or cannot go on.
    """
    keep_pace()
    began = time.monotonic()
    halt = parse_halt(config.scheduling.halt)
    config = config.model_copy(update={"inputs": with_sheet(config.inputs, config.processor)})
    spec = _spec(config.processor, config.scheduling, config.cluster)
    outputs = output_folder(config.inputs)
    with contextlib.ExitStack() as views, contextlib.ExitStack() as stack:
        folder = registry_folder(config.metrics)
        # A run on a cluster has a page about its nodes, so that it needs an endpoint of its own.
        is_shown = is_served(folder) and not config.cluster.is_used
        name = run_name(config.metrics, outputs.folder)
        reserved = reserve(config.metrics, views, run=name, is_shown_elsewhere=is_shown)
        outputs.prepare()
        stack.enter_context(contextlib.closing(RunLock(outputs.lock)))
        entry = views.enter_context(
            announced(
                folder,
                RunSnapshot(time.time(), name=name, processor=config.processor.name),
                outputs.folder,
            )
        )
        names = output_names(spec)
        sending = stack.enter_context(in_store(outputs, config.scheduling.storage_patience))
        inputs = _find(config.inputs, config.views, config.metrics, outputs, names)
        predictions = predictions_of(config.inputs, spec, inputs, outputs)
        stack.enter_context(_tidied(outputs))
        work = workforce(
            config.devices,
            config.cluster,
            config.metrics,
            config.scheduling.stall_threshold,
            spec,
            outputs,
            views,
            stack,
            scheduled=scheduled,
            environment=urls.environment(config.inputs.paths),
        )
        journal = stack.enter_context(
            contextlib.closing(
                Journal(outputs, fresh=bool(config.inputs.fresh), does_parts=may_do_parts(spec))
            )
        )
        journal.agree(describe(spec), keep=config.inputs.fresh is False)
        gpus = [device.gpu for device in work.devices]
        listing = _listing(config.inputs, journal, inputs, names, gpus, outputs, began)
        is_missing_inputs = bool(inputs.unread)
        del inputs  # 220 bytes a file that are not needed once all were looked at
        coordinator = WorkStealingCoordinator(
            {device.gpu: device.weight for device in work.devices},
            names={device.gpu: device.name for device in work.devices},
            balancer=config.scheduling.balancer,
            settings=config.scheduler_settings(),
            processor=config.processor.name,
            name=name,
            first_attempt=journal.next_attempt(),
            done_before=journal.done_before(),
        )
        coordinator.expect(listing.awaited)
        entry.follow(coordinator.latest)
        clock = steady_clock()
        record = Record(coordinator.run_id, clock(), work.devices, config.flat())
        recorder = _begin(journal, Recorder(spec, outputs), record, sending)
        shown = show(
            config.views,
            config.metrics,
            reserved,
            views,
            coordinator,
            _shown_gpus(config.cluster, work.monitor, coordinator),
            outputs.folder,
            NodeDiscovery(work.nodes, config.cluster.dask_exporter_port),
        )
        entry.served_by(shown.server)
        terms = Terms(time.monotonic, config.scheduling.storage_patience, halt)
        runner = Runner(
            *(coordinator, work.pool, gpus, outputs, journal, clock, terms),
            movers=None if sending.is_used else work.movers,
        )
        signals = RunSignals(lambda: _drain(runner, coordinator, signals), runner.stop)
        views.enter_context(signals)
        stack.callback(signals.detach)
        runner.run(feed=listing)
        if not runner.was_stopped:
            work.pool.close_idle(_CLOSE_SECONDS)
        finished = _sent(
            _outcome(coordinator.snapshot(), runner, signals, is_missing_inputs=is_missing_inputs),
            lambda: sending.finish(lambda: runner.was_stopped),
        )
        finished = _leave(finished, predictions, recorder, journal, signals, clock(), sending)
        entry.end(_conclude(coordinator, finished, signals, journal, clock()))
        stack.close()
        shown.dashboard.stop()
        tell(finished)
        linger(config.metrics, signals, shown.server)
        return finished


def _spec(processor: Processor, scheduling: Scheduling, cluster: Cluster) -> dict[str, Any]:
    """The settings of the processor for the workers, after checking that it exists here."""
    spec = processor_spec(processor, scheduling)
    if not cluster.is_used:  # on a cluster, code may be where its nodes are, and not here
        check_here(spec)
    return spec


def _drain(runner: Runner, coordinator: WorkStealingCoordinator, signals: RunSignals) -> None:
    """Start no more files, and print what follows in a thread: the next signal must not wait."""
    runner.drain()
    name = signal.Signals(signals.caught[0]).name
    threading.Thread(target=_announce, args=(coordinator, name), daemon=True).start()


def _announce(coordinator: WorkStealingCoordinator, name: str) -> None:
    """Log what a draining run still does, as soon as its loop has taken the signal."""
    end = time.monotonic() + _DRAIN_SECONDS
    while (run := coordinator.latest()).state in _BEFORE_DRAINING and time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
    if run.end is None and run.state not in _ENDED:
        again = AGAIN if name == "SIGINT" else f"send {name} again to stop now; {RESUMES}"
        log.warning("%s: %s; %s", name, draining(run), again)


def _shown_gpus(
    cluster: Cluster,
    gpus: Published[GpuSnapshot] | None,
    coordinator: WorkStealingCoordinator,
) -> Published[GpuSnapshot] | None:
    """The GPUs that the run uses; on a cluster, all of its nodes."""
    if gpus is None or cluster.is_used:
        return gpus
    return OwnGpus(gpus, coordinator)


@contextlib.contextmanager
def _tidied(outputs: Outputs) -> Iterator[None]:
    """Remove what losing attempts left, once no worker writes any more.

    After an error all is kept: the next run may have to move an output that won.
    """
    yield
    outputs.clean()


def _listing(
    options: Inputs,
    journal: Journal,
    inputs: Found,
    names: Names,
    gpus: Sequence[str],
    outputs: Outputs,
    began: float,
) -> Listing:
    """The files, to be looked at while the run goes on."""
    earlier = journal.begin_plan([(file.path, file.real) for file in inputs.files], names)
    files = inputs.files
    parts = looked_at(files, earlier, options.count)
    aim = f"on {counted(len(gpus), 'worker')}, into {outputs.shown}"
    return Listing(
        *(journal, parts, len(files), aim, began),
        done_after=lambda seen: done_before(files[seen:], earlier),
    )


def _find(inputs: Inputs, views: Views, metrics: Metrics, outputs: Outputs, names: Names) -> Found:
    """The input files, none of which anything that the run writes would replace."""
    log_path = views.log_path(outputs.folder)
    written = [path for path in (log_path, metrics.textfile) if path is not None]
    for path in written:
        outputs.reserve(path)
    found = find_files(inputs, outputs, names)
    reals = {os.path.realpath(path): path for path in written}
    for file in found.files:
        if file.real in reals:
            raise UsageError(f"{str(reals[file.real])!r} is an input and would be overwritten")
    for line in found.lines():
        log.warning("%s", line)
    return found


def _outcome(
    snapshot: RunSnapshot, runner: Runner, signals: RunSignals, *, is_missing_inputs: bool
) -> Finished:
    left = snapshot.files_queued + snapshot.files_processing
    if signals.caught:
        notice = f"{counted(left, 'file')} left; {RESUMES}" if left else ""
        return Finished(snapshot, 128 + signals.caught[0], notice=notice)
    if early := _early_end(runner):
        return Finished(snapshot, early.exit_code, early)
    if left:
        has_begun = any(worker.busy_seconds > 0 for worker in snapshot.workers)
        last_loss = runner.last_loss.replace(f"{ProcessorError()}: ", "", 1)
        error = (NoWorkerError if has_begun else ProcessorError)(last_loss)
        return Finished(snapshot, error.exit_code, error)
    is_whole = snapshot.state is RunState.COMPLETED and not is_missing_inputs
    lost = ", ".join(f"{worker} ({reason})" for worker, reason in runner.given_up.items())
    notice = f"given up: {lost}" if lost else ""
    status = 1 if not is_whole else GIVEN_UP_STATUS if lost else 0
    return Finished(snapshot, status, notice=notice)


def _begin(journal: Journal, recorder: Recorder, record: Record, sending: Sending) -> Recorder:
    """Note that the run starts; from now on what it leaves is not whole."""
    journal.begin(record.run_id, record.options, record.started)
    try:
        recorder.begin(record)
    except OSError as error:
        raise OutputError(f"{RECORD}: {error.strerror}") from error
    sending.begin()
    return recorder


def _conclude(
    coordinator: WorkStealingCoordinator,
    finished: Finished,
    signals: RunSignals,
    journal: Journal,
    now: float,
) -> RunSnapshot:
    """Record the result of the run in the journal and in its last snapshot, which is returned."""
    result, error = _result(finished, signals), str(finished.error or "")
    snapshot = coordinator.conclude(result, finished.exit_code, error)
    journal.finish("interrupted" if signals.caught else snapshot.state.value, now)
    return snapshot


def _sent(finished: Finished, send: Callable[[], None]) -> Finished:
    """How a run ended, after its results were sent to a store or not."""
    try:
        send()
    except UploadError as error:
        if finished.exit_code == 0:
            return replace(finished, exit_code=error.exit_code, error=error)
        log.warning("%s", error)  # what ended the run comes first
    return finished


def _leave(
    finished: Finished,
    predictions: Predictions | None,
    recorder: Recorder,
    journal: Journal,
    signals: RunSignals,
    now: float,
    sending: Sending,
) -> Finished:
    """Write the tables of a run and its record; returns the result, which they may change."""
    if isinstance(finished.error, UploadError):  # there are results that are not where it says
        return finished
    tables = Tables()
    # An interrupted run ends soon, without the tables; their rows are kept.
    if predictions is not None and not signals.caught:
        tables = predictions.write(journal)
        finished = _with_tables(finished, tables)
    if tables.error is not None:  # there is no record of half the tables
        return finished
    state, snapshot = _result(finished, signals).value, finished.snapshot
    try:
        recorder.write(
            Ended(now, state, finished.exit_code, snapshot, tables.names), journal.finished()
        )
    except (OSError, JournalError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        why = StorageError(f"{RECORD}: {reason}; the same command writes it")
        if finished.exit_code == 0:
            return replace(finished, exit_code=why.exit_code, error=why)
        log.warning("%s", why)  # what ended the run comes first
    return _sent(finished, lambda: sending.send_last(tables.names))


def _with_tables(finished: Finished, tables: Tables) -> Finished:
    """How the run ended, after its tables were written or not."""
    error = tables.error
    if error is not None and finished.error is None:
        return replace(finished, exit_code=error.exit_code, error=error)
    notices = [text for text in (finished.notice, tables.notice) if text]
    status = finished.exit_code or (1 if tables.notice else 0)
    return replace(finished, exit_code=status, notice="; ".join(notices))


def _result(finished: Finished, signals: RunSignals) -> RunResult:
    if signals.caught:
        return RunResult.INTERRUPTED
    is_whole = finished.exit_code in (0, GIVEN_UP_STATUS)
    return RunResult.COMPLETED if is_whole else RunResult.FAILED


def _early_end(runner: Runner) -> VirnucproError | None:
    """Why the run has ended before its files had."""
    if runner.storage_failure:
        return StorageError(runner.storage_failure)
    return HaltedError(runner.halted) if runner.halted else None


def run_files(
    inputs: Paths,
    output: str | os.PathLike[str],
    processor: str | Callable[..., Any] = "translate",
    *,
    dask: Handle | str | None = None,
    **options: Unpack[RunOptions],
) -> RunSnapshot:
    """Process files on all GPUs (or CPU slots) of this machine or of a Dask cluster, from Python.

    Args:
        inputs: A file, a folder or a pattern, or several of them.
        output: Folder for the results.
        processor: `virnucpro`, `translate`, `esm2`, `dnabert`, `command`, `package.module:name` of
            a class or function, or a class or function itself, at the top of a module or script.
        dask: Work on a Dask cluster: a connected `distributed.Client`, a cluster such as
            `LocalCUDACluster` or those of dask-jobqueue, or the address of a scheduler. The
            cluster and its other users are not affected.
        options: Any other setting of `virnucpro-exporter run`, with `_` for `-`. Metrics are served
            only with `web=True`.

    Returns:
        The state of the run at its end; `failures` lists the failed files.

    Raises:
        VirnucproError: The run cannot start, or files are left without a worker.
    """
    scheduled = None if dask is None or isinstance(dask, str) else cluster_at_hand(dask)
    given: dict[str, Any] = {"web": False, "metrics_log": None, "dashboard": False, **options}
    if dask is not None:
        given["dask"] = dask if scheduled is None else scheduled.address
    given |= {"inputs": inputs, "output": output, "processor": _name_of(processor)}
    finished = run(run_config(_plain(given)), scheduled=scheduled)
    if finished.error is not None:
        raise finished.error
    return finished.snapshot


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options from Python as the table has them: paths as texts, and one input as a list."""
    plain = {name: _texts(value) for name, value in options.items()}
    for name in ("inputs", "web_listen_address", "push_grouping"):
        if isinstance(plain.get(name), str):
            plain[name] = [plain[name]]
    return plain


def _texts(value: Any) -> Any:
    """Paths as texts, also those in a list; anything else as it is."""
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, list | tuple):
        return [_texts(one) for one in value]
    return value


def _name_of(processor: str | Callable[..., Any]) -> Any:
    """The name by which workers load a class or function.

    Raises:
        ProcessorError: They cannot.
    """
    name = getattr(processor, "__qualname__", None)
    if isinstance(processor, str) or name is None:
        return processor
    if "<" in name:  # <locals>, <lambda>
        raise ProcessorError(
            f"{name}: workers import it by name; define it at the top level of a module"
        )
    return f"{processor.__module__}:{name}"
