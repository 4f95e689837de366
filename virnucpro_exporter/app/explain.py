"""Why a file waits, moved or failed, as text."""

from __future__ import annotations

import time
from collections.abc import Sequence

from virnucpro_exporter.journal.stories import Story, read_stories
from virnucpro_exporter.text import clean, counted, device_words, format_moment, format_span

_MOST_NAMED = 8  # workers in one line


def explain_text(folder: str, files: Sequence[str], now: float | None = None) -> str:
    """What happened to some files of an output folder, and why each stands where it does.

    Args:
        folder: The output folder.
        files: Their paths, or their names.
        now: Unix seconds; the clock's by default.

    Raises:
        InputError: The journal has no such file.
        OutputError: There is no journal, it cannot be read, or a newer version wrote it.
    """
    now = time.time() if now is None else now
    parts = []
    for story in read_stories(folder, files):
        lines = [f"{clean(story.path)}: {clean(reason(story, now))}"]
        lines += [f"  {format_moment(m.time)}  {clean(m.text)}" for m in story.moments]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def reason(story: Story, now: float) -> str:
    """Why the file stands where it does, in one line."""
    if story.parts and story.state in ("queued", "processing"):
        return f"{_failures(story)}{_parts(story)}"
    if story.state == "queued":
        return f"{_failures(story)}{_waits(story)}"
    if story.state == "processing":
        if not story.is_active:
            return "was in process when the run ended; the same command processes it again"
        since = 0.0 if story.since is None else now - story.since
        return f"in process on {device_words(story.gpu)} for {format_span(max(since, 0.0))}"
    if story.state == "failed":
        return f"given up after {_times(story.failures)}: {story.error}"
    where = device_words(story.gpu)
    done = "completed on"
    if story.parts:
        done = f"completed in {counted(len(story.parts), 'part')}, joined on"
    return {
        "completed": f"{done} {where}",
        "committing": f"{done} {where}; its results are being moved into place",
        "gone": "the input was removed before it was processed",
    }.get(story.state, story.state)


def _parts(story: Story) -> str:
    """Which parts are done, and what the others wait for."""
    total = len(story.parts)
    done = [p for p in story.parts if p.state == "completed"]
    if not story.is_active:
        if len(done) == total:
            return f"all {total} parts are done; the same command joins their results"
        return f"{len(done)} of {total} parts are done; the same command processes the rest"
    held = [
        f"{device_words(p.gpu)} processes {p.words}" for p in story.parts if p.state == "processing"
    ]
    waiting = [p.words for p in story.parts if p.state == "queued"]
    facts = [f"{len(done)} of {total} parts are done", *held[:_MOST_NAMED]]
    if len(held) > _MOST_NAMED:
        facts.append(f"{len(held) - _MOST_NAMED} more are in process")
    if waiting:
        facts.append(f"{counted(len(waiting), 'part')} wait{'s' if len(waiting) == 1 else ''}")
    if not (held or waiting):
        facts.append("their results are about to be joined")
    return ", ".join(facts)


def _failures(story: Story) -> str:
    if not story.failures:
        return ""
    limit = f" of {story.limit}" if story.limit else ""
    return f"{_times(story.failures)}{limit} (last error: {story.error}); "


def _waits(story: Story) -> str:
    if not story.is_active:
        return "waiting, but no run is active; the same command processes it"
    others = story.waiting - 1
    files = "1 other file" if others == 1 else f"{others:,} other files"
    larger = f", {story.larger:,} of which are larger and go first" if story.larger else ""
    return f"waiting: {counted(story.processing, 'file')} in process, and {files} waiting{larger}"


def _times(failures: int) -> str:
    return "1 failed attempt" if failures == 1 else f"{failures} failed attempts"
