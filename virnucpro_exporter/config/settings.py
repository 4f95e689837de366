"""The settings of a command, made from options by their flat names."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from virnucpro_exporter.config.options import Declared, Kind, declared
from virnucpro_exporter.config.sections import (
    Cluster,
    Devices,
    Inputs,
    Metrics,
    Processor,
    Scheduling,
    Serve,
    Simulated,
    SimulatedScheduling,
    SimulatedViews,
    Views,
)
from virnucpro_exporter.config.yaml_file import read_yaml
from virnucpro_exporter.errors import ConfigError, UsageError
from virnucpro_exporter.scheduling.settings import OnStall, SchedulerSettings

# Over a network it takes some milliseconds until a worker that has ended a file gets the next one,
# so it holds another already where files are as short as that matters.
_CLUSTER_BATCH_SECONDS = 0.25

M = TypeVar("M", bound=BaseModel)


class RunConfig(BaseModel):
    """Everything that can be set for `run`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    inputs: Inputs = Inputs()
    processor: Processor = Processor()
    devices: Devices = Devices()
    cluster: Cluster = Cluster()
    scheduling: Scheduling = Scheduling()
    views: Views = Views()
    metrics: Metrics = Metrics()

    def scheduler_settings(self) -> SchedulerSettings:
        """The part that the scheduler needs."""
        chosen = self.scheduling
        settings = SchedulerSettings(
            stall_threshold=chosen.stall_threshold,
            on_stall=OnStall(chosen.on_stall),
            max_attempts=chosen.max_attempts,
            file_timeout=chosen.file_timeout,
            setup_timeout=chosen.setup_timeout,
            reports_progress=self.processor.reports_progress,
            second_attempts=chosen.balancer == "stealing",
            split=chosen.may_split,
        )
        if self.cluster.is_used:
            return replace(settings, batch_seconds=_CLUSTER_BATCH_SECONDS)
        return settings

    def flat(self) -> dict[str, Any]:
        """Every option by its key, as values that JSON has; the journal keeps them."""
        sections = self.model_dump(mode="json")
        return {one.key: sections[one.path[0]][one.path[1]] for one in declared(RunConfig)}


