"""How values are shown: which kind a field, metric, parameter or expression is of, and its text in flags and reasons.

A kind is `integer`, `money2` (with that many decimals), `duration`, `text` or `boolean`. Parameters have no kind of
their own: they take that of what they are compared with or added to.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from naive_expressions import Value, nodes, number, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from fractions import Fraction

    from naive_ruleset import Contract, Metric, Ruleset, Scenario

Kind = str | None


@dataclass(frozen=True)
class Number:
    """A JSON number as it is written."""

    text: str


Shown = Number | str | bool | None


class Kinds:
    """The kinds of all names a ruleset can use."""

    def __init__(self, contract: Contract, ruleset: Ruleset) -> None:
        """Look at every metric once."""
        self.names: dict[str, Kind] = {field.name: field.kind for field in contract.fields}
        self.names |= dict.fromkeys(ruleset.derived, "boolean")
        self.names |= {metric.name: self.of_metric(metric) for metric in ruleset.metrics.values()}

    def of_metric(self, metric: Metric) -> Kind:
        """Return the kind of a metric's value."""
        if metric.fn.startswith("since"):
            return "duration"
        return "integer" if metric.fn in {"count", "distinct"} else self.names[str(metric.field)]

    def of(self, node: ast.AST, params: Mapping[str, Kind]) -> Kind:
        """Return the kind of an expression, or None where only constants or unclear parameters are in it."""
        match node:
            case ast.Attribute(value=ast.Name(id="p"), attr=param):
                return params.get(param)
            case ast.Attribute(value=ast.Name(id="a"), attr=name) | ast.Name(id=name):
                return self.names.get(name)
            case ast.UnaryOp(op=ast.USub()):
                return self.of(node.operand, params)
            case ast.BinOp():
                found = [self.of(node.left, params), self.of(node.right, params)]
                special = [kind for kind in found if kind not in {None, "integer"}]
                return special[0] if special else "integer" if "integer" in found else None
        return None

    def of_params(self, scenario: Scenario, metrics: Iterable[Metric]) -> dict[str, Kind]:
        """Return the kinds of a scenario's parameters, from all places where they stand beside something else."""
        texts = [scenario.when, *(metric.where for metric in metrics)]
        texts += [scenario.on] if isinstance(scenario.on, str) else []
        texts += [scenario.after.where] if scenario.after else []
        texts += [scenario.score_value] if scenario.score_value else []
        groups = list(neighbours(nodes([*texts, scenario.measure, scenario.threshold])))
        groups.append([parse(scenario.measure), parse(scenario.threshold)])
        params: dict[str, Kind] = {}
        before: dict[str, Kind] | None = None
        while params != before:
            before = dict(params)
            for group in groups:
                kind = next((kind for kind in (self.of(node, params) for node in group) if kind), None)
                for node in group:
                    self._give(node, kind, params)
        return params

    def _give(self, node: ast.AST, kind: Kind, params: dict[str, Kind]) -> None:
        """Let the parameters inside `node` be of the kind of the whole."""
        match node:
            case _ if kind is None:
                return
            case ast.Attribute(value=ast.Name(id="p"), attr=param):
                params.setdefault(param, kind)
            case ast.UnaryOp():
                self._give(node.operand, kind, params)
            case ast.BinOp(op=ast.Mult()) if kind != "integer":  # money times a whole number
                left_is_factor = self.of(node.right, params) == kind or isinstance(node.left, ast.Constant)
                factor, rest = (node.left, node.right) if left_is_factor else (node.right, node.left)
                self._give(factor, "integer", params)
                self._give(rest, kind, params)
            case ast.BinOp():
                self._give(node.left, kind, params)
                self._give(node.right, kind, params)
            case ast.Tuple():
                for each in node.elts:
                    self._give(each, kind, params)


def neighbours(parts: Iterable[ast.AST]) -> Iterator[list[ast.AST]]:
    """Yield the groups of expressions that are compared or added, and so are of one kind."""
    for node in parts:
        if isinstance(node, ast.Compare):
            yield [node.left, *node.comparators]
        elif isinstance(node, ast.BinOp) and not isinstance(node.op, ast.Mult):
            yield [node.left, node.right]


def shown(value: Value, kind: Kind) -> Shown:
    """Return what stands for `value` in the JSON of a flag."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and kind in {None, "text"}:
        return value
    return Number(decimal_text(number(value), kind))


def decimal_text(value: Fraction | None, kind: Kind) -> str:
    """Return a number with the decimals of its kind: money all, a duration as few as possible."""
    assert value is not None
    decimals = int(kind.removeprefix("money")) if kind and kind.startswith("money") else 0
    if decimals:
        minor = value * 10**decimals
        assert minor.denominator == 1
        return f"{Decimal(minor.numerator).scaleb(-decimals):.{decimals}f}"
    if value.denominator == 1:
        return str(value.numerator)
    assert kind in {"duration", None}, value
    return f"{Decimal(value.numerator) / Decimal(value.denominator):f}"


def filled(template: str, look_up: Callable[[str], tuple[Value, Kind]]) -> str:
    """Return a reason with its placeholders replaced; doubled braces stand for one."""
    return re.sub(
        r"\{\{|\}\}|\{([^{}]*)\}",
        lambda found: found[0][0] if found[1] is None else said(*look_up(found[1].strip())),
        template,
    )


def said(value: Value, kind: Kind) -> str:
    """Return what stands for `value` in a reason."""
    known = shown(value, kind)
    if known is None:
        return "unknown"
    if isinstance(known, bool):
        return "true" if known else "false"
    text = known.text if isinstance(known, Number) else known
    return f"{text}s" if kind == "duration" else text
