"""Virtual workers: what their GPUs would do, as events at moments that only their speeds decide."""

from __future__ import annotations

import enum
import heapq
import itertools
import math
from bisect import insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.commands import ShrinkAttempt, StartAttempt
from virnucpro_exporter.scheduling.ids import AttemptNumber, WorkerId
from virnucpro_exporter.scheduling.parts import start_of, stop_of

# A sequence of a virtual file has so many residues: a chunk as VirNucPro cuts them.
RESIDUES_PER_SEQUENCE = 500

# Progress within a long file is reported at least this often, in multiples of `progress_every`.
_LONGEST_SILENCE = 6.0

_BREAKS_OFF_AT = 0.4  # of a file that is bound to


class Reports(enum.Enum):
    """What a virtual processor reports of its progress and of the files it has done."""

    RESIDUES = "residues"  # and sequences
    SEQUENCES = "sequences"  # alone, as a Python function that calls `progress(number)`
    NONE = "none"  # as a command, whose processes are seen to work
    NO_SIGN = "no sign"  # nothing, and nothing is seen of it until a file is done


@dataclass(frozen=True, slots=True, order=True)
class Outage:
    """A time in which a worker does nothing, or less than its speed allows.

    Attributes:
        begin: First second of it.
        end: When work goes on as before.
        death: How the process of the worker ends then, if it does; empty when it lives on.
        is_loss: The GPU itself is gone meanwhile.
        spares_new: A process that is started meanwhile works at once.
        share: Of its speed that the worker keeps meanwhile, 0 to 1: a GPU that is throttled.
    """

    begin: float
    end: float = math.inf
    death: str = ""
    is_loss: bool = False
    spares_new: bool = False
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Mishap:
    """What happens to the attempts at a file.

    Attributes:
        times: So many of them break off before one succeeds.
        takes_worker: Each time the worker is taken away, through no fault of the file; else the
            attempt fails and the worker goes on.
    """

    times: int
    takes_worker: bool = False


@dataclass(frozen=True, slots=True)
class VirtualGpu:
    """A worker that works at exactly its speed.

    Attributes:
        speed: Residues per second.
        freezes_at: Second from which it does nothing more, even after a restart.
        startup: Seconds from start or restart until it takes files.
    """

    speed: float
    freezes_at: float = math.inf
    startup: float = 0.0


class _Work:
    """What a virtual worker does about one attempt.

    Attributes:
        begun_at: When it began.
        start: Where its range begins, in residues of the file.
        stop: Where it ends.
        speed: Residues per second of this file, on this GPU.
        is_doomed: It breaks off.
        plan: The number of the plan that holds; what was planned before does not happen.
    """

    def __init__(
        self, begun_at: float, start: int, stop: int, speed: float, *, is_doomed: bool
    ) -> None:
        self.begun_at = begun_at
        self.start = start
        self.stop = stop
        self.speed = speed
        self.is_doomed = is_doomed
        self.plan = 0


class _Worker:
    """The present process of a virtual worker."""

    def __init__(self, gpu: VirtualGpu) -> None:
        self.gpu = gpu
        self.outages = [Outage(gpu.freezes_at)] if gpu.freezes_at < math.inf else []
        self.process = 0  # counts them
        self.started_at: float | None = None  # None while there is none
        self.ready_at = math.inf
        self.held: list[StartAttempt] = []
        self.work: _Work | None = None

    def hits(self, outage: Outage) -> bool:
        """Whether an outage concerns the present process."""
        is_newer = self.started_at is not None and self.started_at >= outage.begin
        return not (is_newer and outage.spares_new)

    def stretches(self, now: float) -> Iterator[tuple[float, float]]:
        """The time from now on: when each stretch begins, and the share of its speed from then."""
        for outage in self.outages:
            if outage.end <= now or not self.hits(outage):
                continue
            if now < outage.begin:
                yield now, 1.0
            yield max(now, outage.begin), outage.share
            now = outage.end
        yield now, 1.0