class SimulateConfig(BaseModel):
    """Everything that can be set for `simulate`; times are real seconds.

    Without a stall threshold, that of a real run shrinks with the speed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    simulated: Simulated = Simulated()
    scheduling: SimulatedScheduling = SimulatedScheduling()
    views: SimulatedViews = SimulatedViews()
    metrics: Metrics = Metrics()

    def scheduler_settings(self) -> SchedulerSettings:
        """The part that the scheduler needs."""
        threshold = Scheduling().stall_threshold / self.simulated.speed
        return SchedulerSettings(
            stall_threshold=self.scheduling.stall_threshold or threshold,
            on_stall=OnStall(self.scheduling.on_stall),
            second_attempts=self.scheduling.balancer == "stealing",
        )


class _Fault(Exception):  # noqa: N818 - it never leaves this module
    """An option that cannot be used.

    Args:
        names: Where its value is: its key, and within a list or a table the place.
        what: What is wrong, and what is right.
    """

    def __init__(self, names: tuple[str, ...], what: str) -> None:
        self.names = names
        self.what = what
        super().__init__(what)


def load_config(file: str | None, options: Mapping[str, Any]) -> RunConfig:
    """Read the settings of a run.

    Args:
        file: A YAML file, or None.
        options: What was given on the command line, by key; it wins over the file.

    Raises:
        ConfigError: The file cannot be read, or has an unknown key or a wrong value; the message
            names the key.
        UsageError: An option has a wrong value, or options do not fit together.
    """
    from_file: dict[str, Any] = {}
    if file is not None:
        from_file = read_yaml(file, {one.key: one.kind for one in declared(RunConfig)})
        try:
            _build(RunConfig, _meant(from_file))
        except _Fault as fault:
            raise ConfigError(f"{file}: {'.'.join(fault.names)}: {fault.what}") from None
    config = _from_command_line(RunConfig, {**_meant(from_file), **_meant(options)})
    return _checked(config, options)


def run_config(options: Mapping[str, Any]) -> RunConfig:
    """The settings of a run that is started from Python.

    Args:
        options: By key.

    Raises:
        UsageError: An option has a wrong value, or options do not fit together.
    """
    try:
        return _checked(_build(RunConfig, _meant(options)), options)
    except _Fault as fault:
        raise UsageError(f"{'.'.join(fault.names)}: {fault.what}") from None


def simulate_config(options: Mapping[str, Any]) -> SimulateConfig:
    """The settings of a simulation.

    Raises:
        UsageError: An option has a wrong value.
    """
    config = _from_command_line(SimulateConfig, options)
    _check_endpoint(config.metrics, options)
    return config


def serve_config(options: Mapping[str, Any]) -> Serve:
    """Where `serve` listens, and which runs it shows.

    Raises:
        UsageError: An option has a wrong value.
    """
    return _from_command_line(Serve, options)


def _meant(options: Mapping[str, Any]) -> dict[str, Any]:
    """A command without the name of a processor means the processor `command`."""
    return {**({"processor": "command"} if options.get("command") else {}), **options}


def _checked(config: RunConfig, options: Mapping[str, Any]) -> RunConfig:
    """A configuration whose options fit together; a file may hold defaults that do not matter."""
    cluster, default = config.cluster, Cluster()
    named = (cluster.dask, cluster.dask_scheduler_file, cluster.dask_local)
    if sum(value is not None for value in named) > 1:
        raise UsageError("--dask, --dask-scheduler-file and --dask-local: use one of them")
    for name in ("dask_timeout", "dask_exporter_port"):
        is_given = options.get(name) is not None
        is_meant = is_given or getattr(cluster, name) != getattr(default, name)
        if is_meant and not cluster.is_used:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} is for runs on a Dask cluster: name one, too")
    _check_endpoint(config.metrics, options)
    return config


def _check_endpoint(metrics: Metrics, options: Mapping[str, Any]) -> None:
    """Where metrics are served is no use without serving; a file may hold it all the same."""
    for name in (
        () if metrics.web else ("web_listen_address", "web_telemetry_path", "web_config_file")
    ):
        if options.get(name):
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} and --no-web: use one of them")


def _from_command_line(model: type[M], options: Mapping[str, Any]) -> M:
    try:
        return _build(model, options)
    except _Fault as fault:
        flags = {one.key: one.flags[0].split("/")[0] for one in declared(model) if one.flags}
        flag = flags.get(fault.names[0], "--" + fault.names[0].replace("_", "-"))
        raise UsageError(f"{flag}: {fault.what}") from None


def _build(model: type[M], options: Mapping[str, Any]) -> M:
    """Put options into their sections, and check their values."""
    table = {one.key: one for one in declared(model)}
    nested: dict[str, Any] = {}
    for key, value in options.items():
        if key not in table:
            near = difflib.get_close_matches(key[:100], table, n=1)
            hint = f"; {near[0]} is meant?" if near else ""
            raise _Fault((key[:100],), f"there is no such option{hint}")
        if value is None and not table[key].takes_none:
            continue
        *sections, name = table[key].path
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    try:
        return model.model_validate(nested)
    except ValidationError as error:
        raise _fault(error.errors(include_url=False)[0], table) from None


def _fault(found: Any, table: Mapping[str, Declared]) -> _Fault:
    key = next(key for key, one in table.items() if one.path == found["loc"][: len(one.path)])
    one = table[key]
    within = tuple(str(part) for part in found["loc"][len(one.path) :])
    what = _RIGHT.get(found["type"], "")
    if not what:
        what = found["msg"].removeprefix("Value error, ").removeprefix("Input ")
        what = what.replace("should be", "must be")
    if one.kind is Kind.CHOICE:
        what = f"must be one of: {', '.join(map(str, one.choices))}"
    is_empty = isinstance(found["input"], str) and not found["input"].strip()
    given = "" if is_empty else f" (given: {_shortened(found['input'])})"
    return _Fault((key, *within), f"{what}{given}")


_RIGHT = {
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text; where it is meant so, write it in quotes",
    "tuple_type": "must be a list, such as [a, b]",
    "dict_type": "must be a table, such as {a: 1.0}",
}


def _shortened(value: Any) -> str:
    """A value as it may stand in a line."""
    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = 100
    return shown.repr(value)
