"""Random histories against the laws of the scheduler."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests import events as said
from tests.facts import everything
from virnucpro_exporter.scheduling import commands as co
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling import facts as fa
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.ids import WorkerId
from virnucpro_exporter.scheduling.laws import check_invariants, check_nobody_idles
from virnucpro_exporter.scheduling.policy import EarliestFinish, NoStealing
from virnucpro_exporter.scheduling.scheduler import Scheduler
from virnucpro_exporter.scheduling.settings import OnStall, SchedulerSettings
from virnucpro_exporter.scheduling.snapshot import RunContext, take_snapshot
from virnucpro_exporter.snapshot import WorkerSnapshot

# What a worker's snapshot says that may go down.
_NOT_COUNTERS = {"weight", "queue_depth", "queue_residues", "inflight_files"}


def counters(worker: WorkerSnapshot) -> dict[str, float]:
    """All that a worker's life adds up to."""
    values = {name: getattr(worker, name) for name in WorkerSnapshot.__dataclass_fields__}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float)
        and name not in _NOT_COUNTERS
        and not name.startswith(
            (
                "is_",
                "current_",
                "throughput",
                "residues_per",
                "last_",
                "stall_deadline",
                "seconds_left",
                "residue_throughput",
            )
        )
    }


class SchedulerMachine(RuleBasedStateMachine):
    """Workers that do anything a worker may do, in any order, with time going on."""

    @initialize(
        on_stall=st.sampled_from(OnStall),
        is_reporting=st.booleans(),
        is_static=st.booleans(),
        is_pull=st.booleans(),
        timeout=st.sampled_from([None, 40.0]),
        first=st.integers(1, 1000),
    )
    def start(
        self,
        on_stall: OnStall,
        is_reporting: bool,
        is_static: bool,
        is_pull: bool,
        timeout: float | None,
        first: int,
    ) -> None:
        self.now = 0.0
        self.is_pull = is_pull
        self.scheduler = Scheduler(
            {"0": 1.0, "1": 2.5, "2": 0.5},
            settings=SchedulerSettings(
                stall_threshold=30.0,
                on_stall=on_stall,
                max_attempts=2,
                file_timeout=timeout,
                setup_timeout=20.0,
                reports_progress=is_reporting,
                second_attempts=not is_pull,
            ),
            policy=NoStealing() if is_static else EarliestFinish(),
            first_attempt=first,
        )
        self.submitted = self.skipped = self.awaited = 0
        self.held: dict[str, list[int]] = {gpu: [] for gpu in ("0", "1", "2")}
        self.up: set[str] = set(self.held) if is_pull else set()
        self.startable = set() if is_pull else set(self.held)
        self.results: Counter[str] = Counter()
        self.given: Counter[int] = Counter()
        self.totals: dict[str, dict[str, float]] = {}

    def tell(self, event: ev.Event) -> None:
        state = self.scheduler.state
        is_drained, looks = state.is_draining, self.now >= state.next_rethink
        for action in everything(self.scheduler.handle(event, self.now)):
            if isinstance(action, co.StartAttempt):
                assert action.worker_id in self.up, "a file was given to a worker that is not up"
                assert not is_drained, "a file was started after a drain"
                self.held[action.worker_id].append(action.attempt)
                self.given[action.attempt] += 1
                assert self.given[action.attempt] == 1, "an attempt has a number of its own"
            elif isinstance(action, co.RestartWorker | co.RetireWorker):
                self.up.discard(action.worker_id)
                self.held[action.worker_id].clear()
                self.startable.discard(action.worker_id)
                if isinstance(action, co.RestartWorker):
                    self.startable.add(action.worker_id)
            elif isinstance(action, fa.FileCompleted | fa.FileFailed):
                self.results[action.file.path] += 1
            elif isinstance(action, fa.RunFinished):
                assert not state.processing, "the run ended with a file in process"
                cannot = state.is_draining or len(self.gone()) == len(self.held)
                assert cannot or not self.awaited, "the run ended before all files were known"
        if isinstance(event, ev.TimePassed) and looks:
            check_nobody_idles(self.scheduler, self.now)

    @rule(
        costs=st.lists(st.integers(1, 10_000), min_size=1, max_size=8),
        again=st.booleans(),
        skipped=st.integers(0, 2),
        awaited=st.sampled_from([0, 0, 0, 3]),
    )
    def submit(self, costs: list[int], *, again: bool, skipped: int, awaited: int) -> None:
        files = [SequenceFile(f"/{self.submitted + i}.fa", 10, c) for i, c in enumerate(costs)]
        self.submitted += len(files)
        self.skipped += skipped
        self.awaited = awaited
        known = list(self.scheduler.state.files.values())[:1] if again else []
        done = tuple(SequenceFile(f"/done{i}", 10, 10) for i in range(skipped))
        self.tell(
            ev.FilesSubmitted((*files, *(record.file for record in known)), done, awaited),
        )

    @rule(seconds=st.sampled_from([0.0, 0.001, 1.0, 12.5, 31.0]))
    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        deadline = self.scheduler.next_deadline()
        while deadline is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.tell(ev.TimePassed())
            deadline = self.scheduler.next_deadline()
            assert deadline is None or deadline > self.now, "a deadline was met and stays"
        self.now = end

    @precondition(lambda self: self.startable)
    @rule(data=st.data())
    def come_up(self, data: st.DataObject) -> None:
        gpu = data.draw(st.sampled_from(sorted(self.startable)))
        self.startable.discard(gpu)
        self.up.add(gpu)
        if not self.is_pull:
            self.tell(said.ready(gpu))

    @precondition(lambda self: self.startable and not self.is_pull)
    @rule(data=st.data())
    def load(self, data: st.DataObject) -> None:
        self.tell(said.loading(data.draw(st.sampled_from(sorted(self.startable)))))

    @precondition(lambda self: any(self.held[g] for g in self.up))
    @rule(data=st.data())
    def live(self, data: st.DataObject) -> None:
        gpu = data.draw(st.sampled_from(sorted(g for g in self.up if self.held[g])))
        self.tell(said.alive(gpu, self.held[gpu][0]))

    @precondition(lambda self: len(self.held) < 5)
    @rule(weight=st.sampled_from([0.3, 1.0, 4.0]))
    def join(self, weight: float) -> None:
        gpu = str(len(self.held))
        self.held[gpu] = []
        self.startable.add(gpu)
        self.tell(said.joined(gpu, "a model", weight))

    @precondition(lambda self: self.gone())
    @rule(data=st.data())
    def return_(self, data: st.DataObject) -> None:
        gpu = data.draw(st.sampled_from(self.gone()))
        self.startable.add(gpu)
        self.tell(said.joined(gpu, "a model", 1.0))

    def gone(self) -> list[str]:
        return [worker.id for worker in self.scheduler.state.fleet if worker.is_retired]

    @precondition(lambda self: self.is_pull and self.up)
    @rule(data=st.data())
    def ask(self, data: st.DataObject) -> None:
        self.tell(said.requested(data.draw(st.sampled_from(sorted(self.up)))))

    @precondition(lambda self: any(self.held[g] for g in self.up))
    @rule(data=st.data(), outcome=st.sampled_from(["start", "progress", "done", "fail", "bad"]))
    def report(self, data: st.DataObject, outcome: str) -> None:
        gpu = data.draw(st.sampled_from(sorted(g for g in self.up if self.held[g])))
        number = self.held[gpu][0]
        if outcome == "start":
            self.tell(said.started(gpu, number))
        elif outcome == "progress":
            done = data.draw(st.integers(0, 20))
            grown = data.draw(st.sampled_from([None, done * 100, done]))
            self.tell(said.progress(gpu, number, done, grown))
        else:
            self.held[gpu].pop(0)
            if outcome == "done":
                known = data.draw(st.booleans())
                sequences, residues = (10, 100) if known else (None, None)
                self.tell(said.completed(gpu, number, sequences, residues, 1.0))
            else:
                self.tell(said.failed(gpu, number, "no", permanent=outcome == "bad"))

    @precondition(lambda self: self.up)
    @rule(data=st.data(), cause=st.sampled_from(ev.LossCause), told=st.booleans())
    def die(self, data: st.DataObject, cause: ev.LossCause, *, told: bool) -> None:
        gpu = data.draw(st.sampled_from(sorted(self.up)))
        running = data.draw(st.sampled_from(self.held[gpu])) if told and self.held[gpu] else None
        self.up.discard(gpu)
        self.held[gpu].clear()
        before = self.failures()
        self.tell(said.lost(gpu, "killed", cause, running))
        is_charged = cause.is_charged
        assert self.failures() - before <= is_charged, "a loss is charged to one file, or to none"

    @precondition(lambda self: not self.is_pull)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        gpu = data.draw(st.sampled_from(sorted(self.held)))
        self.tell(ev.WorkerLeaving(WorkerId(gpu), "its node goes"))

    def leaving(self) -> list[str]:
        return [worker.id for worker in self.scheduler.state.fleet if worker.is_leaving]

    @precondition(lambda self: self.leaving())
    @rule(data=st.data())
    def left(self, data: st.DataObject) -> None:
        self.go(data.draw(st.sampled_from(self.leaving())))

    def go(self, gpu: str) -> None:
        self.up.discard(gpu)
        self.startable.discard(gpu)
        self.held[gpu].clear()
        self.tell(said.lost(gpu, "it has left", ev.LossCause.LEFT_CLUSTER))

    def failures(self) -> int:
        return sum(record.failures for record in self.scheduler.state.files.values())

    @rule(number=st.integers(1, 50), data=st.data())
    def late(self, number: int, data: st.DataObject) -> None:
        gpu = data.draw(st.sampled_from(sorted(self.held)))
        if number not in self.held[gpu]:
            before = self.scheduler.state.late_results
            self.tell(said.completed(gpu, number, 10, 100, 1.0))
            self.tell(said.progress(gpu, number, 10, 100))
            assert self.scheduler.state.late_results == before + 1

    @rule(held=st.booleans())
    def hold_or_release(self, held: bool) -> None:
        self.tell(ev.WorkHeld() if held else ev.WorkReleased())

    @precondition(lambda self: len(self.results) > 5)
    @rule()
    def drain(self) -> None:
        self.tell(ev.DrainRequested())

    @invariant()
    def laws_hold(self) -> None:
        check_invariants(self.scheduler)
        assert set(self.results.values()) <= {1}, "a file has one result"

    @invariant()
    def snapshot_agrees(self) -> None:
        snapshot = take_snapshot(self.scheduler, RunContext(), self.now)
        assert snapshot.files_total == self.submitted + self.skipped + self.awaited
        ended = snapshot.files_completed + snapshot.files_failed
        assert ended == len(self.results) + self.skipped
        if self.awaited:
            assert snapshot.residues_total is None
            assert snapshot.eta_seconds is None or self.scheduler.is_finished
        else:
            assert 0 <= snapshot.residues_done <= (snapshot.residues_total or 0)
        for worker in snapshot.workers:
            now = counters(worker)
            before = self.totals.get(worker.gpu, now)
            fallen = {name: now[name] for name in now if now[name] < before[name] - 1e-9}
            assert not fallen, f"counters of {worker.gpu} went down: {before}, {fallen}"
            self.totals[worker.gpu] = now

    def teardown(self) -> None:
        """Whatever happened, healthy workers bring the run to its end."""
        self.tell(ev.WorkReleased())
        last = tuple(SequenceFile(f"/last{i}", 10, 10) for i in range(self.awaited))
        self.submitted += self.awaited
        self.awaited = 0
        self.tell(ev.FilesSubmitted(last))
        for gpu in self.leaving():
            self.go(gpu)
        for _ in range(300):
            if self.scheduler.is_finished or not self.submitted:
                return
            for gpu in sorted(self.startable):
                self.startable.discard(gpu)
                self.up.add(gpu)
                if not self.is_pull:
                    self.tell(said.ready(gpu))
            for gpu in sorted(self.up):
                if self.is_pull:
                    self.tell(said.requested(gpu))
                if self.held[gpu]:
                    self.tell(said.completed(gpu, self.held[gpu].pop(0), 10, 100, 1.0))
            self.wait(1.0)
            check_invariants(self.scheduler)
        stories = [record.story() for record in self.scheduler.state.files.values()]
        raise AssertionError(f"the run did not end: {stories}")


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=80, stateful_step_count=30)
