"""Rulesets checked but not run, and refusals told by a mark in the text: for tests of what the language accepts.

A refused text carries MARK where the caret must stand; the mark is taken out before the text is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scenario_rig import account_contract
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.scenarios.checking import check_ruleset
from tidewaiter.core.scenarios.syntax import read_ruleset
from tidewaiter.core.toml_source import TomlSource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tidewaiter.core.scenarios.model import Checked, CheckedScenario, Variant

MARK = "¦"
TRANSFERS = account_contract(
    "transfers",
    1,
    """\
party = { type = "string", max_length = 64, required = false }
memo = { type = "string", required = false }
kind = { type = "enum", values = ["deposit", "withdrawal", "transfer"] }
channel = { type = "enum", values = ["cash", "card", "wire"] }
country = { type = "enum", values = ["NO", "SE", "DK"], required = false }
amount = { type = "money", scale = 2 }
currency = { type = "enum", values = ["NOK", "EUR"] }
fee = { type = "money", scale = 3, required = false, currency = "fee_currency" }
fee_currency = { type = "enum", values = ["NOK"], required = false, default = "NOK" }
risk = { type = "integer", required = false }
level = { type = "integer" }
checked = { type = "boolean", required = false }
foreign = { type = "boolean" }
""",
)
HEAD = "ruleset = 'x'\nversion = 1\ncontract = 'transfers/1'\n"
COMMON = "typology = 't'\nversion = 1\nseverity = 'low'\n"
FILES = {"lists/watch.txt": b"# watched\nNO\n", "lists/codes.csv": b"code,name\nA1,x\nB2,y\n"}
LISTS = (
    "[list.watch]\nfile = 'lists/watch.txt'\n"
    "[list.codes]\nfile = 'lists/codes.csv'\ncolumn = 'code'\nmatch = 'prefix'\n"
)


def scenario(body: str = "when = 'foreign'\nmeasure = 'amount'\nthreshold = 1\n", name: str = "one") -> str:
    """Return the table of a scenario."""
    return f"[scenario.{name}]\n{COMMON}{body}"


def check(text: str, files: Mapping[str, bytes] = FILES) -> Checked:
    """Check a whole file for the contract TRANSFERS."""
    source = TomlSource(text.encode(), "rules/r.toml", pictures=True, exact=True)
    return check_ruleset(read_ruleset(source), source, TRANSFERS, files)


def checked(text: str, name: str = "one") -> CheckedScenario:
    """Return one scenario of a file without its head."""
    return next(item for item in check(HEAD + text).scenarios if item.decl.id == name)


def variant(text: str, segment: str | None = None) -> Variant:
    """Return how the scenario `one` of a file stands for one population."""
    return next(item for item in checked(text).variants if item.segment == segment)


def assert_refused(text: str, message: str, hint: str = "", files: Mapping[str, bytes] = FILES) -> None:
    """Assert that the text is refused with exactly this message, at its mark, with this in the hint."""
    assert text.count(MARK) == 1
    before = text[: text.index(MARK)]
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    with pytest.raises(ConfigError) as caught:
        check(text.replace(MARK, ""), files)
    error = caught.value
    assert error.message.split("\n", maxsplit=1)[0] == f"rules/r.toml:{line}:{column}: {message}"
    said, picture, caret = str(error).rsplit("\n", 2)
    assert caret == " " * (4 + column - 1) + "^"
    assert picture == "    " + text.replace(MARK, "").split("\n")[line - 1]
    assert hint in said.partition(message)[2]
