"""The settings of a command, made from options by their flat names."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from virnucpro_exporter.config.layers import (
    Fault,
    Layer,
    from_command_line,
    from_environment,
    from_python,
    misspelt_variables,
)
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
from virnucpro_exporter.stores.urls import without_secrets
from virnucpro_exporter.text import did_you_mean

# Over a network it takes some milliseconds until a worker that has ended a file gets the next one,
# so it holds another already where files are as short as that matters.
_CLUSTER_BATCH_SECONDS = 0.25

_LONGEST_KEY = 100  # of a key that is no option
_MOST_FAULTS = 20  # that are shown at once

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
            split=chosen.may_split and chosen.balancer == "stealing",
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


@dataclass(frozen=True, slots=True)
class InForce:
    """An option with the value that a command would use.

    Attributes:
        option: The option.
        value: Its value, as JSON has it.
        place: Where it is written: `run.yaml:3`, an environment variable, a flag; or `default`.
    """

    option: Declared
    value: Any
    place: str


def load_config(
    file: str | None, options: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> RunConfig:
    """Read the settings of a run.

    Args:
        file: A YAML file, or None.
        options: What was given on the command line, by key; it wins over all others.
        environment: Environment variables; those of options win over the file.

    Raises:
        ConfigError: The file cannot be read, or has an unknown key or a wrong value; the message
            has a line for each, with the key.
        UsageError: An option has a wrong value, or options do not fit together.
    """
    config = _build(RunConfig, _run_layers(file, options, environment or {}))
    return _checked(config, options)


def in_force(
    file: str | None, options: Mapping[str, Any], environment: Mapping[str, str]
) -> list[InForce]:
    """The options of a run and where each is written; arguments and errors as of `load_config`."""
    layers = _run_layers(file, options, environment)
    values = _checked(_build(RunConfig, layers), options).flat()
    table = {one.key: one for one in declared(RunConfig)}
    places = {
        key: layer.place(key)
        for layer in layers
        for key, value in layer.values.items()
        if value is not None or table[key].takes_none
    }
    return [InForce(one, values[key], places.get(key, "default")) for key, one in table.items()]


def check_file(file: str) -> int:
    """Check a file of options by itself.

    Returns:
        How many options it sets.

    Raises:
        ConfigError: It has faults; the message has a line for each.
        UsageError: Its options do not fit together.
    """
    layers = _run_layers(file, {}, {})
    config = _build(RunConfig, layers)
    _checked(config, {})
    return len(layers[0].values)


def run_config(options: Mapping[str, Any]) -> RunConfig:
    """The settings of a run that is started from Python.

    Args:
        options: By key.

    Raises:
        UsageError: An option has a wrong value, or options do not fit together.
    """
    return _checked(_build(RunConfig, [_meant(from_python(options))]), options)


def simulate_config(
    options: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> SimulateConfig:
    """The settings of a simulation; arguments as of `load_config`.

    Raises:
        UsageError: An option has a wrong value.
    """
    config = _build(SimulateConfig, _layers(SimulateConfig, options, environment or {}))
    _check_endpoint(config.metrics, options)
    return config


def serve_config(options: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Serve:
    """Where `serve` listens, and which runs it shows; arguments as of `load_config`.

    Raises:
        UsageError: An option has a wrong value.
    """
    return _build(Serve, _layers(Serve, options, environment or {}))


def _run_layers(
    file: str | None, options: Mapping[str, Any], environment: Mapping[str, str]
) -> list[Layer]:
    """Where the options of a run are written; the last layer wins."""
    layers = _layers(RunConfig, options, environment)
    if file is not None:
        layers.insert(0, read_yaml(file, {one.key: one.kind for one in declared(RunConfig)}))
    return [_meant(layer) for layer in layers]


def _layers(
    model: type[BaseModel], options: Mapping[str, Any], environment: Mapping[str, str]
) -> list[Layer]:
    variables = from_environment(model, environment)
    misspelt = misspelt_variables((RunConfig, SimulateConfig, Serve), environment)
    return [
        replace(variables, faults=(*variables.faults, *misspelt)),
        from_command_line(model, options),
    ]


def _meant(layer: Layer) -> Layer:
    """A command without the name of a processor means the processor `command`."""
    if not layer.values.get("command") or layer.values.get("processor"):
        return layer

    def place(key: str) -> str:
        return layer.place("command" if key == "processor" else key)

    return replace(layer, values={"processor": "command", **layer.values}, place=place)


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
            raise UsageError(f"{flag} needs a Dask cluster: add --dask, for example")
    _check_endpoint(config.metrics, options)
    return config


def _check_endpoint(metrics: Metrics, options: Mapping[str, Any]) -> None:
    """Where metrics are served is no use without serving; a file may hold it all the same."""
    for name in (
        ()
        if metrics.web
        else ("web_listen_address", "web_telemetry_path", "web_config_file", "target_file")
    ):
        if options.get(name):
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} and --no-web: use one of them")


def _build(model: type[M], layers: Sequence[Layer]) -> M:
    """Check each layer by itself, and put them together.

    Raises:
        ConfigError: A file has faults, and nothing else.
        UsageError: There are others; the message has a line for each.
    """
    table = {one.key: one for one in declared(model)}
    faults: dict[str, Layer] = {}
    for layer in layers:
        found = sorted([*layer.faults, *_faults(model, layer, table)])
        faults |= {fault.text: layer for fault in found}
    if faults:
        is_file = all(layer.is_file for layer in faults.values())
        shown = list(faults)[:_MOST_FAULTS]
        if len(faults) > len(shown):
            shown.append(f"and {len(faults) - len(shown):,} more")
        raise (ConfigError if is_file else UsageError)(*shown)
    merged = {key: value for layer in layers for key, value in _set(layer, table)}
    return model.model_validate(_nested(merged, table))


def _set(layer: Layer, table: Mapping[str, Declared]) -> Iterator[tuple[str, Any]]:
    """The options that a layer sets: None may mean the default."""
    for key, value in layer.values.items():
        if key in table and (value is not None or table[key].takes_none):
            yield key, value


def _nested(options: Mapping[str, Any], table: Mapping[str, Declared]) -> dict[str, Any]:
    """Options in their sections."""
    nested: dict[str, Any] = {}
    for key, value in options.items():
        *sections, name = table[key].path
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return nested


def _faults(model: type[BaseModel], layer: Layer, table: Mapping[str, Declared]) -> Iterator[Fault]:
    """What is wrong with the options of a layer."""
    for key in layer.values:
        if key not in table:
            hint = did_you_mean(key, table)
            yield layer.fault(key[:_LONGEST_KEY], (), f"there is no such option{hint}")
    try:
        model.model_validate(_nested(dict(_set(layer, table)), table))
    except ValidationError as error:
        for found in error.errors(include_url=False):
            yield _fault(found, layer, table)


def _fault(found: Any, layer: Layer, table: Mapping[str, Declared]) -> Fault:
    key = next(key for key, one in table.items() if one.path == found["loc"][: len(one.path)])
    one = table[key]
    within = tuple(str(part) for part in found["loc"][len(one.path) :])
    what = _RIGHT.get(found["type"], "")
    if not what:
        what = found["msg"].removeprefix("Value error, ").removeprefix("Input ")
        what = what.replace("should be", "must be")
    meant = ""
    if one.kind is Kind.CHOICE:
        what = f"must be one of: {', '.join(map(str, one.choices))}"
        meant = did_you_mean(str(found["input"]), map(str, one.choices))
    is_empty = isinstance(found["input"], str) and not found["input"].strip()
    given = "" if is_empty else f" (given: {_shortened(found['input'])})"
    return layer.fault(key, within, f"{what}{given}{meant}")


_RIGHT = {
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text; if it is meant as text, put it in quotes",
    "tuple_type": "must be a list, such as [a, b]",
    "dict_type": "must be a table, such as {a: 1.0}",
}


def _shortened(value: Any) -> str:
    """A value as it may stand in a line."""
    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = 100
    if isinstance(value, list | tuple):
        value = type(value)(without_secrets(v) if isinstance(v, str) else v for v in value)
    elif isinstance(value, str):
        value = without_secrets(value)
    return shown.repr(value)
