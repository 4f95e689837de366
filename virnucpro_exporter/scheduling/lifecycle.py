"""The life of a file: what may happen to it, and where that leads.

A step that is not in `TRANSITIONS` is a defect of the caller or of the scheduler, and raises with
the story of the file. `docs/states.svg` is drawn from this table.
"""

from __future__ import annotations

from virnucpro_exporter.errors import SchedulingError
from virnucpro_exporter.scheduling import events as ev
from virnucpro_exporter.scheduling.files import FileState
from virnucpro_exporter.scheduling.records import FileRecord

# (state, what happens to the file) -> state. FileRetried puts it back into a queue.
TRANSITIONS: dict[tuple[FileState, type[ev.Action]], FileState] = {
    (FileState.QUEUED, ev.StartAttempt): FileState.PROCESSING,
    (FileState.QUEUED, ev.FileStolen): FileState.QUEUED,
    (FileState.PROCESSING, ev.StartAttempt): FileState.PROCESSING,
    (FileState.PROCESSING, ev.FileCompleted): FileState.COMPLETED,
    (FileState.PROCESSING, ev.FileRetried): FileState.QUEUED,
    (FileState.PROCESSING, ev.FileFailed): FileState.FAILED,
}


def step(record: FileRecord, cause: type[ev.Action]) -> None:
    """Let something happen to a file.

    Raises:
        SchedulingError: It cannot happen to a file in this state.
    """
    try:
        record.state = TRANSITIONS[record.state, cause]
    except KeyError:
        raise SchedulingError(
            f"{cause.__name__} cannot happen to a file that is {record.state.value}; "
            f"its story: {record.story()}"
        ) from None
