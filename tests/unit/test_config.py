"""The table of options, and what reads it."""

from __future__ import annotations

import ast
import contextlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from virnucpro_exporter.config import (
    RunConfig,
    as_json,
    as_yaml,
    check_file,
    in_force,
    load_config,
    reference,
    run_config,
    serve_config,
    simulate_config,
)
from virnucpro_exporter.config.options import FOREVER, Place, declared
from virnucpro_exporter.config.reference import page
from virnucpro_exporter.errors import ConfigError, UsageError

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """Reads a text as a file of options."""

    def read(text: str, **options: Any) -> RunConfig:
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return load_config(str(path), options)

    return read


def test_documented_block_is_that_of_the_table_and_loads(load: Any) -> None:
    """Who copies all keys with their defaults gets the defaults."""
    text = PAGE.read_text()
    assert page(text) == text, "python -m virnucpro_exporter.config.reference docs/configuration.md"
    block = re.search(r"```yaml\n(inputs|# Inputs).*?```", text, re.DOTALL)
    assert block is not None
    yaml = block[0].removeprefix("```yaml\n").removesuffix("```")
    assert load(yaml) == RunConfig()
    assert load(yaml.replace("dask_exporter_port: 9877", "dask_exporter_port: null")) == RunConfig()
    assert {line.split(":")[0] for line in yaml.splitlines() if re.match(r"\w", line)} == {
        one.key for one in declared(RunConfig)
    }


def test_keywords_of_run_files_are_those_of_the_table() -> None:
    """Editors know each option, and none that is gone."""
    assert Path(reference.__file__).with_name("keywords.py").read_text() == reference.keywords()


def test_keys_and_flags_are_unique() -> None:
    """One name, one option."""
    rows = list(declared(RunConfig))
    flags = [flag for one in rows for part in one.flags for flag in part.split("/")]
    assert len({one.key for one in rows}) == len(rows)
    assert len(set(flags)) == len(flags)
    assert all(one.flags or one.option.place is Place.FILE for one in rows)


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("0", "0"),
        ("1:0", "1:0"),
        ("0:1,1:0", "0:1,1:0"),
        ("[0, 1]", "0,1"),
        ("[0, 1:0, GPU-a]", "0,1:0,GPU-a"),
        ("'1:0'", "1:0"),
        ("0,1", "0,1"),
        ("cpu:2", "cpu:2"),
        ("null", None),
    ],
)
def test_texts_are_what_is_written(load: Any, text: str, gpus: str | None) -> None:
    """Ids of GPUs are not numbers to the base of sixty."""
    assert load(f"gpus: {text}\n").devices.gpus == gpus


def test_texts_that_look_like_something_else(load: Any) -> None:
    """Names that YAML takes for dates and numbers stay names, also within lists."""
    config = load("output: 2026-11-28\ninputs: [007, 1e3, 2026-11-28]\nlinger: 1e3\n")
    assert config.inputs.output == "2026-11-28"
    assert config.inputs.paths == ("007", "1e3", "2026-11-28")
    assert config.metrics.linger == 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("linger: 1\nweb: true\nlinger: 2\n", "linger is written twice, in lines 1 and 3"),
        ("gpu_weights: {A: 1.0, A: 2.0}", "A is written twice"),
        ("inputs: " + "[" * 5000 + "]" * 5000, ":1: it is nested too deeply"),
        ("a: " + "{a: " * 5000 + "}" * 5000, "nested too deeply"),
        ("x: &x [*x]\n", "nested too deeply|no such option"),
        (
            "a0: &a0 1\n"
            + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 8)),
            "more than 250,000 values",
        ),
        ("max_attempts: 010", "max_attempts: YAML reads 010 as 8; write"),
        ("file_timeout: 1:30", "file_timeout: YAML reads 1:30 as 90; write"),
        ("output:\n", "output: is empty"),
        ("output: ''\n", "output: is empty"),
        ("gpus: ' '\n", "gpus: is empty"),
        ("inputs: ['']\n", "inputs.0: is empty"),
        ("inputs: a.fa\n", r"inputs: must be a list, such as \[a, b\] \(given: 'a.fa'\)"),
        ("output: no\n", "output: must be text.*in quotes.*given: False"),
        ("max_attemps: 2\n", "max_attemps: there is no such option; did you mean max_attempts\\?"),
        ("on_stall: explode\n", "on_stall: must be one of: auto, report, retry, restart .*explode"),
        ("chunk_size: 400\n", "chunk_size: must be one of: 300, 500"),
        ("max_attempts: two\n", "max_attempts: must be a whole number"),
        ("gpu_weights: {A: fast}\n", "gpu_weights.A: must be a number"),
        ("gpu_weights: [1]\n", "gpu_weights: must be a table"),
        ("stall_threshold: .nan\n", "stall_threshold: must be greater than 0"),
        ("output: ftp://host/out\n", "output: ftp:// is not supported"),
        ("- a\n", "write one `option: value` per line"),
        ("? [a]\n: b\n", "write one `option: value` per line"),
        ("a: b: c\n", "not YAML"),
        ("--- a\n--- b\n", "not YAML"),
        ("command: [!!python/name:os.system x]\n", "not YAML"),
    ],
)
def test_file_that_cannot_be_meant_is_refused_in_one_line(
    load: Any, text: str, message: str
) -> None:
    """The line names the key, what was given and what is right."""
    with pytest.raises(ConfigError, match=message) as refused:
        load(text)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


