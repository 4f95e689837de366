"""The user's settings of scheduling."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class OnStall(enum.Enum):
    """What happens to the file of a stalled worker."""

    AUTO = "auto"  # retry, where its worker reports progress; else report
    REPORT = "report"
    RETRY = "retry"
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """Limits and options.

    Attributes:
        stall_threshold: Seconds without progress after which a worker counts as stalled.
        on_stall: What happens then to the file it holds.
        max_attempts: Failed attempts after which a file is given up.
        setup_timeout: Seconds that a worker may take to load before its process is replaced.
        reports_progress: Whether workers are known to report progress all the time, so that their
            silence alone is a stall. Otherwise they show by what they do whether they report.
        file_timeout: Seconds after which an attempt counts as failed, or None for no limit.
        second_attempts: Idle workers may repeat a running file that they would end sooner.
        split: An idle worker may take a share of the file that another has in process.
        batch_seconds: Files are handed over together as long as they take no longer than this.
        batch_files: How many files are handed over together at most.
    """

    stall_threshold: float = 300.0
    on_stall: OnStall = OnStall.AUTO
    max_attempts: int = 3
    setup_timeout: float = 1800.0
    reports_progress: bool = True
    file_timeout: float | None = None
    second_attempts: bool = True
    split: bool = True
    batch_seconds: float = 0.05
    batch_files: int = 128

    def __post_init__(self) -> None:
        """Reject invalid limits.

        Raises:
            ValueError: A limit is not above 0.
        """
        for name in ("stall_threshold", "setup_timeout", "max_attempts", "batch_files"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0")
        if self.file_timeout is not None and not self.file_timeout > 0:
            raise ValueError("file_timeout must be above 0")
