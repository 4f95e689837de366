from virnucpro_exporter.journal.attempts import AttemptWasted, OpenAttempts
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.files import SequenceFile


def opened(*gpus: str) -> OpenAttempts:
    """Attempts 1, 2, ... at a.fa, b.fa, ..., one for each of these workers, at 10 s."""
    attempts = OpenAttempts()
    starts = [
        ev.StartAttempt(g, n + 1, SequenceFile(f"{chr(97 + n)}.fa")) for n, g in enumerate(gpus)
    ]
    assert attempts.see([], starts, 10.0) == []
    return attempts


def test_each_way_to_end_without_a_result_is_told_once() -> None:
    """Failed, cancelled and lost attempts are told with their start; the winner's is not."""
    attempts = opened("0", "1", "2", "3")
    events: list[ev.Event] = [
        ev.AttemptCompleted("0", 1, 5, 50, 2.0),
        ev.AttemptFailed("1", 2, "bad"),
        ev.WorkerLost("2", "signal 9"),
    ]
    told = attempts.see(events, [ev.CancelAttempt("3", 4), ev.RestartWorker("2", "signal 9")], 20.0)
    assert told == [
        AttemptWasted(2, "1", "b.fa", 10.0, "failed", "bad"),
        AttemptWasted(3, "2", "c.fa", 10.0, "lost", "signal 9"),
        AttemptWasted(4, "3", "d.fa", 10.0, "cancelled"),
    ]
    assert attempts.see([ev.AttemptFailed("3", 4, "late")], [], 30.0) == []


def test_a_lost_worker_worked_on_one_of_its_files() -> None:
    """Of several files that were handed over, the one that ran is told; all are forgotten."""
    attempts = opened("0", "0", "0")
    told = attempts.see([ev.WorkerLost("0", "gone", running=2)], [], 20.0)
    assert [(wasted.attempt, wasted.outcome) for wasted in told] == [(2, "lost")]
    assert attempts.see([], [ev.RetireWorker("0", "gone")], 30.0) == []


def test_a_stalled_worker_that_is_restarted_loses_its_first_file() -> None:
    """A worker that is killed on purpose has no event of its own."""
    told = opened("0", "0").see([], [ev.RestartWorker("0", "no progress for 300 s")], 20.0)
    assert told == [AttemptWasted(1, "0", "a.fa", 10.0, "lost", "no progress for 300 s")]
