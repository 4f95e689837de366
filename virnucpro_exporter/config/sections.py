"""The table of options: every option, with its type, default and description.

To add one, write a field here. `--help`, the YAML reader and docs/configuration.md follow; the last
is written anew by `python -m virnucpro_exporter.config.reference docs/configuration.md`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from virnucpro_exporter.config.options import (
    Count,
    Destination,
    Ids,
    LocalPath,
    Option,
    Place,
    Port,
    Positive,
    Seconds,
    SecondsOrZero,
    Section,
    Sources,
    Text,
    Texts,
)

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_NAME = 100  # characters

# Where an exporter listens.
_PORT = 9877

# The metrics log of a run lies in its output folder, unless another one is named.
DEFAULT_LOG = "gpu_metrics.log"


def _log(value: str) -> str:
    return value if value == DEFAULT_LOG else os.path.abspath(value)  # noqa: PTH100 - texts, both


LogPath = Annotated[LocalPath, AfterValidator(_log)]
Balancer = Annotated[
    Literal["stealing", "static"],
    Option("How files are assigned to workers; static: no stealing and no second attempts."),
]
_SIZES = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"[1-9][0-9]{0,14}[KMGT]?")


def _split(value: str) -> str:
    if value not in {"auto", "never"} and not _SIZE.fullmatch(value):
        raise ValueError("must be auto, never or the size of a part, such as 200M")
    return value


Split = Annotated[
    Annotated[Text, AfterValidator(_split)] | None,
    Option(
        "Whether idle workers take parts of files; auto: where the processor and the file allow"
        " it; SIZE, such as 200M: likewise, with parts of at most SIZE bytes (K, M, G, T).",
        "auto|never|SIZE",
        unset="auto, and never for commands without --join",
    ),
]
OnStall = Annotated[
    Literal["auto", "report", "retry", "restart"],
    Option(
        "What to do about a stalled worker: report it; retry its file on another worker (auto:"
        " only if the processor reports progress); or restart it and queue its file again."
    ),
]


class Inputs(Section):
    """Inputs and results."""

    paths: Annotated[
        Sources,
        Option(
            "Files, folders and patterns to process, or URLs: s3://, gs://, https://.",
            "INPUT...",
            key="inputs",
            place=Place.ARGUMENT,
        ),
    ] = ()
    sample_sheet: Annotated[
        LocalPath | None,
        Option(
            "For virnucpro, instead of inputs: a table with the columns sample and file.",
            "FILE.tsv",
            unset="each file is a sample",
        ),
    ] = None
    output: Annotated[
        Destination | None,
        Option(
            "Output folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX (required).",
            "DIR",
            flags="--output -o",
        ),
    ] = None
    state_folder: Annotated[
        LocalPath | None,
        Option(
            "For results in a store: local folder for the journal, and for results until they are"
            " uploaded.",
            "DIR",
            unset="virnucpro-state/s3/BUCKET/PREFIX",
        ),
    ] = None
    count: Annotated[
        Literal["estimate", "exact"],
        Option("How file sizes are measured; exact: read every file before the run starts."),
    ] = "estimate"
    checksums: Annotated[bool, Option("Write the SHA-256 of inputs and results to run.json.")] = (
        False
    )
    fresh: Annotated[
        bool | None,
        Option(
            "Discard the results of earlier runs, or keep them even from another processor.",
            unset="keep results; refuse another processor",
            flags="--fresh/--resume",
        ),
    ] = None


class Processor(Section):
    """Processor."""

    name: Annotated[
        Text,
        Option(
            "How files are processed; a program after `--` implies command.",
            "virnucpro|translate|esm2|dnabert|command|MODULE:NAME",
            key="processor",
        ),
    ] = "translate"
    command: Annotated[
        Texts,
        Option(
            "Program to run on each file, with the placeholders {input}, {output}, {gpu} and"
            " {progress}.",
            "-- PROGRAM ...",
            place=Place.ARGUMENT,
        ),
    ] = ()
    chunk_size: Annotated[
        Literal[300, 500], Option("For translate and virnucpro: chunk length in bases.")
    ] = 500
    classifier: Annotated[
        LocalPath | None,
        Option("For virnucpro: the classifier for this chunk size, such as 500_model.pth.", "FILE"),
    ] = None
    dnabert_model: Annotated[
        LocalPath | None,
        Option("For virnucpro: the DNABERT-S model.", "NAME|DIR", unset="zhihan1996/DNABERT-S"),
    ] = None
    esm2_model: Annotated[
        LocalPath | None,
        Option("For virnucpro: the ESM-2 model.", "NAME|DIR", unset="facebook/esm2_t36_3B_UR50D"),
    ] = None
    keep_vectors: Annotated[
        bool,
        Option("For virnucpro: also keep the embedding vectors, 13 KB per open reading frame."),
    ] = False
    model: Annotated[
        LocalPath | None,
        Option(
            "For esm2 and dnabert: a folder, or a name in the Hugging Face cache.",
            "NAME|DIR",
            unset="facebook/esm2_t36_3B_UR50D, zhihan1996/DNABERT-S",
        ),
    ] = None
    tokens_per_batch: Annotated[
        Count | None,
        Option(
            "For models: maximum tokens per batch.",
            "N",
            unset="8192, on CPU slots 1024",
        ),
    ] = None
    precision: Annotated[
        Literal["auto", "bf16", "fp16", "fp32"],
        Option(
            "For models: floating-point format; auto: bf16 for ESM-2 on GPUs that support it, else"
            " fp32."
        ),
    ] = "auto"
    trust_remote_code: Annotated[
        bool,
        Option("For virnucpro and dnabert: run the Python code that comes with DNABERT-S."),
    ] = False
    output_suffix: Annotated[
        Text,
        Option(
            "For commands and Python: suffix added to the file name to name the result.", "TEXT"
        ),
    ] = ".out"
    join: Annotated[
        Literal["concatenate", "header", "none"] | None,
        Option(
            "For commands: how the results of a file's parts are joined; header: concatenate, keep"
            " the common first line once; none: keep numbered results.",
            unset="concatenate, if --split is given",
        ),
    ] = None

    @property
    def reports_progress(self) -> bool:
        """Whether it always reports progress; commands and Python classes may or may not."""
        return self.name in {"virnucpro", "translate", "esm2", "dnabert"}


class Devices(Section):
    """GPUs and CPU slots."""

    gpus: Annotated[
        Ids | None,
        Option(
            "GPUs to use: all, ids, UUIDs, MIG slices or CPU slots.",
            "all|0,1|UUID|0:1|cpu:N",
            unset="those of CUDA_VISIBLE_DEVICES, else all, else a slot for each usable CPU",
        ),
    ] = None
    gpu_weighted: Annotated[
        bool, Option("Initial speed of a GPU: from its model, or the same for all.")
    ] = True
    gpu_weights: Annotated[
        dict[Text, Positive],
        Option(
            'Relative speeds of GPU models (RTX 3090 = 1.0), e.g. {"My GPU": 1.5}.',
            place=Place.FILE,
        ),
    ] = Field(default={})


class Scheduling(Section):
    """Scheduling and failures."""

    balancer: Balancer = "stealing"
    split: Split = None
    stall_threshold: Annotated[
        Seconds,
        Option(
            "Seconds without progress before a worker counts as stalled; longer for processors that"
            " report no progress.",
            "SECONDS",
        ),
    ] = 300.0
    on_stall: OnStall = "auto"
    max_attempts: Annotated[Count, Option("Attempts per file before it counts as failed.", "N")] = 3
    setup_timeout: Annotated[
        Seconds,
        Option(
            "Maximum seconds for a worker to set up its processor, such as load a model.", "SECONDS"
        ),
    ] = 1800.0
    file_timeout: Annotated[
        Seconds | None, Option("Maximum seconds per attempt.", "SECONDS", unset="no limit")
    ] = None
    halt: Annotated[
        Text,
        Option(
            "When failures end the run: same (all files fail with the same error), never, or as in"
            " GNU parallel: soon,fail=N now,fail=N soon,fail=N%.",
            "WHEN",
        ),
    ] = "same"
    storage_patience: Annotated[
        Seconds,
        Option(
            "Seconds to wait for a full or failing disk before the run ends.",
            "SECONDS",
        ),
    ] = 60.0

    @property
    def may_split(self) -> bool:
        """Whether workers may share a file."""
        return self.split != "never"

    @property
    def part_bytes(self) -> int | None:
        """Maximum bytes of a part; None without a limit."""
        if self.split in {None, "auto", "never"}:
            return None
        unit = _SIZES.get(self.split[-1], 1)
        return int(self.split.rstrip("KMGT")) * unit


class Cluster(Section):
    """Dask cluster."""

    dask: Annotated[
        Text | None,
        Option("Run on the Dask cluster of this scheduler, tcp://HOST:8786.", "ADDRESS"),
    ] = None
    dask_scheduler_file: Annotated[
        LocalPath | None, Option("Run on the Dask cluster of this scheduler file.", "FILE")
    ] = None
    dask_local: Annotated[
        Count | None,
        Option("Start a Dask cluster of N workers on this machine, for trials.", "N"),
    ] = None
    dask_timeout: Annotated[
        Annotated[Seconds, Field(ge=1)],
        Option("Maximum seconds without an answer from a node, or without any worker.", "SECONDS"),
    ] = 60.0
    dask_exporter_port: Annotated[
        Port,
        Option(
            "Port of `serve` on the nodes, for service discovery (/sd in docs/endpoint.md).", "PORT"
        ),
    ] = _PORT

    @property
    def is_used(self) -> bool:
        """Whether the run uses a Dask cluster."""
        named = (self.dask, self.dask_scheduler_file, self.dask_local)
        return any(value is not None for value in named)


class Views(Section):
    """Display and logs."""

    dashboard: Annotated[
        bool | None,
        Option(
            "Show a live table, or log lines.",
            unset="the table on a terminal",
            flags="--dashboard/--no-dashboard --show-gpu-dashboard/--no-gpu-dashboard",
        ),
    ] = None
    metrics_log: Annotated[
        LogPath | None,
        Option(
            f"CSV log; {DEFAULT_LOG} is in the output folder, other paths are relative to the"
            " current folder.",
            "FILE",
            unset="no log",
        ),
    ] = DEFAULT_LOG
    metrics_log_interval: Annotated[
        Seconds, Option("Seconds between samples in the CSV log.", "SECONDS")
    ] = 5.0
    metrics_log_max_bytes: Annotated[
        Annotated[int, Field(ge=10_000)],
        Option("Size in bytes at which the CSV log is rotated.", "N"),
    ] = 50_000_000
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Option("Lowest level of log messages to show."),
    ] = "info"

    def log_path(self, folder: Path) -> Path | None:
        """Where the metrics log is written, or None without a log.

        Args:
            folder: The output folder, in which the default name lies.
        """
        return None if self.metrics_log is None else folder / self.metrics_log


class Endpoint(Section):
    """Metrics endpoint."""

    web_listen_address: Annotated[
        Texts,
        Option(
            "Address to listen on; :9877 for all interfaces, localhost:9877 for this machine only."
            " Repeatable.",
            "HOST:PORT",
        ),
    ] = (f":{_PORT}",)
    web_telemetry_path: Annotated[Text, Option("Path of the metrics.", "PATH")] = "/metrics"
    web_config_file: Annotated[
        LocalPath | None,
        Option("TLS and basic authentication; see docs/configuration.md.", "FILE"),
    ] = None
    gpu_links: Annotated[
        bool, Option("Also export traffic and errors of PCIe and NVLink.", flags="--gpu-links")
    ] = False
    gpu_processes: Annotated[
        bool,
        Option("Also export memory and owner of each process on a GPU.", flags="--gpu-processes"),
    ] = False


RunRegistry = Annotated[
    LocalPath | None,
    Option(
        "Folder in which `serve` finds the runs of this machine.",
        "DIR",
        unset="/run/virnucpro-exporter/runs, else in XDG_RUNTIME_DIR",
    ),
]


def _name(value: str) -> str:
    if len(value) > _LONGEST_NAME or not value.isprintable():
        raise ValueError(f"must be one line of at most {_LONGEST_NAME} characters")
    return value


def _pairs(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        name, _, text = value.partition("=")
        if not name or not text:
            raise ValueError(f"must be LABEL=VALUE (given: {value!r})")
    return values


def _span(value: str) -> str:
    if not re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,3})?[smhd]", value, re.ASCII):
        raise ValueError("must be a number and a unit (s, m, h or d), such as 24h")
    return value


class Serve(Endpoint):
    """Metrics endpoint."""

    run_registry: RunRegistry = None
    keep_runs: Annotated[
        Annotated[Text, AfterValidator(_span)],
        Option("How long finished runs are shown, such as 90m, 24h, 7d.", "TIME"),
    ] = "24h"
    state_dir: Annotated[
        LocalPath | None,
        Option(
            "Folder that keeps finished runs across restarts.",
            "DIR",
            unset="STATE_DIRECTORY, else virnucpro-exporter in XDG_STATE_HOME",
        ),
    ] = None

    @property
    def keep_seconds(self) -> float:
        """Seconds for which a finished run is shown."""
        return float(self.keep_runs[:-1]) * _UNITS[self.keep_runs[-1]]


class Metrics(Endpoint):
    """Metrics."""

    run_name: Annotated[
        Annotated[Text, AfterValidator(_name)] | None,
        Option(
            "Name of the run in metrics and dashboards.",
            "NAME",
            unset="the name of the output folder",
        ),
    ] = None
    run_registry: RunRegistry = None

    web: Annotated[bool, Option("Serve metrics over HTTP.")] = True
    linger: Annotated[
        SecondsOrZero,
        Option(
            "Seconds that the endpoint stays up after the run ends; inf: until Ctrl-C.", "SECONDS"
        ),
    ] = 30.0
    target_file: Annotated[
        LocalPath | None,
        Option("Folder for a Prometheus target file (file_sd) with the address of the run.", "DIR"),
    ] = None
    textfile: Annotated[
        LocalPath | None,
        Option(
            "Also write the metrics to this file, for node_exporter's textfile collector.",
            "FILE.prom",
        ),
    ] = None
    push_gateway: Annotated[Text | None, Option("Push the metrics to a Pushgateway.", "URL")] = None
    push_grouping: Annotated[
        Annotated[Texts, AfterValidator(_pairs)] | None,
        Option(
            "Additional label of the grouping key. Repeatable.",
            "LABEL=VALUE",
            unset="instance and run",
        ),
    ] = None
    push_keep: Annotated[
        bool, Option("Keep the last metrics in the Pushgateway after the run ends.")
    ] = False
    push_user: Annotated[
        Text | None, Option("User name for the Pushgateway.", "NAME", unset="VIRNUCPRO_PUSH_USER")
    ] = None
    push_password_file: Annotated[
        LocalPath | None,
        Option(
            "File with the password for the Pushgateway.", "FILE", unset="VIRNUCPRO_PUSH_PASSWORD"
        ),
    ] = None
    push_ca_file: Annotated[
        LocalPath | None,
        Option(
            "CA certificates (PEM) to verify the Pushgateway.",
            "FILE",
            unset="VIRNUCPRO_PUSH_CA_FILE, else those of the system",
        ),
    ] = None
    push_interval: Annotated[Seconds, Option("Seconds between writes and pushes.", "SECONDS")] = (
        15.0
    )


class Simulated(Section):
    """Simulation."""

    variables: ClassVar[str] = "SIMULATE_"

    gpus: Annotated[
        Annotated[int, Field(ge=1, le=1024)], Option("Number of virtual GPUs.", "N")
    ] = 8
    files: Annotated[
        Annotated[int, Field(ge=1, le=100_000)], Option("Number of virtual files.", "N")
    ] = 500
    speed: Annotated[
        Annotated[float, Field(gt=0, le=1000)], Option("Speed-up over real time.", "X")
    ] = 60.0
    scenario: Annotated[Text, Option("Fault to simulate; see below.", "SCENARIO")] = "balanced"
    forever: Annotated[
        bool, Option("Start a new run after each run, until Ctrl-C.", flags="--forever")
    ] = False
    machines: Annotated[
        Annotated[int, Field(ge=1, le=64)],
        Option("Number of machines, each with --gpus GPUs and its own port.", "N"),
    ] = 1
    seed: Annotated[int, Option("Seed of the random numbers.", "N")] = 1


class SimulatedScheduling(Section):
    """Scheduling."""

    balancer: Balancer = "stealing"
    stall_threshold: Annotated[
        Seconds | None,
        Option(
            "Seconds without progress before a worker counts as stalled.",
            "SECONDS",
            unset="300 / speed",
        ),
    ] = None
    on_stall: OnStall = "auto"


class SimulatedViews(Views):
    """Display and logs."""

    metrics_log: Annotated[LogPath | None, Option("CSV log.", "FILE", unset="no log")] = None
