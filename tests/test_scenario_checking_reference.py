"""Every example of the scenario reference in config/README.md loads, with the list files that stand beside it."""

from __future__ import annotations

import re

import pytest

from support import REPOSITORY
from tidewaiter.core.contract import compile_contract
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.scenarios import load_ruleset, syntax
from tidewaiter.core.scenarios.checking import check_ruleset
from tidewaiter.core.scenarios.expressions import FUNCTIONS
from tidewaiter.core.scenarios.syntax import read_ruleset
from tidewaiter.core.toml_source import TomlSource

CONFIG = REPOSITORY / "config"
CONTRACT = compile_contract((CONFIG / "contracts/account_transfers.toml").read_bytes(), "account_transfers.toml")
HEAD = 'ruleset = "example"\nversion = 1\ncontract = "account_transfers/1"\n'
SECTION = (CONFIG / "README.md").read_text(encoding="utf-8").split("\n## Scenarios\n", 1)[1].split("\n## ", 1)[0]
EXAMPLES: list[str] = re.findall(r"```toml\n(.*?)```", SECTION, re.DOTALL)
# a list file is shown in a block whose first line names it: ```csv lists/high_risk.csv
FILES = {name: text.encode() for name, text in re.findall(r"```(?:csv|text) (\S+)\n(.*?)```", SECTION, re.DOTALL)}


def ruleset(example: str) -> TomlSource:
    """Return an example as a whole ruleset."""
    return TomlSource(((HEAD if "ruleset =" not in example else "") + example).encode(), "README.md", exact=True)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(1, len(EXAMPLES) + 1))
def test_every_example_of_the_reference_loads(example: str) -> None:
    """From its text to a ruleset that could run, for the shipped contract of account transfers."""
    source = ruleset(example)
    load_ruleset(source.text.encode(), "README.md", CONTRACT, FILES)


def test_the_reference_shows_every_key_and_every_function() -> None:
    """What the language has and the reference does not name would be found by nobody."""
    tables = (syntax.RULESET_KEYS, syntax.LIST_KEYS, syntax.METRIC_KEYS, syntax.SCENARIO_KEYS, syntax.AFTER_KEYS)
    keys = [key for table in (*tables, syntax.SCORE_KEYS, syntax.BAND_KEYS, syntax.TYPOLOGY_KEYS) for key in table]
    for word in (*keys, *FUNCTIONS, *syntax.STATUSES, *syntax.SEVERITIES, *syntax.REPEATS, *syntax.MATCHES):
        assert re.search(rf"[`\[{{ .,]{word}\b", SECTION), word
    shown = "".join(EXAMPLES)
    for key in keys:
        # tests name files, which an example does not have
        assert re.search(rf"(^|[\[{{., ]){key}\b", shown, re.MULTILINE) or key == "tests", key


def test_the_documented_error_is_the_one_that_is_given() -> None:
    """With its column and caret, for the example it is made from."""
    documented = re.findall(r"```\n(rules\.toml:(\d+).*?)```", SECTION, re.DOTALL)
    (shown, line), whole = documented[0], EXAMPLES[0].replace("deposits >= p.n", "deposit >= p.n")
    source = TomlSource(whole.encode(), "rules.toml", pictures=True, exact=True)
    with pytest.raises(ConfigError) as caught:
        check_ruleset(read_ruleset(source), source, CONTRACT, {})
    said, rest = shown.split(" allowed: …", 1)
    assert str(caught.value).startswith(said)
    assert str(caught.value).endswith(rest.rstrip("\n"))
    assert source.line("scenario", "CASH-01", "when") == int(line)
