"""Random histories against the laws of the scheduler."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.laws import check_invariants
from virnucpro_exporter.scheduling.policy import EarliestFinish, NoStealing
from virnucpro_exporter.scheduling.reporting import RunFacts, take_snapshot
from virnucpro_exporter.scheduling.scheduler import Scheduler
from virnucpro_exporter.scheduling.settings import OnStall, SchedulerSettings

GPUS = ("0", "1", "2")


class SchedulerMachine(RuleBasedStateMachine):
    """Workers that do anything a worker may do, in any order, with time going on."""

    @initialize(
        on_stall=st.sampled_from(OnStall),
        is_static=st.booleans(),
        timeout=st.sampled_from([None, 40.0]),
        first=st.integers(1, 1000),
    )
    def start(
        self,
        on_stall: OnStall,
        is_static: bool,
        timeout: float | None,
        first: int,
    ) -> None:
        self.now = 0.0
        self.scheduler = Scheduler(
            {"0": 1.0, "1": 2.5, "2": 0.5},
            settings=SchedulerSettings(
                stall_threshold=30.0, on_stall=on_stall, max_attempts=2, file_timeout=timeout
            ),
            policy=NoStealing() if is_static else EarliestFinish(),
            first_attempt=first,
        )
        self.submitted = 0
        self.held: dict[str, list[int]] = {gpu: [] for gpu in GPUS}
        self.up: set[str] = set()
        self.startable = set(GPUS)
        self.results: Counter[str] = Counter()
        self.totals: dict[str, tuple[float, ...]] = {}

    def tell(self, event: ev.Event) -> None:
        for action in self.scheduler.handle(event, self.now):
            if isinstance(action, ev.StartAttempt):
                assert action.gpu in self.up, "a file was given to a worker that is not up"
                self.held[action.gpu].append(action.attempt)
            elif isinstance(action, ev.RestartWorker | ev.RetireWorker):
                self.up.discard(action.gpu)
                self.held[action.gpu].clear()
                if isinstance(action, ev.RestartWorker):
                    self.startable.add(action.gpu)
            elif isinstance(action, ev.FileCompleted | ev.FileFailed):
                self.results[action.file.path] += 1

    @rule(costs=st.lists(st.integers(1, 10_000), min_size=1, max_size=8))
    def submit(self, costs: list[int]) -> None:
        files = [SequenceFile(f"/{self.submitted + i}.fa", 10, c) for i, c in enumerate(costs)]
        self.submitted += len(files)
        self.tell(ev.FilesSubmitted(tuple(files)))

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
        self.tell(ev.WorkerReady(gpu))

    def draw_holder(self, data: st.DataObject) -> tuple[str, int]:
        gpu = data.draw(st.sampled_from(sorted(g for g in self.up if self.held[g])))
        return gpu, self.held[gpu][0]

    @precondition(lambda self: any(self.held[g] for g in self.up))
    @rule(data=st.data(), outcome=st.sampled_from(["start", "progress", "done", "fail", "bad"]))
    def report(self, data: st.DataObject, outcome: str) -> None:
        gpu, number = self.draw_holder(data)
        if outcome == "start":
            self.tell(ev.AttemptStarted(gpu, number))
        elif outcome == "progress":
            sequences = data.draw(st.integers(0, 20))
            self.tell(ev.Progress(gpu, number, sequences, sequences * 100))
        else:
            self.held[gpu].pop(0)
            if outcome == "done":
                self.tell(ev.AttemptCompleted(gpu, number, 10, 100, 1.0))
            else:
                self.tell(ev.AttemptFailed(gpu, number, "no", permanent=outcome == "bad"))

    @precondition(lambda self: self.up)
    @rule(data=st.data(), restart=st.booleans(), blame=st.booleans())
    def die(self, data: st.DataObject, *, restart: bool, blame: bool) -> None:
        gpu = data.draw(st.sampled_from(sorted(self.up)))
        self.up.discard(gpu)
        self.held[gpu].clear()
        self.tell(ev.WorkerLost(gpu, "killed", restart=restart, blame=blame))

    @rule(number=st.integers(1, 50), gpu=st.sampled_from(GPUS))
    def late(self, number: int, gpu: str) -> None:
        if number not in self.held[gpu]:
            self.tell(ev.AttemptCompleted(gpu, number, 10, 100, 1.0))

    @invariant()
    def laws_hold(self) -> None:
        check_invariants(self.scheduler)
        assert set(self.results.values()) <= {1}, "a file has one result"

    @invariant()
    def snapshot_agrees(self) -> None:
        snapshot = take_snapshot(self.scheduler, RunFacts(), self.now)
        assert snapshot.files_total == self.submitted
        assert snapshot.files_completed + snapshot.files_failed == len(self.results)
        for worker in snapshot.workers:
            totals = (
                worker.files_completed,
                worker.file_failures,
                worker.sequences_processed,
                worker.residues_processed,
                worker.busy_seconds,
                worker.starved_seconds,
                worker.stalled_seconds,
                worker.restarts,
                worker.stalls,
            )
            before = self.totals.get(worker.gpu, (0,) * len(totals))
            grown = zip(totals, before, strict=True)
            assert all(a >= b - 1e-9 for a, b in grown), f"a counter went down: {before}, {totals}"
            self.totals[worker.gpu] = totals

    def teardown(self) -> None:
        """Whatever happened, healthy workers bring the run to its end."""
        for _ in range(300):
            if self.scheduler.is_finished or not self.submitted:
                return
            for gpu in sorted(self.startable):
                self.startable.discard(gpu)
                self.up.add(gpu)
                self.tell(ev.WorkerReady(gpu))
            for gpu in GPUS:
                if self.held[gpu]:
                    self.tell(ev.AttemptCompleted(gpu, self.held[gpu].pop(0), 10, 100, 1.0))
            self.wait(1.0)
            check_invariants(self.scheduler)
        stories = [record.story() for record in self.scheduler.ledger.files.values()]
        raise AssertionError(f"the run did not end: {stories}")


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
