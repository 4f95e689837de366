"""The settings of a run: one model for the options on the command line and the YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from virnucpro_exporter.errors import ConfigError, UsageError
from virnucpro_exporter.scheduling.settings import OnStall, SchedulerSettings

Positive = Annotated[float, Field(gt=0)]

# Where an exporter listens.
_PORT = 9877

# Over a network it takes some milliseconds until a worker that has ended a file gets the next one,
# so it holds another already where files are as short as that matters.
_CLUSTER_BATCH_SECONDS = 0.25


class ViewConfig(BaseModel):
    """What shows a run, and how; the names are those of the options, with `_` for `-`.

    In the file a number may be written as an integer; nothing else is converted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    dashboard: bool | None = None
    metrics_log: str | None = "gpu_metrics.log"
    metrics_log_interval: Positive = 5.0
    metrics_log_max_bytes: Annotated[int, Field(ge=10_000)] = 50_000_000
    web: bool = True
    web_listen_address: tuple[str, ...] = Field(default=(f":{_PORT}",), strict=False)
    web_telemetry_path: str = "/metrics"
    web_config_file: str | None = None
    linger: Annotated[float, Field(ge=0)] = 30.0
    textfile: str | None = None
    push_gateway: str | None = None
    push_interval: Positive = 15.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class RunConfig(ViewConfig):
    """Everything that can be set for `run`."""

    inputs: tuple[str, ...] = Field(default=(), strict=False)
    output: str | None = None
    gpus: str | None = None
    dask: str | None = None
    dask_scheduler_file: str | None = None
    dask_local: Annotated[int, Field(ge=1)] | None = None
    dask_timeout: Annotated[float, Field(ge=1)] = 60.0
    dask_exporter_port: Annotated[int, Field(ge=1, le=65535)] = _PORT
    processor: str = "translate"
    command: tuple[str, ...] = Field(default=(), strict=False)
    chunk_size: Literal[300, 500] = 500
    model: str | None = None
    tokens_per_batch: Annotated[int, Field(ge=1)] = 8192
    trust_remote_code: bool = False
    output_suffix: str = ".out"
    balancer: Literal["stealing", "static"] = "stealing"
    gpu_weighted: bool = True
    gpu_weights: dict[str, Positive] = {}
    stall_threshold: Positive = 300.0
    on_stall: Literal["report", "retry", "restart"] = "report"
    max_attempts: Annotated[int, Field(ge=1)] = 3
    file_timeout: Positive | None = None
    count: Literal["estimate", "exact"] = "estimate"
    fresh: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _command_is_meant(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Whoever gives a command and names no processor means the command."""
        return {"processor": "command", **values} if values.get("command") else values

    @property
    def is_on_dask(self) -> bool:
        """Whether a Dask cluster does the work."""
        named = (self.dask, self.dask_scheduler_file, self.dask_local)
        given = sum(value is not None for value in named)
        if given > 1:
            raise UsageError("--dask, --dask-scheduler-file and --dask-local: use one of them")
        for name in ("dask_timeout", "dask_exporter_port"):
            if name in self.model_fields_set and not given:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} is for runs on a Dask cluster: name one, too")
        return given == 1

    def scheduler_settings(self) -> SchedulerSettings:
        """The part that the scheduler needs."""
        settings = SchedulerSettings(
            stall_threshold=self.stall_threshold,
            on_stall=OnStall(self.on_stall),
            max_attempts=self.max_attempts,
            file_timeout=self.file_timeout,
            second_attempts=self.balancer == "stealing",
        )
        if self.is_on_dask:
            return replace(settings, batch_seconds=_CLUSTER_BATCH_SECONDS)
        return settings


class SimulateConfig(ViewConfig):
    """Everything that can be set for `simulate`; times are real seconds.

    Without a stall threshold, that of a real run shrinks with the speed.
    """

    metrics_log: str | None = None
    gpus: Annotated[int, Field(ge=1, le=64)] = 8
    files: Annotated[int, Field(ge=1, le=100_000)] = 500
    speed: Annotated[float, Field(gt=0, le=1000)] = 60.0
    scenario: str = "balanced"
    forever: bool = False
    seed: int = 1
    balancer: Literal["stealing", "static"] = "stealing"
    stall_threshold: Positive | None = None
    on_stall: Literal["report", "retry", "restart"] = "report"

    def scheduler_settings(self) -> SchedulerSettings:
        """The part that the scheduler needs."""
        threshold = RunConfig.model_fields["stall_threshold"].default / self.speed
        return SchedulerSettings(
            stall_threshold=self.stall_threshold or threshold,
            on_stall=OnStall(self.on_stall),
            second_attempts=self.balancer == "stealing",
        )


def simulate_config(options: Mapping[str, Any]) -> SimulateConfig:
    """The settings of a simulation.

    Raises:
        UsageError: An option has a wrong value.
    """
    try:
        return SimulateConfig.model_validate(options)
    except ValidationError as error:
        raise UsageError(_first_fault(error, as_option=True)) from None


def load_config(file: str | None, options: Mapping[str, Any]) -> RunConfig:
    """Read the settings of a run.

    Args:
        file: A YAML file, or None.
        options: What was given on the command line; it wins over the file.

    Raises:
        ConfigError: The file cannot be read, or has an unknown key or a wrong value; the message
            names the key.
        UsageError: An option has a wrong value.
    """
    from_file = _read(file) if file is not None else {}
    try:
        RunConfig.model_validate(from_file)
    except ValidationError as error:
        raise ConfigError(f"{file}: {_first_fault(error)}") from None
    try:
        return RunConfig.model_validate({**from_file, **options})
    except ValidationError as error:
        raise UsageError(_first_fault(error, as_option=True)) from None


def _read(file: str) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: it is not UTF-8 text") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{file}: write one `option: value` a line")
    return loaded


def _first_fault(error: ValidationError, *, as_option: bool = False) -> str:
    fault = error.errors(include_url=False)[0]
    names = [str(part) for part in fault["loc"]]
    key = "--" + names[0].replace("_", "-") if as_option else ".".join(names)
    if fault["type"] == "extra_forbidden":
        return f"{key}: there is no such option"
    message = fault["msg"].removeprefix("Input ").replace("should", "must")
    return f"{key}: {message} (given: {fault['input']!r})"
