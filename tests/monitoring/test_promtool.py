"""The rules, as promtool judges them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.monitoring.mutations import mutants
from tests.monitoring.programs import tool
from tests.monitoring.rules import FOLDER, RULES, load, rules_of

TESTS = sorted((FOLDER / "tests").glob("*.test.yml"))
ALERTS = {rule["alert"]: rule for path in RULES for rule in rules_of(load(path)) if "alert" in rule}
# A test got something else than it expects, or the rule had no result; not: the rule has no sense.
NOTICED = re.compile(r"\bgot:|, time: \S+, err: ")
RECORDS = {r["record"]: r for path in RULES for r in rules_of(load(path)) if "record" in r}


def test_the_configuration_is_valid() -> None:
    """Both the configuration and, by the strictest judgement, the rules."""
    config = tool("promtool", "check", "config", FOLDER / "prometheus.yml")
    assert config.returncode == 0, config.stdout
    rules = tool("promtool", "check", "rules", "--lint=all", "--lint-fatal", *RULES)
    assert rules.returncode == 0, rules.stdout


def test_every_rule_has_tests() -> None:
    """Each alert has a file of its own; the recording rules share one, and so does silence."""
    names = {path.name.removesuffix(".test.yml") for path in TESTS}
    assert names == {*ALERTS, "recording", "silence"}


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_the_rules_pass_their_tests(path: Path) -> None:
    """As written in prometheus/tests."""
    tested = tool("promtool", "test", "rules", path)
    assert tested.returncode == 0, tested.stdout


@pytest.mark.campaign
def test_the_rules_pass_their_tests_with_the_gpus_of_many_machines(tmp_path: Path) -> None:
    """All of them: the rules are the same where a GPU is `node/index` and tells its node."""
    shutil.copytree(FOLDER / "rules", tmp_path / "rules")
    (tmp_path / "tests").mkdir()
    for path in TESTS:
        label = r'\b((?:gpu|victim|thief)(?:="|: "?))(?=\w)'
        text = re.sub(label, r"\1gpu-07.a/", path.read_text())
        text = re.sub(r"\b((?:GPU|Worker) )(?=\d|cpu)", r"\1gpu-07.a/", text)  # in messages
        text = re.sub(r', node="\w+"', "", text)
        text = text.replace("virnucpro_gpu_info{", 'virnucpro_gpu_info{node="gpu-07.a", ')
        (tmp_path / "tests" / path.name).write_text(text)
    tested = tool("promtool", "test", "rules", *(tmp_path / "tests").iterdir())
    assert tested.returncode == 0, tested.stdout


@pytest.mark.campaign
def test_the_rules_pass_their_tests_with_the_ranges_of_prometheus_3(tmp_path: Path) -> None:
    """There a range leaves its left end out: with samples at whole seconds, a millisecond less.

    The values of rates differ by a millionth then, but what fires is the same.
    """
    shutil.copytree(FOLDER / "tests", tmp_path / "tests")
    (tmp_path / "tests" / "recording.test.yml").unlink()
    (tmp_path / "rules").mkdir()
    changed = 0
    for path in RULES:
        text, count = re.subn(r"\[(\d+)([smhd])(?=[:\]])", _left_open, path.read_text())
        (tmp_path / "rules" / path.name).write_text(text)
        changed += count
    assert changed > 10
    tested = tool("promtool", "test", "rules", *(tmp_path / "tests").iterdir())
    assert tested.returncode == 0, tested.stdout


def _left_open(found: re.Match[str]) -> str:
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]
    return f"[{int(found[1]) * seconds * 1000 - 1}ms"


@pytest.mark.campaign
@pytest.mark.parametrize("name", [*ALERTS, *RECORDS])
def test_the_tests_notice_every_mistake_in_a_rule(name: str, tmp_path: Path) -> None:
    """No rule can be changed without a test that fails, and fails because of what the rule says."""
    rule = {**ALERTS, **RECORDS}[name]
    wrong = list(mutants(rule))
    test = FOLDER / "tests" / f"{name if name in ALERTS else 'recording'}.test.yml"
    variants = [rule, *(mutant for _, mutant in wrong)]
    copies = [_copy(tmp_path / str(i), test, name, r) for i, r in enumerate(variants)]
    with ThreadPoolExecutor(2) as executor:
        halves = executor.map(_noticed, (copies[::2], copies[1::2]))
    noticed = {path: found for half in halves for path, found in half.items()}
    assert not noticed[copies[0]], "a rule without a mistake passes"
    assert not [
        what for (what, _), copy in zip(wrong, copies[1:], strict=True) if not noticed[copy]
    ]


def _copy(folder: Path, test: Path, name: str, rule: Mapping[str, Any]) -> Path:
    """A copy of a file of tests, beside files of rules in which one rule is replaced.

    An alert has only the recording rules with it that it needs: that is faster.
    """
    (folder / "rules").mkdir(parents=True)
    (folder / "tests").mkdir()
    for path in RULES:
        content = load(path)
        for group in content["groups"]:
            group["rules"] = [
                rule if _name(old) == name else old
                for old in group["rules"]
                if name in RECORDS or _name(old) == name or _name(old) in rule["expr"]
            ]
        (folder / "rules" / path.name).write_text(yaml.safe_dump(content))
    return Path(shutil.copy(test, folder / "tests"))


def _name(rule: Mapping[str, Any]) -> str:
    return str(rule.get("record") or rule["alert"])


def _noticed(tests: Sequence[Path]) -> dict[Path, bool]:
    """For each file of tests, whether one of its tests got something else than it expects."""
    said = tool("promtool", "test", "rules", *tests).stdout
    reports = said.split("Unit Testing: ")[1:]
    assert len(reports) == len(tests), said
    return {path: bool(NOTICED.search(report)) for path, report in zip(tests, reports, strict=True)}
