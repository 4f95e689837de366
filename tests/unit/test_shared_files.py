"""Files that are shared by workers which read, give away, fail and die, in runs that are killed.

The scheduler is the real one, and so is what reads the files: only the workers' processes and the
clock are those of the test.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests import events as said
from tests.compressed import PACK
from tests.facts import everything
from tests.sequence_texts import sources
from virnucpro_exporter.scheduling import commands as co
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.files import FilePart, FileState, SequenceFile
from virnucpro_exporter.scheduling.laws import check_invariants
from virnucpro_exporter.scheduling.parts import BegunFile
from virnucpro_exporter.scheduling.scheduler import Scheduler
from virnucpro_exporter.scheduling.settings import SchedulerSettings
from virnucpro_exporter.sequences import OpenPart, Part, Record, read_sequences

GPUS = ("0", "1", "2")


@dataclass
class Hand:
    """What a worker holds: a part that it reads, or the attempts that it joins."""

    number: int
    part: OpenPart
    joins: tuple[int, ...]
    records: Iterator[Record]
    found: list[Record] = field(default_factory=list)
    is_begun: bool = False


class Runs:
    """Runs of one file, each of which goes on where the one before was killed.

    Args:
        path: The file.
        rng: Decides all that happens.
    """

    def __init__(self, path: Path, rng: random.Random) -> None:
        self.rng = rng
        self.path = path
        self.file = SequenceFile(str(path), None, max(1, path.stat().st_size))
        self.now = 0.0
        self.results: dict[int, list[Record]] = {}  # what attempts have left, as files would be
        self.joined: list[Record] | None = None
        self.seen: Counter[str] = Counter()
        self.scheduler = Scheduler({})
        self.begin(())

    def begin(self, begun: tuple[BegunFile, ...]) -> None:
        """A run: on whatever was done before."""
        self.scheduler = Scheduler(
            dict.fromkeys(GPUS, 1.0),
            settings=SchedulerSettings(max_attempts=1000),
            first_attempt=self.scheduler.state.last_number + 1,
            now=self.now,
        )
        self.hands: dict[str, list[Hand]] = {gpu: [] for gpu in GPUS}
        self.asked: list[co.ShrinkAttempt] = []
        self.tell(ev.FilesSubmitted(() if begun else (self.file,), begun=begun))
        for gpu in GPUS:
            self.tell(said.ready(gpu, can_split=True))

    def kill(self) -> None:
        """The run is gone; what the journal would know of it is what the next one begins with."""
        split = self.scheduler.state.splits.get(str(self.path))
        if split is None or not split.results:
            self.begin(())
            return
        parts = []
        for record in split.parts:
            assert isinstance(record.file, FilePart)
            is_done = record.state is FileState.COMPLETED
            parts.append((record.file, split.results[record.file.start] if is_done else None))
        self.seen["begun"] += 1
        self.begin((BegunFile(self.file, tuple(parts)),))

    def tell(self, event: ev.Event) -> None:
        for action in everything(self.scheduler.handle(event, self.now)):
            self.seen[type(action).__name__] += 1
            if isinstance(action, co.StartAttempt):
                self.start(action)
            elif isinstance(action, co.ShrinkAttempt):
                self.asked.append(action)
            elif isinstance(action, co.CancelAttempt):
                self.die(action.worker_id, ev.LossCause.CANCELLED)
            elif isinstance(action, co.RestartWorker):
                self.hands[action.worker_id].clear()
                self.tell(said.ready(action.worker_id, can_split=True))
            elif isinstance(action, co.RetireWorker):
                self.hands[action.worker_id].clear()
        check_invariants(self.scheduler)

    def start(self, action: co.StartAttempt) -> None:
        where = action.file
        stretch = (where.start, where.stop) if isinstance(where, FilePart) else ()
        part = OpenPart(Part(self.path, *stretch))
        hand = Hand(action.attempt, part, action.joins, read_sequences(part))
        self.hands[action.worker_id].append(hand)

    def die(self, gpu: str, cause: ev.LossCause = ev.LossCause.DIED_PROCESSING) -> None:
        self.hands[gpu].clear()
        self.tell(said.lost(gpu, "killed", cause))

    def step(self, *, is_calm: bool) -> None:
        """Something happens to a worker that holds something, or time passes."""
        rng = self.rng
        self.now += rng.choice([0.0, 0.5, 2.0])
        self.tell(ev.TimePassed())
        if self.asked and rng.random() < 0.8:
            self.answer(self.asked.pop(rng.randrange(len(self.asked))))
        busy = [gpu for gpu in GPUS if self.hands[gpu]]
        if not busy or self.joined is not None:
            return
        gpu = rng.choice(busy)
        hand = self.hands[gpu][0]
        chance = 1.0 if is_calm else rng.random()
        if chance < 0.02:
            self.kill()
        elif chance < 0.05:
            self.die(gpu)
        elif chance < 0.08:
            self.hands[gpu].pop(0)
            self.tell(said.failed(gpu, hand.number, "no"))
        elif hand.joins:
            self.hands[gpu].pop(0)
            self.joined = [r for number in hand.joins for r in self.results[number]]
            self.tell(said.completed(gpu, hand.number, None, None, 0.1, ("a",)))
        else:
            self.read(gpu, hand)

    def read(self, gpu: str, hand: Hand) -> None:
        """A record or two, or to the end of the part."""
        if not hand.is_begun:
            hand.is_begun = True
            self.tell(said.started(gpu, hand.number))
        for _ in range(self.rng.randint(1, 2)):
            record = next(hand.records, None)
            if record is None:
                self.hands[gpu].remove(hand)
                self.results[hand.number] = hand.found
                size = sum(len(r.sequence) for r in hand.found)
                done = len(hand.found), size, 1.0, ("a",)
                is_whole = str(self.path) not in self.scheduler.state.splits
                self.joined = hand.found if is_whole else None
                self.tell(said.completed(gpu, hand.number, *done))
                return
            hand.found.append(record)
        size = sum(len(r.sequence) for r in hand.found)
        self.tell(said.progress(gpu, hand.number, len(hand.found), size))

    def answer(self, asked: co.ShrinkAttempt) -> None:
        """The worker says where it stops now, if it still holds that attempt."""
        held = [h for h in self.hands[asked.worker_id] if h.number == asked.attempt]
        if held:
            cut = held[0].part.shrink(asked.share) if held[0].is_begun else None
            self.tell(said.shrunk(asked.worker_id, asked.attempt, cut))


def shared(content: bytes, seed: int) -> tuple[list[Record], Runs]:
    """What runs make of a file, and the runs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x")
        path.write_bytes(content)
        runs = Runs(path, random.Random(seed))
        for turn in range(5000):
            if runs.scheduler.is_finished:
                break
            runs.step(is_calm=turn > 200)
        assert runs.scheduler.is_finished
        assert runs.joined == list(read_sequences(path))
        return runs.joined, runs


@settings(max_examples=80, deadline=None)
@given(text=sources(), pack=st.sampled_from(list(PACK)), seed=st.integers(0, 1_000_000))
def test_every_record_is_in_the_result_once_and_in_order(text: bytes, pack: str, seed: int) -> None:
    """Whatever the file, the ranges that workers give away, and what is killed on the way."""
    shared(PACK[pack](text, 64), seed)


def test_the_random_runs_have_what_they_are_about() -> None:
    """Ranges are given away, parts are tried again, and killed runs leave parts that are done."""
    seen: Counter[str] = Counter()
    content = b"".join(b">r%d\n%s\n" % (n, b"ACGT" * (n % 5)) for n in range(60))
    for seed in range(20):
        seen += shared(content, seed)[1].seen
    assert min(seen[kind] for kind in ("FileSplit", "PartCompleted", "FileQueued", "begun")) >= 10
