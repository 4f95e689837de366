"""Mistakes at the joints of the program, which mypy must see; nothing here is ever run.

mypy warns of each `type: ignore` that hides no error. So `make lint` fails as soon as one of these
mistakes would pass.
"""

from __future__ import annotations

from virnucpro_exporter.cluster.commands import Cancel, Command, Kill, Start
from virnucpro_exporter.cluster.letters import Down, Up, sealed
from virnucpro_exporter.cluster.link import Link
from virnucpro_exporter.cluster.post import Hub, Post
from virnucpro_exporter.errors import assert_never
from virnucpro_exporter.scheduling.commands import CancelAttempt, StartAttempt
from virnucpro_exporter.scheduling.events import AttemptStarted, Progress, WorkerReady
from virnucpro_exporter.scheduling.facts import AttemptEnded, FileStarted, FileStolen
from virnucpro_exporter.scheduling.files import SequenceFile
from virnucpro_exporter.scheduling.ids import WorkerId
from virnucpro_exporter.scheduling.scheduler import Scheduler
from virnucpro_exporter.workers.pool import WorkerPool


def letters_of_an_agent(link: Link, hub: Hub) -> None:
    """What is no order, and letters in the wrong direction."""
    link.send("kill")  # type: ignore[arg-type]
    link.send(Kill)  # type: ignore[arg-type]
    link.take(Down(1))  # type: ignore[arg-type]
    Post.take(hub, Down(1))  # type: ignore[arg-type]
    sealed({1: Up()})  # type: ignore[dict-item]


def commands_of_an_agent(worker: WorkerId) -> None:
    """Orders with the wrong arguments, and what is no order."""
    Command(worker, Cancel(), 1)  # type: ignore[call-arg]
    Command(worker, Cancel("1"), 1)  # type: ignore[arg-type]
    Command(worker, Start((1,)), 1)  # type: ignore[arg-type]
    Command(worker, "kill", 1)  # type: ignore[arg-type]


def fact_that_is_forgotten(fact: AttemptEnded | FileStolen) -> None:
    """A consumer that has lost its case of a kind of fact."""
    match fact:
        case AttemptEnded():
            pass
        case _:
            assert_never(fact)  # type: ignore[arg-type]


def line_of_a_fact(fact: AttemptEnded) -> str:
    """A log line with an attribute that there is not, and an id in the place of another."""
    FileStarted(fact.file, fact.attempt, fact.worker_id, is_speculative=False)  # type: ignore[arg-type]
    return f"GPU {fact.gpu}: {fact.error}"  # type: ignore[attr-defined]


def ids_in_the_place_of_others(
    scheduler: Scheduler, pool: WorkerPool, file: SequenceFile, start: StartAttempt
) -> None:
    """The path of a file, or the number of an attempt, where the id of a worker belongs."""
    WorkerReady(file.path)  # type: ignore[arg-type]
    AttemptStarted(start.attempt, start.attempt)  # type: ignore[arg-type]
    Progress(start.worker_id, file.residues, 1)  # type: ignore[arg-type]
    CancelAttempt(start.worker_id, file.residues)  # type: ignore[arg-type]
    scheduler.file_of(file.path, start.attempt)  # type: ignore[arg-type]
    scheduler.state.worker(file.path)  # type: ignore[arg-type]
    pool.cancel(start.attempt, start.attempt)  # type: ignore[arg-type]
    pool.spawn(file.path)  # type: ignore[arg-type]
