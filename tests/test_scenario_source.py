"""Scenarios of every kind: what keeps its state when rules change, and what the generated function may touch."""

from __future__ import annotations

import ast
from typing import Final

from scenario_run import CONTRACT, Run, block, load, rows_of

FILES: Final = {"lists/banks.txt": b"# watched\nAB\nCD\n\n", "lists/vip.csv": b"note,id\nfirst,a\n"}


def test_what_means_the_same_keeps_its_state() -> None:
    """A changed part starts empty and is named; the rest goes on."""
    metric = "[metric]\nm = { fn = 'sum(amount)', by = 'account', window = '1d', where = 'amount > p.least' }"
    body = ["when = 'm > 0'", "cooldown = '1h'", "after = { where = 'cash', within = '1h' }"]
    rules = load(metric, block("s", *body, "params = { least = 1 }", measure="m"))
    run = Run(rules)
    run.feed({"amount": 500}, {"cash": True, "amount": 500}, {"amount": 500})
    assert rules.adopt_state(None)[1] == ["metric m", "cooldown of s", "after of s"]
    assert (
        load(
            metric, block("s", *body, "params = { least = 1 }", "version = 2", "severity = 'high'", measure="m")
        ).adopt_state(run.state)[1]
        == []
    )
    longer = load(metric, block("s", *body, "params = { least = 1 }", "cooldown = '2h'", measure="m"))
    assert longer.adopt_state(run.state)[1] == ["cooldown of s"]
    assert load(metric, block("s", *body, "params = { least = 2 }", measure="m")).adopt_state(run.state)[1] == [
        "metric m", "cooldown of s", "after of s",
    ]  # fmt: skip


ATTRIBUTES: Final = {
    "get", "append", "shelf", "record", "young", "old", "reach", "held", "add", "read", "value", "drop", "known",
    "offset", "roll", "begin", "pop", "latched", "discard", "end", "__class__",
    *(field.name for field in CONTRACT.fields),
}  # fmt: skip


def test_the_generated_function_touches_nothing_but_fields_and_cells() -> None:
    """Every attribute is a declared one, every name is made from a number or is one of the few passed in."""
    text = (
        "utc_offset = '+00:00'\n[list.banks]\nfile = 'lists/banks.txt'\nmatch = 'prefix'\n"
        "[field]\nbig = \"amount > 10 and note == '__import__'\"\n"
        "[metric]\nm = { fn = 'sum(amount)', by = 'account', window = '1d', where = 'big' }\n"
        "n = { fn = 'distinct(other)', by = ['account', 'note'], window = 'day' }\n"
        "o = { fn = 'min(count)', by = 'kind', last = 3 }\n"
    )
    body = ['when = "m > 1 and n >= 0 and o < 9 or other in list.banks"', "repeat = 'edge'", "cooldown = '1h'"]
    body += ["reason = '{m} {note}'", "after = { where = 'cash', within = '1h' }"]
    rules = load(text, block("s", *body), files=FILES)
    for node in ast.walk(ast.parse(rules.python_source)):
        assert not isinstance(
            node, ast.Import | ast.ImportFrom | ast.Lambda | ast.ClassDef | ast.Global | ast.Try | ast.With
        )
        if isinstance(node, ast.Attribute):
            assert node.attr in ATTRIBUTES
    assert rules.bind(rules.new_state()).__globals__["__builtins__"] == {}


def test_conditions_of_any_size_compile() -> None:
    """A hundred and fifty metrics in one condition, each read only when all before it hold; and deep brackets."""
    names = [f"m{number}" for number in range(150)]
    metrics = "".join(
        f"{name} = {{ fn = 'max(count)', by = 'account', window = '{number + 1}s', where = 'cash' }}\n"
        for number, name in enumerate(names)
    )
    when = " and ".join(f"{name}>0" for name in names)
    run = Run(load(f"[metric]\n{metrics}", block("s", f"when = '{when}'")))
    assert rows_of(*run.feed({"count": 1}, {"count": 1, "cash": True}, {"count": 0})) == [1, 2]
    assert run.ruleset.take_insufficient(run.state) == {}
    deep = "not (" * 40 + "note == 'x'" + ")" * 40
    assert rows_of(*Run(load(block("s", f'when = "{deep}"'))).feed({"note": "x"}, {"note": None})) == [0]


def test_an_empty_batch_changes_nothing() -> None:
    """Not even when a metric came into force."""
    rules = load(block("s", "cooldown = '1h'"))
    state = rules.new_state()
    assert rules.bind(state)([], [], *([] for _ in rules.money_columns)) == []
    assert [cell.start for cell in state.cells.values()] == [None]