def test_all_faults_of_a_file_are_shown_at_once(load: Any, tmp_path: Path) -> None:
    """A line for each, with the file and the line; the first twenty of very many."""
    with pytest.raises(ConfigError) as refused:
        load("outptu: x\nlinger:\nmax_attempts: two\non_stall: retyr\n")
    path = tmp_path / "run.yaml"
    choice = "must be one of: auto, report, retry, restart (given: 'retyr'); did you mean retry?"
    faults = [
        "1: outptu: there is no such option; did you mean output?",
        "2: linger: is empty; write a value, or null for the default, or remove the line",
        "3: max_attempts: must be a whole number (given: 'two')",
        f"4: on_stall: {choice}",
    ]
    start = f"The configuration file cannot be used: {path}:"
    assert list(refused.value.lines) == [start + fault for fault in faults]
    with pytest.raises(ConfigError) as refused:
        load("".join(f"x{number}: 1\n" for number in range(100)))
    assert len(refused.value.lines) == 21
    assert refused.value.lines[-1].endswith("and 80 more")


def test_environment_wins_over_the_file_and_flags_over_both(tmp_path: Path) -> None:
    """Each option in force is shown with its place, as a file that says the same."""
    path = tmp_path / "run.yaml"
    path.write_text("gpus: 0\nlinger: 1\nmax_attempts: 2\ncommand: [ls, '{input}']\n")
    environment = {
        "VIRNUCPRO_EXPORTER_LINGER": "2",
        "VIRNUCPRO_EXPORTER_MAX_ATTEMPTS": "5",
        "VIRNUCPRO_EXPORTER_WEB": "No",
        "VIRNUCPRO_EXPORTER_INPUTS": "reads '*.fa'",
        "VIRNUCPRO_EXPORTER_PORT_9877_TCP": "tcp://10.0.0.1:9877",  # as Kubernetes makes it
    }
    options = {"max_attempts": "7"}
    found = in_force(str(path), options, environment)
    places = {one.option.key: (one.value, one.place) for one in found}
    assert places["gpus"] == ("0", f"{path}:1")
    assert places["linger"] == (2.0, "VIRNUCPRO_EXPORTER_LINGER")
    assert places["max_attempts"] == (7, "--max-attempts")
    assert places["web"] == (False, "VIRNUCPRO_EXPORTER_WEB")
    assert places["inputs"] == (["reads", "*.fa"], "VIRNUCPRO_EXPORTER_INPUTS")
    assert places["processor"] == ("command", f"{path}:4")
    assert places["halt"] == ("same", "default")
    config = load_config(str(path), options, environment)
    again = tmp_path / "again.yaml"
    again.write_text(as_yaml(found))
    assert load_config(str(again), {}) == config
    assert json.loads(as_json(found))["linger"] == {"value": 2.0, "from": places["linger"][1]}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LINGER", "soon", "VIRNUCPRO_EXPORTER_LINGER: must be a number .given: 'soon'"),
        ("OUTPUT", "", "VIRNUCPRO_EXPORTER_OUTPUT: is empty"),
        ("WEB", "perhaps", "VIRNUCPRO_EXPORTER_WEB: must be true or false"),
        ("INPUTS", "'a", "VIRNUCPRO_EXPORTER_INPUTS: No closing quotation"),
        ("OUTPTU", "x", "OUTPTU: there is no such option; did you mean OUTPUT?"),
        ("CHUNK_SIZE", "400", "VIRNUCPRO_EXPORTER_CHUNK_SIZE: must be one of: 300, 500"),
    ],
)
def test_variables_are_checked_like_options(name: str, value: str, message: str) -> None:
    """The line names the variable, in every command that reads them."""
    environment = {f"VIRNUCPRO_EXPORTER_{name}": value}
    with pytest.raises(UsageError, match=message):
        load_config(None, {}, environment)
    with contextlib.suppress(UsageError):
        simulate_config({}, environment)
    simulate = {"VIRNUCPRO_EXPORTER_SIMULATE_GPUS": "3", "VIRNUCPRO_EXPORTER_GPUS": "0,1"}
    assert simulate_config({}, simulate).simulated.gpus == 3
    assert serve_config({}, {"VIRNUCPRO_EXPORTER_KEEP_RUNS": "2h"}).keep_seconds == 7200


