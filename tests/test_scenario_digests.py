"""What makes two metrics, or two versions of a scenario, the same: state is kept and flags are told apart by it."""

from __future__ import annotations

import time

import pytest

import scenario_demo as demo
from tidewaiter.core.contract import Contract, compile_contract
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.scenarios import Ruleset, load_ruleset

LIST = b"hot,cold\nRU,DE\nKP,FR\n"
COUNTED = """
[metric]
{name} = {{ fn = "count", by = "account", window = "1h", where = "tag in list.{of}" }}
[list.{of}]
file = "l.csv"
column = "{of}"
"""


def rules(text: str, contract: Contract = demo.CONTRACT, list_bytes: bytes = LIST) -> Ruleset:
    """Load a ruleset that may name the list file."""
    return load_ruleset(text.encode(), "r.toml", contract, {"l.csv": list_bytes} if "l.csv" in text else {})


def cells(ruleset: Ruleset) -> set[str]:
    """Return the digests under which state is kept."""
    return set(ruleset.new_state().cells)


def counting(column: str, name: str = "n") -> str:
    """Return a ruleset whose scenario counts events of one column of the list."""
    return demo.scenario(f"{name} >= 2") + COUNTED.format(name=name, of=column)


def test_two_columns_of_a_file_are_two_lists() -> None:
    """A metric over one column shares nothing with a metric over another column of the same file."""
    hot, cold = rules(counting("hot")), rules(counting("cold"))
    assert not cells(hot) & cells(cold)
    assert hot.scenarios[0].digest != cold.scenarios[0].digest


def test_a_list_is_its_entries() -> None:
    """Another order of rows, or another column beside it, leaves the state of a metric where it is."""
    moved = b"cold,hot\nFR,KP\nDE,RU\n"
    assert cells(rules(counting("hot"))) == cells(rules(counting("hot"), list_bytes=moved))
    assert not cells(rules(counting("hot"))) & cells(rules(counting("hot"), list_bytes=LIST + b"CU,ES\n"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('default = "none"', 'default = "other"'),
        ('tag = { type = "string"', 'tag = { from = "src.tag", type = "string"'),
    ],
)
def test_a_field_that_is_read_otherwise_is_another_field(before: str, after: str) -> None:
    """State that was gathered under another default, or from another place in the line, is not gone on with."""
    text = demo.CONTRACT.text.decode()
    assert before in text
    changed = compile_contract(text.replace(before, after).encode(), "demo.toml")
    counted = demo.scenario("n >= 2") + (
        "[metric]\nn = { fn = 'count', by = 'account', window = '1h', where = \"tag == 'x'\" }\n"
    )
    old, new = rules(counted), rules(counted, changed)
    assert not cells(old) & cells(new)
    assert old.scenarios[0].digest != new.scenarios[0].digest


def test_what_the_flag_shows_first_is_part_of_its_digest() -> None:
    """Parameters in another order give other bytes in a flag, so they give another digest."""
    when = "amount > p.low or amount > p.high"
    one = rules(demo.scenario(when, extra="params = { low = 1, high = 2 }"))
    other = rules(demo.scenario(when, extra="params = { high = 2, low = 1 }"))
    assert one.scenarios[0].digest != other.scenarios[0].digest


def test_conditions_compared_with_conditions_stay_short() -> None:
    """Each level of such a comparison doubles the generated text: many levels are refused, at once."""
    contract = compile_contract(
        demo.CONTRACT.text.replace(b"[field]\n", b'[field]\nrisk = { type = "integer", required = false }\n'),
        "demo.toml",
    )
    few, many = ("(" * n + "risk < 1" + ") == cash" * n for n in (6, 20))
    assert len(rules(demo.scenario(few), contract).python_source) < 50_000
    began = time.process_time()
    with pytest.raises(ConfigError, match="parts with its derived fields"):
        rules(demo.scenario(many), contract)
    assert time.process_time() - began < 5
