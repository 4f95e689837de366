"""How far the run in an output folder is, as text."""

from __future__ import annotations

import time

from virnucpro_exporter.app.tables import report_json
from virnucpro_exporter.journal.status import GpuTotals, SharedFile, read_status
from virnucpro_exporter.text import clean, counted

# As `watch` has them, and one for a run that goes on.
_STATUS = {"completed": 0, "failed": 1, "interrupted": 130}
_KILLED = 137
_RUNNING = 10

_MOST_NAMED = 8  # workers in one line


def status_text(folder: str) -> str:
    """The state of the last run in an output folder, for people.

    Raises:
        OutputError: There is no journal, it cannot be read, or a newer version wrote it.
    """
    state = read_status(folder)
    lines = [f"run {state.run_id}: {state.state}{' (active)' if state.is_active else ''}"]
    lines += [f"  {name:<12}{number:>9}" for name, number in state.counts.items()]
    lines += [_shared(file, is_active=state.is_active) for file in state.shared]
    for gpu in state.gpus:
        parts = f" and {counted(gpu.parts, 'part')}" if gpu.parts else ""
        lines.append(
            f"  {gpu.gpu}: {counted(gpu.files, 'file')}{parts}, {_work(gpu)}, {gpu.seconds:.1f} s"
        )
    lines.append(f"  {counted(state.steals, 'steal')}")
    lines += [f"failed: {path!r}: {clean(error)}" for path, error in state.failed]
    return "\n".join(lines)


def _shared(file: SharedFile, *, is_active: bool) -> str:
    """The progress of a file in parts, and the workers that process its ranges."""
    done = sum(part.state == "completed" for part in file.parts)
    held = [p for p in file.parts if p.state == "processing"] if is_active else []
    facts = [f"{done} of {counted(len(file.parts), 'part')} done"]
    facts += [f"{clean(part.gpu)} processes {part.words}" for part in held[:_MOST_NAMED]]
    if len(held) > _MOST_NAMED:
        facts.append(f"{len(held) - _MOST_NAMED} more in process")
    return f"  {clean(file.path)}: {', '.join(facts)}"


def _work(gpu: GpuTotals) -> str:
    """Sequences where they are known, else residues."""
    if gpu.sequences is not None:
        return counted(gpu.sequences, "sequence")
    return "? sequences" if gpu.residues is None else f"{gpu.residues:,} residues"


def status_json(folder: str) -> str:
    """The same as one JSON object, with all GPUs and files. Raises OutputError likewise."""
    return report_json(folder, time.time())


def status_code(folder: str) -> int:
    """How the last run stands, as an exit status. Raises OutputError likewise."""
    state = read_status(folder)
    if state.is_active:
        return _RUNNING
    return _KILLED if state.was_killed else _STATUS.get(state.state, 1)