def test_a_file_is_checked_by_itself(tmp_path: Path) -> None:
    """The number of its options, or what is wrong."""
    path = tmp_path / "run.yaml"
    path.write_text("gpus: [0, 1]\nlinger: 1\n")
    assert check_file(str(path)) == 2
    path.write_text("dask: tcp://x:1\ndask_local: 2\n")
    with pytest.raises(UsageError, match="use one of them"):
        check_file(str(path))


@pytest.mark.parametrize("key", [one.key for one in declared(RunConfig)])
def test_no_option_takes_an_empty_value(load: Any, key: str) -> None:
    """An unset variable of a script never means a default, in no option."""
    with pytest.raises(ConfigError, match=f"{key}: is empty"):
        load(f"{key}:\n")
    with pytest.raises(UsageError):
        run_config({key: ""})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_attempts": 0}, "max_attempts: must be greater than or equal to 1"),
        ({"linger": math.nan}, "linger: must be"),
        ({"nonsense": 1}, "nonsense: there is no such option"),
        ({"dask": "tcp://x:1", "dask_local": 2}, "use one of them"),
        ({"dask_timeout": 5.0}, "--dask-timeout needs a Dask cluster"),
        ({"dask_timeout": 60.0}, "--dask-timeout needs a Dask cluster"),  # the default
        ({"textfile": "https://host/x.prom"}, "textfile: must be a path"),
        ({"output": "~no-such-user/x"}, "output: is in a home folder that does not exist"),
        ({"output": "a\0b"}, "NUL"),
    ],
)
def test_options_from_python_are_checked(options: dict[str, Any], message: str) -> None:
    """Errors name the key as it was given."""
    with pytest.raises(UsageError, match=message):
        run_config(options)


def test_seconds_for_ever() -> None:
    """Waits that no call can take become those that every call can."""
    options = {"linger": math.inf, "push_interval": 1e300, "stall_threshold": 1e12}
    config = run_config(options)
    assert config.metrics.linger == config.metrics.push_interval == FOREVER
    assert config.scheduling.stall_threshold == FOREVER


def test_home_folder_is_meant_by_a_tilde(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every option that takes a path, in the file and elsewhere."""
    home = str(tmp_path)
    monkeypatch.setenv("HOME", home)
    config = load("output: ~/out\ninputs: [~/a.fa, './~x']\nmetrics_log: ~/m.csv\n", model="~/m")
    assert config.inputs.output == f"{home}/out"
    assert config.inputs.paths == (f"{home}/a.fa", "./~x")
    assert config.views.log_path(Path("/out")) == tmp_path / "m.csv"
    assert config.processor.model == f"{home}/m"
    for unset in ("", "/no/such/home"):
        monkeypatch.setenv("HOME", unset)
        with pytest.raises(UsageError, match="is in a home folder that does not exist"):
            run_config({"output": "~/out"})


def test_metrics_log_lies_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths are relative to the current folder; the default lies in the output folder."""
    monkeypatch.chdir(tmp_path)
    folder = Path("/out")
    assert RunConfig().views.log_path(folder) == folder / "gpu_metrics.log"
    assert run_config({"metrics_log": "m.csv"}).views.log_path(folder) == tmp_path / "m.csv"
    assert run_config({"metrics_log": None}).views.log_path(folder) is None
    assert simulate_config({}).views.log_path(folder) is None


def test_command_implies_its_processor(load: Any) -> None:
    """A processor that the file names gives way to a command after `--`."""
    assert load("command: [ls]\n").processor.name == "command"
    assert load("processor: esm2\n", command=("ls",)).processor.name == "command"
    assert load("processor: esm2\ncommand: [ls]\n").processor.name == "esm2"


def test_journal_keeps_settings_by_their_keys() -> None:
    """Reports on older and newer journals read the same names."""
    flat = RunConfig().flat()
    assert flat["processor"] == "translate"
    assert flat["metrics_log"] == "gpu_metrics.log"
    assert set(flat) == {one.key for one in declared(RunConfig)}


def test_functions_of_app_take_the_sections_they_need() -> None:
    """Only those that are a whole command see a whole configuration."""
    whole = {
        f"{path.stem}.{node.name}"
        for path in (PAGE.parents[1] / "virnucpro_exporter" / "app").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        for argument in node.args.args + node.args.kwonlyargs
        if argument.annotation is not None
        and re.search(r"RunConfig|SimulateConfig", ast.unparse(argument.annotation))
    }
    several = {"simulate.simulate_machines", "simulate._machine"}  # they pass it on
    assert whole == {"run.plan", "run.run", "simulate.simulate"} | several
