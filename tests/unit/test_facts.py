"""The scheduler says everything once: what its consumers make of facts, and who may change what."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests import events as said
from tests import facts
from virnucpro_exporter.app.explain import explain_text
from virnucpro_exporter.app.simulate import NoResults
from virnucpro_exporter.errors import InputError
from virnucpro_exporter.execution.coordinator import WorkStealingCoordinator
from virnucpro_exporter.execution.log_lines import log_line
from virnucpro_exporter.execution.runner import Runner
from virnucpro_exporter.files.lock import RunLock
from virnucpro_exporter.files.outputs import Outputs
from virnucpro_exporter.history import Outcome
from virnucpro_exporter.journal.earlier import InputFile
from virnucpro_exporter.journal.history import read_history
from virnucpro_exporter.journal.writer import Journal
from virnucpro_exporter.report.summary import summarize
from virnucpro_exporter.scheduling import commands as co
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling import facts as fa
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.ids import WorkerId
from virnucpro_exporter.scheduling.scheduler import Scheduler
from virnucpro_exporter.scheduling.settings import OnStall, SchedulerSettings
from virnucpro_exporter.simulation import VirtualGpu, VirtualPool, VirtualWorkers, timeless

PACKAGE = Path(__file__).parents[2] / "virnucpro_exporter"
FILE = SequenceFile("/in/a.fa", 10, 1000)


def play(
    tmp_path: Path, speeds: dict[str, float], work: dict[str, int], settings: SchedulerSettings
) -> tuple[WorkStealingCoordinator, Outputs]:
    """A whole run of virtual workers with a journal, in no time; weights are all 1."""
    outputs = Outputs(tmp_path / "out")
    outputs.prepare()
    workers = VirtualWorkers({gpu: VirtualGpu(speed) for gpu, speed in speeds.items()}, 1.0)
    workers.add(work, {})
    pool = VirtualPool(workers, clock=timeless())
    coordinator = WorkStealingCoordinator(
        dict.fromkeys(speeds, 1.0),
        settings=settings,
        clock=pool.now,
        wall_clock=lambda: pool.now() + 1000.0,
    )
    with closing(Journal(outputs)) as journal:
        journal.plan([InputFile(path, 1, 1) for path in work])
        journal.begin("run", {}, now=1000.0)
        files = [SequenceFile(path, None, residues) for path, residues in work.items()]
        runner = Runner(
            coordinator, pool, list(speeds), NoResults(), journal, lambda: pool.now() + 1000.0
        )
        runner.run(files)
        journal.finish(coordinator.snapshot().state.value, pool.now() + 1000.0)
    return coordinator, outputs


def test_a_timed_out_attempt_is_a_failure_in_every_view(tmp_path: Path) -> None:
    """Summary, report and journal count the same retries and failures, with the reason."""
    settings = SchedulerSettings(file_timeout=5.0, max_attempts=2, second_attempts=False)
    coordinator, outputs = play(tmp_path, {"0": 10.0}, {"/slow.fa": 1000}, settings)
    run = coordinator.snapshot()
    report = summarize(read_history(outputs.folder, now=2000.0), None)
    assert (run.retries, run.files_failed, run.workers[0].file_failures) == (1, 1, 2)
    assert (report.retries, len(report.failed), report.gpus[0].wasted) == (1, 1, 2)
    assert [(a.outcome, a.error) for a in report.attempts] == [
        (Outcome.TIMED_OUT, "took longer than the limit of 5 s")
    ] * 2
    assert all(a.ended - a.started == pytest.approx(5.0) for a in report.attempts)
    told = explain_text(str(outputs.folder), ["slow.fa"]).splitlines()
    error = "took longer than the limit of 5 s"
    assert told[0] == f"/slow.fa: given up after 2 failed attempts: {error}"
    ended = f"its attempt on GPU 0 timed out: {error}"
    assert [line[23:] for line in told[1:]] == ["GPU 0 began it", ended] * 2


def test_a_file_that_moves_has_not_failed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A healthy move is no warning, no error in the journal and no retry."""
    caplog.set_level(logging.INFO)
    work = {f"/{i}.fa": 2000 for i in range(40)} | {"/large.fa": 30_000}
    coordinator, outputs = play(
        tmp_path, {"0": 20.0, "1": 1000.0, "2": 1000.0}, work, SchedulerSettings()
    )
    moved = [
        attempt
        for attempt in read_history(outputs.folder, now=1e6).attempts
        if attempt.outcome is Outcome.MOVED
    ]
    assert moved
    assert not any(attempt.is_failure for attempt in moved)
    assert coordinator.snapshot().retries == 0
    assert summarize(read_history(outputs.folder, now=1e6), None).retries == 0
    told = [r for r in caplog.records if "moved from GPU 0 to GPU" in r.getMessage()]
    assert {record.levelno for record in told} == {logging.INFO}
    assert not [r for r in caplog.records if "will be retried" in r.getMessage()]
    explained = explain_text(str(outputs.folder), [moved[0].path])
    assert "its attempt on GPU 0 was taken back: it would end sooner" in explained
    assert "rebalanced from GPU" in explained
    assert explained.splitlines()[0].startswith(f"{moved[0].path}: completed on GPU ")


