"""Rules with one mistake each, to see whether the tests of the rules would notice it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.monitoring.rules import shorter

Rule = Mapping[str, Any]
Mutant = tuple[str, dict[str, Any]]

_OTHERS = {">": ("<=", ">="), ">=": ("<", ">"), "<": (">=", "<="), "==": ("!=",)}
_OTHER_FUNCTION = {
    "max": "min",
    "min": "max",
    "sum": "min",
    "avg": "max",
    "avg_over_time": "max_over_time",
    "last_over_time": "max_over_time",
    "round": "",
}
_COMPARISON = re.compile(r"(?<!=)(?:>=|==|>|<)(?!=)")
_FUNCTION = re.compile(rf"\b(?:{'|'.join(_OTHER_FUNCTION)})\b(?=[ (])")
_NUMBER = re.compile(r"(?<![\w.\"])\d+(?:\.\d+)?(?![\w.\"])")
_RANGE = re.compile(r"(?<=\[)\w+(?=\])")
_SELECTOR = re.compile(r"\{[^}]*\}")
_ALTERNATIVES = re.compile(r'(?<==~")\w+(?:\|\w+)+(?=")')
_LABELS = re.compile(r"(?<=ignoring \()[\w, ]+(?=\))|(?<=without \()[\w, ]+(?=\))")
_GROUP = re.compile(r"group_left \(\w*\) ?")
_TIMESTAMP = re.compile(r"\btimestamp\(\w+\)(?!\s+- ignoring)")  # a number has no labels
_LONG_MINUTES = 5
_SET_OPERATOR = re.compile(r"\b(?:and|or|unless)\b(?: ignoring \([\w, ]*\))?")


def mutants(rule: Rule) -> Iterator[Mutant]:
    """Every mistake that is tried with a rule: what it is, and the rule with it."""
    for what, expression in _expressions(rule["expr"]):
        yield f"{what} in {rule['expr']}", {**rule, "expr": expression}
    for key in ("for", "keep_firing_for"):
        if key in rule:
            yield f"no {key}", {k: v for k, v in rule.items() if k != key}
            # Nobody notices 48 s in place of 60 s where rules are evaluated every 15 s.
            is_long = rule[key].endswith("m") and int(rule[key][:-1]) >= _LONG_MINUTES
            for factor in (1.25 if is_long else 2, 0.5):
                yield f"{key} / {factor:g}", {**rule, key: shorter(rule[key], factor)}


def _expressions(expression: str) -> Iterator[tuple[str, str]]:
    for pattern, others in (
        (_COMPARISON, lambda found: _OTHERS[found]),
        (_FUNCTION, lambda found: [_OTHER_FUNCTION[found]]),
        (_NUMBER, _other_numbers),
        (_RANGE, lambda found: [shorter(found, 2), shorter(found, 0.5)]),
        (_SELECTOR, lambda _found: [""]),
        (_ALTERNATIVES, lambda found: _all_but_one(found, "|")),
        (_LABELS, lambda found: _all_but_one(found, ", ")),
        (_GROUP, lambda _found: [""]),
        (_TIMESTAMP, lambda _found: ["time()"]),
    ):
        for found in pattern.finditer(expression):
            for other in others(found[0]):
                yield f"{found[0]!r} as {other!r}", _replaced(expression, found.span(), other)
    for begin, end in _operands(expression):
        yield f"without {expression[begin:end]!r}", _replaced(expression, (begin, end), "")


def _other_numbers(number: str) -> list[str]:
    value = float(number)
    near = (value - 1, value + 1) if value.is_integer() and value <= 10 else ()
    return [f"{other:g}" for other in near or (0.9 * value, 1.2 * value)]


def _all_but_one(joined: str, separator: str) -> list[str]:
    parts = joined.split(separator)
    return [separator.join(kept) for kept in itertools.combinations(parts, len(parts) - 1)]


def _operands(expression: str) -> Iterator[tuple[int, int]]:
    """Each set operator with its right operand, and the first of a level also with its left one."""
    # A parenthesis counts to what is around it.
    depth = [
        inside - (character == "(")
        for character, inside in zip(
            expression,
            itertools.accumulate((c == "(") - (c == ")") for c in expression),
            strict=True,
        )
    ]
    operators = [found.span() for found in _SET_OPERATOR.finditer(expression)]
    for begin, end in operators:
        level = depth[begin]
        left = begin
        while left and depth[left - 1] >= level:
            left -= 1
        right = end
        peers = {start for start, _ in operators if depth[start] == level}
        while right < len(expression) and depth[right] >= level and right not in peers:
            right += 1
        yield begin, right
        if not any(left <= start < begin for start in peers):
            yield left, end


def _replaced(text: str, span: tuple[int, int], other: str) -> str:
    return text[: span[0]] + other + text[span[1] :]