class VirtualWorkers:
    """Carries out the commands of a scheduler, and returns the resulting events one at a time.

    Nothing here waits or reads a clock: `pop` goes to the next moment at which something happens.
    One seed, one history.

    Args:
        gpus: The virtual GPUs, by id.
        progress_every: Seconds between progress reports within a file.
        reports: What the processor reports.
        overhead: Seconds that each file takes before its first residue, on any GPU.
        can_split: Whether they do parts of files, and give shares of them away meanwhile.
        cuts_first: Whether they do parts, and give shares away only before they begin.
        join_seconds: What it takes to join the parts of a file.

    Attributes:
        now: Seconds since the start, of the latest event.
    """

    def __init__(
        self,
        gpus: Mapping[str, VirtualGpu],
        progress_every: float = 10.0,
        reports: Reports = Reports.RESIDUES,
        overhead: float = 0.0,
        *,
        can_split: bool = False,
        cuts_first: bool = False,
        join_seconds: float = 0.0,
    ) -> None:
        self._can_split = can_split
        self._cuts_first = cuts_first
        self._join_seconds = join_seconds
        self.now = 0.0
        self._workers = {gpu: _Worker(spec) for gpu, spec in gpus.items()}
        self._reports = reports
        self._overhead = overhead
        self._work: dict[str, int] = {}
        self._pace: dict[str, float] = {}
        self._mishaps: dict[str, Mishap] = {}
        self._progress_every = progress_every
        self._heap: list[tuple[float, int, tuple[int, int] | None, ev.WorkerEvent]] = []
        self._posted = self._plans = 0

    def add(
        self,
        work: Mapping[str, int],
        mishaps: Mapping[str, Mishap],
        pace: Mapping[str, float] | None = None,
    ) -> None:
        """Make files known.

        Args:
            work: Residues that each file really holds, by path; its declared cost may be wrong.
            mishaps: What happens to the attempts at some of them, by path.
            pace: How many times longer than usual a residue takes, by path, on any GPU: short
                reads take another time than contigs. 1 where not given.
        """
        self._work.update(work)
        self._mishaps.update(mishaps)
        self._pace.update(pace or {})

    def plan(self, worker_id: str, outage: Outage) -> None:
        """Have a worker fail to work for a time that lies ahead; it must hold no file yet."""
        worker = self._workers[worker_id]
        insort(worker.outages, outage)
        self._doom(WorkerId(worker_id), outage)

    def announce(self, at: float, event: ev.WorkerJoined | ev.WorkerLost) -> None:
        """Have a worker join or be lost at a moment, whatever its process does then."""
        self._push(at, None, event)

    # -- commands of a scheduler --

    def spawn(self, worker_id: WorkerId) -> None:
        """Start the process of a worker that has none; it loads, and `WorkerReady` follows."""
        worker = self._workers[worker_id]
        worker.started_at = self.now
        lost = [o.end for o in worker.outages if o.is_loss and o.begin <= self.now < o.end]
        worker.ready_at = max(lost, default=self.now) + worker.gpu.startup
        self._post(worker.ready_at - worker.gpu.startup, ev.WorkerLoading(worker_id), worker_id)
        up = ev.WorkerReady(worker_id, self._can_split, self._cuts_first)
        self._post(worker.ready_at, up, worker_id)
        for outage in worker.outages:
            self._doom(worker_id, outage)

    def start(self, action: StartAttempt) -> None:
        """Hand a file to a worker; those it was handed before come first."""
        held = self._workers[action.worker_id].held
        held.append(action)
        if len(held) == 1:
            self._begin(action)

    def shrink(self, action: ShrinkAttempt) -> None:
        """Have a worker give a share of its range away; one that does nothing responds later."""
        worker_id, number = action.worker_id, action.attempt
        worker = self._workers[worker_id]
        work = worker.work
        if work is None or worker.held[0].attempt != number or work.is_doomed:
            self._post(self.now, ev.AttemptShrunk(worker_id, number, None), worker_id)
            return
        answers_at = next((now for now, share in worker.stretches(self.now) if share), math.inf)
        if answers_at > self.now:  # by then it may be another process
            return
        done = int(max(0.0, self._worked(worker, work) - self._overhead) * work.speed)
        position = min(work.start + done, work.stop)
        at = max(position + 1, work.stop - int(action.share * (work.stop - position)))
        if (work.stop - at) / work.speed < action.least_seconds or at >= work.stop:
            self._post(self.now, ev.AttemptShrunk(worker_id, number, None), worker_id)
            return
        cut = ev.Cut(at, position, work.stop)
        work.stop = at
        self._post(self.now, ev.AttemptShrunk(worker_id, number, cut), worker_id)
        self._plan_work(worker_id, number, work)

    def _worked(self, worker: _Worker, work: _Work) -> float:
        """Seconds of work since the present attempt began."""
        stretches = [*worker.stretches(work.begun_at), (math.inf, 0.0)]
        return sum(
            share * max(0.0, min(end, self.now) - begin)
            for (begin, share), (end, _) in itertools.pairwise(stretches)
        )

    def cancel(self, worker_id: WorkerId) -> None:
        """Stop what a worker does, by killing its process."""
        self.kill(worker_id)
        self._post(
            self.now, ev.WorkerLost(worker_id, "cancelled", ev.LossCause.CANCELLED), worker_id
        )

    def kill(self, worker_id: WorkerId) -> None:
        """Kill the process of a worker; its later messages are dropped."""
        worker = self._workers[worker_id]
        worker.process += 1
        worker.started_at = None
        worker.ready_at = math.inf
        worker.held.clear()
        worker.work = None

    # -- the resulting events --

    def next_at(self) -> float:
        """When the next event may happen, infinite when none ever will."""
        return self._heap[0][0] if self._heap else math.inf

    def pop(self) -> ev.WorkerEvent | None:
        """Go to the next event; None when the process that it belongs to is gone.

        Raises:
            RuntimeError: Nothing will ever happen again.
        """
        if not self._heap:
            raise RuntimeError("nothing will ever happen again, and files are left")
        at, _, stamp, event = heapq.heappop(self._heap)
        self.now = max(self.now, at)
        worker = self._workers[event.worker_id]
        if stamp is not None and not self._still_happens(worker, *stamp):
            return None
        if isinstance(event, ev.WorkerLost):
            self.kill(event.worker_id)
        elif isinstance(event, ev.AttemptCompleted | ev.AttemptFailed):
            worker.held.pop(0)
            worker.work = None
            if worker.held:
                self._begin(worker.held[0])
        return event

    @staticmethod
    def _still_happens(worker: _Worker, process: int, plan: int) -> bool:
        if process != worker.process:
            return False
        return not plan or (worker.work is not None and worker.work.plan == plan)

    # -- what a GPU shows --

    def is_ready(self, worker_id: str) -> bool:
        """Whether the worker's process is up and has loaded its model."""
        return self._workers[worker_id].ready_at <= self.now

    def is_busy(self, worker_id: str) -> bool:
        """Whether the worker holds a file."""
        return bool(self._workers[worker_id].held)

    def outage(self, worker_id: str) -> Outage | None:
        """The outage that the worker is in, or None."""
        worker = self._workers[worker_id]
        present = (o for o in worker.outages if o.begin <= self.now < o.end)
        return next((o for o in present if worker.hits(o)), None)

    # -- how long it takes --

    def _begin(self, start: StartAttempt) -> None:
        worker_id, number, path = start.worker_id, start.attempt, start.file.path
        worker = self._workers[worker_id]
        if start.joins:
            self._begin_join(worker, start)
            return
        mishap = self._mishaps.get(path)
        speed = worker.gpu.speed / self._pace.get(path, 1.0)
        whole = self._work[path]
        begin, end = start_of(start.file), stop_of(start.file)
        end = whole if end is None else end
        if start.share < 1.0:
            cut = ev.Cut(begin + max(1, int(start.share * (end - begin))), begin, end)
            self._post(self.now, ev.AttemptShrunk(worker_id, number, cut), worker_id)
            end = cut.at
        worker.work = _Work(self.now, begin, end, speed, is_doomed=mishap is not None)
        works_from = next((now for now, share in worker.stretches(self.now) if share), self.now)
        self._post(works_from, ev.AttemptStarted(worker_id, number), worker_id)
        self._plan_work(worker_id, number, worker.work, mishap)
        if mishap is not None:
            self._count(path, mishap)

    def _begin_join(self, worker: _Worker, start: StartAttempt) -> None:
        """Joins take their time, and nothing else happens to them."""
        worker_id, number = start.worker_id, start.attempt
        worker.work = _Work(self.now, 0, 0, worker.gpu.speed, is_doomed=True)
        self._post(self.now, ev.AttemptStarted(worker_id, number), worker_id)
        for at, worked in self._moments(worker, self._join_seconds):
            if worked >= self._join_seconds:
                seconds = at - self.now
                done = ev.AttemptCompleted(worker_id, number, None, None, seconds)
                self._post(at, done, worker_id)

    def _plan_work(
        self, worker_id: WorkerId, number: AttemptNumber, work: _Work, mishap: Mishap | None = None
    ) -> None:
        """Post what an attempt reports from now on, and its end."""
        worker = self._workers[worker_id]
        self._plans += 1
        work.plan = self._plans
        residues_in_all = work.stop - work.start
        seconds = self._overhead + residues_in_all / work.speed
        if mishap is not None:
            seconds *= _BREAKS_OFF_AT
        ends = math.inf
        for at, worked in self._moments(worker, seconds):
            if worked >= seconds:
                ends = at
                break
            residues = int(max(0.0, worked - self._overhead) * work.speed)
            said: ev.WorkerEvent | None = None
            if self._reports is Reports.NONE:
                said = ev.SignOfLife(worker_id, number)
            elif residues and self._reports is not Reports.NO_SIGN:
                said = self._progress(worker_id, number, residues)
            if said is not None and at >= self.now:
                self._push(at, (worker.process, work.plan), said)
        end: ev.WorkerEvent
        if mishap is not None:
            end = _end(mishap, worker_id, number)
        else:
            lasted = ends - work.begun_at
            end = self._completion(worker_id, number, residues_in_all, lasted)
        self._push(ends, (worker.process, work.plan), end)

    def _moments(self, worker: _Worker, seconds: float) -> Iterator[tuple[float, float]]:
        """When an attempt reports, and how long it has worked until then; the last is its end."""
        every = self._progress_every
        every = max(every, min(seconds / 16, _LONGEST_SILENCE * every))
        begun_at = self.now if worker.work is None else worker.work.begun_at
        worked, report_at = 0.0, begun_at + every
        stretches = [*worker.stretches(begun_at), (math.inf, 0.0)]
        for (begin, share), (end, _) in itertools.pairwise(stretches):
            done_at = begin + (seconds - worked) / share if share else math.inf
            while share and report_at < min(end, done_at):
                yield report_at, worked + (report_at - begin) * share
                report_at += every
            if done_at <= end:
                yield done_at, seconds
                return
            worked += (end - begin) * share if share else 0.0
            report_at = max(report_at, end)

    def _progress(self, worker_id: WorkerId, number: AttemptNumber, residues: int) -> ev.Progress:
        sequences = residues // RESIDUES_PER_SEQUENCE
        is_counted = self._reports is Reports.RESIDUES
        return ev.Progress(worker_id, number, sequences, residues if is_counted else None)

    def _completion(
        self, worker_id: WorkerId, number: AttemptNumber, residues: int, duration: float
    ) -> ev.AttemptCompleted:
        sequences = max(1, residues // RESIDUES_PER_SEQUENCE)
        return ev.AttemptCompleted(
            worker_id,
            number,
            sequences if self._reports in (Reports.RESIDUES, Reports.SEQUENCES) else None,
            residues if self._reports is Reports.RESIDUES else None,
            duration,
        )

    def _count(self, path: str, mishap: Mishap) -> None:
        del self._mishaps[path]
        if mishap.times > 1:
            self._mishaps[path] = replace(mishap, times=mishap.times - 1)

    def _doom(self, worker_id: WorkerId, outage: Outage) -> None:
        """Have the present process die in an outage, if it lives until then."""
        started_at = self._workers[worker_id].started_at
        if outage.death and started_at is not None and started_at < outage.begin:
            self._post(outage.end, ev.WorkerLost(worker_id, outage.death), worker_id)

    def _post(self, at: float, event: ev.WorkerEvent, worker_id: WorkerId) -> None:
        """Have the present process report something, if it lives until then."""
        self._push(at, (self._workers[worker_id].process, 0), event)

    def _push(self, at: float, stamp: tuple[int, int] | None, event: ev.WorkerEvent) -> None:
        """Plan an event.

        Args:
            at: When.
            stamp: The process that reports it, and the plan of its attempt (0 where that does not
                matter); None where it happens in any case.
            event: What happens.
        """
        if at < math.inf:
            self._posted += 1
            heapq.heappush(self._heap, (at, self._posted, stamp, event))


def _end(mishap: Mishap, worker_id: WorkerId, attempt: AttemptNumber) -> ev.WorkerEvent:
    if mishap.takes_worker:
        return ev.WorkerLost(
            worker_id, "simulated: taken away", ev.LossCause.TAKEN_AWAY, running=attempt
        )
    return ev.AttemptFailed(worker_id, attempt, "simulated: CUDA out of memory")