@pytest.mark.parametrize("failures", [1, 3])
def test_a_file_is_given_up_after_so_many_failures(failures: int) -> None:
    """What counts is what counts against the limit, not the attempts that were stopped."""
    fact = fa.FileFailed(FILE, facts.worker("0"), 7, failures, failures, "no")
    line = log_line(fact)
    times = "1 failed attempt" if failures == 1 else "3 failed attempts"
    assert line.text % line.values == f"'/in/a.fa' is given up after {times}: no"


def started_twice() -> Scheduler:
    """Worker 0 holds the file and stalls; worker 1 is about to come up."""
    settings = SchedulerSettings(10.0, OnStall.RETRY, second_attempts=False)
    scheduler = Scheduler({"0": 1.0, "1": 1.0}, settings=settings)
    scheduler.handle(ev.FilesSubmitted((FILE,)), 0.0)
    scheduler.handle(said.ready("0"), 0.0)
    scheduler.handle(said.started("0", 1), 0.0)
    scheduler.handle(ev.TimePassed(), 10.0)
    return scheduler


def test_a_start_that_its_turn_cancels_is_never_sent(tmp_path: Path) -> None:
    """The second attempt starts in the turn in which the first completes: no command tells of it.

    The facts keep their order, so that the file is not in process again once it has its result.
    """
    scheduler = started_twice()
    done = said.completed("0", 1, 10, 1000, 11.0, ("a.out",))
    decisions = scheduler.turn([said.ready("1"), done], 11.0)
    assert decisions.commands == [co.KeepOutputs(WorkerId("0"), FILE, facts.number(1), ("a.out",))]
    assert [type(fact).__name__ for fact in decisions.facts] == [
        "FileStarted",
        "StallEnded",
        "AttemptEnded",
        "AttemptEnded",
        "FileCompleted",
        "RunFinished",
    ]
    assert not scheduler.state.workers["1"].inflight
    assert scheduler.state.workers["1"].busy_since is None
    outputs = Outputs(tmp_path / "out")
    outputs.prepare()
    with closing(Journal(outputs)) as journal:
        journal.plan([InputFile(FILE.path, 1, 1)])
        journal.begin("run", {}, now=0.0)
        journal.record(decisions.facts, now=11.0)
    assert read_history(outputs.folder, now=20.0).counts == {"committing": 1}


def test_a_file_that_waits_is_explained(tmp_path: Path) -> None:
    """What is before it, and what it has been through; a name that is not known is one line."""
    outputs = Outputs(tmp_path / "out")
    outputs.prepare()
    files = [SequenceFile(f"/in/{n}.fa", 1, n) for n in range(4)]
    with closing(RunLock(outputs.lock)), closing(Journal(outputs)) as journal:
        journal.plan([InputFile(file.path, 1, 1) for file in files])
        journal.add_counts({file.path: (1, file.residues) for file in files})
        journal.begin("run", {"max_attempts": 3}, now=0.0)
        journal.record([facts.started("0", 1, files[1]), facts.started("1", 2, files[0])], 5.0)
        ended = facts.ended("0", 1, files[1], fa.Outcome.FAILED, "odd", is_charged=True)
        journal.record([ended, facts.queued("0", files[1], "odd")], 6.0)
        told = explain_text(str(outputs.folder), ["/in/1.fa", "0.fa"], now=65.0).splitlines()
        with pytest.raises(
            InputError, match=r"'x\.fa' was not an input of any run into this folder"
        ):
            explain_text(str(outputs.folder), ["x.fa"])
    assert told[0] == (
        "/in/1.fa: 1 failed attempt of 3 (last error: odd); waiting: 1 file "
        "in process, and 2 other files waiting, 2 of which are larger and go first"
    )
    assert told[4] == "/in/0.fa: in process on GPU 1 for 1m00s"
    after = explain_text(str(outputs.folder), ["/in/2.fa"])
    assert after == "/in/2.fa: waiting, but no run is active; the same command processes it"


