"""Written by `reference.py` from the table of options; not by hand."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict


class RunOptions(TypedDict, total=False):
    """The options of a run, as keywords for editors and type checkers."""

    sample_sheet: str | os.PathLike[str] | None
    state_folder: str | os.PathLike[str] | None
    count: Literal["estimate", "exact"] | None
    checksums: bool | None
    fresh: bool | None
    command: Sequence[str] | None
    chunk_size: Literal[300, 500] | None
    classifier: str | os.PathLike[str] | None
    dnabert_model: str | os.PathLike[str] | None
    esm2_model: str | os.PathLike[str] | None
    keep_vectors: bool | None
    model: str | os.PathLike[str] | None
    tokens_per_batch: int | None
    precision: Literal["auto", "bf16", "fp16", "fp32"] | None
    trust_remote_code: bool | None
    output_suffix: str | None
    join: Literal["concatenate", "header", "none"] | None
    gpus: int | str | Sequence[int | str] | None
    gpu_weighted: bool | None
    gpu_weights: Mapping[str, float] | None
    dask_scheduler_file: str | os.PathLike[str] | None
    dask_local: int | None
    dask_timeout: float | None
    dask_exporter_port: int | None
    balancer: Literal["stealing", "static"] | None
    split: str | None
    stall_threshold: float | None
    on_stall: Literal["auto", "report", "retry", "restart"] | None
    max_attempts: int | None
    setup_timeout: float | None
    file_timeout: float | None
    halt: str | None
    storage_patience: float | None
    dashboard: bool | None
    metrics_log: str | os.PathLike[str] | None
    metrics_log_interval: float | None
    metrics_log_max_bytes: int | None
    log_level: Literal["debug", "info", "warning", "error"] | None
    web_listen_address: Sequence[str] | None
    web_telemetry_path: str | None
    web_config_file: str | os.PathLike[str] | None
    gpu_links: bool | None
    gpu_processes: bool | None
    run_name: str | None
    run_registry: str | os.PathLike[str] | None
    web: bool | None
    linger: float | None
    target_file: str | os.PathLike[str] | None
    textfile: str | os.PathLike[str] | None
    push_gateway: str | None
    push_grouping: Sequence[str] | None
    push_keep: bool | None
    push_user: str | None
    push_password_file: str | os.PathLike[str] | None
    push_ca_file: str | os.PathLike[str] | None
    push_interval: float | None