def test_the_metric_and_the_method_agree_about_imbalance() -> None:
    """At each moment of a run, with workers that load, leave and drain, and with callers."""
    now = 0.0
    run = WorkStealingCoordinator({"0": 1.0, "1": 2.5, "2": 1.0}, clock=lambda: now)
    seen = set()
    steps: list[ev.Event] = [
        ev.FilesSubmitted(tuple(SequenceFile(f"/{i}", 1, 100) for i in range(30))),
        said.loading("0"),
        said.ready("1"),
        said.ready("0"),
        said.lost("1", "gone", ev.LossCause.LEFT_CLUSTER),
        said.ready("2"),
        *(said.completed("0", n, 1, 100, 1.0) for n in range(1, 12)),
        ev.DrainRequested(),
    ]
    for step in steps:
        run.handle([step])
        seen.add(run.detect_load_imbalance())
        assert run.detect_load_imbalance() == run.snapshot().load_imbalanced, step
    assert seen == {True, False}


# The consumers of what the scheduler says, and of what it is told.
CONSUMERS = {
    "execution/log_lines.py": "log_line",
    "execution/runner.py": "_carry_out",
    "journal/schema.py": "writing",
    "report/timeline.py": "fate",
    "scheduling/scheduler.py": "_take_in",
    "simulation/virtual_run.py": "_carry_out",
}


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield node


@pytest.mark.parametrize(("module", "name"), CONSUMERS.items())
def test_a_consumer_that_forgets_a_kind_fails_type_checking(module: str, name: str) -> None:
    """Each is one `match` whose last case is `assert_never`, and none is a table of functions."""
    (consumer,) = (f for f in functions(PACKAGE / module) if f.name == name)
    (match,) = (node for node in ast.walk(consumer) if isinstance(node, ast.Match))
    (last,) = match.cases[-1].body
    assert ast.unparse(match.cases[-1].pattern) == "_"
    assert ast.unparse(last).startswith("assert_never(")
    assert "dict[type" not in (PACKAGE / module).read_text(encoding="utf-8")


def test_two_modules_change_the_state_of_the_run() -> None:
    """Elsewhere in the room, nothing is assigned to but what is one's own."""
    foreign = [
        f"{path.name}:{node.lineno}: {ast.unparse(target)}"
        for path in sorted((PACKAGE / "scheduling").glob("*.py"))
        if path.name not in ("state.py", "splitting.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete)
        for target in (
            node.targets if isinstance(node, ast.Assign | ast.Delete) else (node.target,)
        )
        for part in ast.walk(target)
        if isinstance(part, ast.Attribute) and not ast.unparse(part).startswith("self.")
    ]
    assert foreign == []


def test_a_lack_of_memory_is_counted_and_logged() -> None:
    """It is no failure of a file: the worker goes on with smaller batches."""
    scheduler, worker_id = Scheduler({"0": 1.0, "1": 1.0}), facts.worker("1")
    found = [
        fact
        for times in (1, 2)
        for fact in scheduler.handle(ev.MemoryShort(worker_id, times), 1.0).facts
    ]
    assert found == [fa.MemoryRanShort(worker_id, 1), fa.MemoryRanShort(worker_id, 3)]
    assert [w.counters.shortages for w in scheduler.state.fleet] == [0, 3]
    line = log_line(found[-1])
    assert line.level == logging.WARNING
    assert line.text % line.values == (
        "GPU 1 ran out of memory (3 times so far) and reduces its batch size"
    )
