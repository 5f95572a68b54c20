"""The compiled engine against an evaluator that rescans all history at each event: flag for flag the same.

On made-up rulesets and streams, on the sample stream, and on two public data sets with counterparties. The same
streams, cut into batches with sweeps and restored snapshots in between, give the same bytes.
"""

from __future__ import annotations

import io
from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest
import zstandard
from hypothesis import HealthCheck, assume, given, settings

from naive_comparison import as_given, assert_agree, assert_same_bytes, evaluate_in_pieces, evaluate_whole
from naive_rules import evaluate_stream
from naive_strategies import Case, cases
from support import REPOSITORY
from tidewaiter.core.contract import compile_contract
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.scenarios import load_ruleset

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONTRACTS: Final = REPOSITORY / "tests" / "contracts"
MADE_UP: Final = (CONTRACTS / "differential.toml").read_bytes()
MADE_UP_CONTRACT: Final = compile_contract(MADE_UP, "differential.toml")


def compare(case: Case, seen: Counter[str]) -> None:
    """Evaluate a case by both, and in pieces; `seen` counts what was drawn."""
    files = {path: text.encode() for path, text in case.files.items()}
    try:
        ruleset = load_ruleset(case.rules.encode(), "made_up.toml", MADE_UP_CONTRACT, files=files)
    except ConfigError as error:
        seen["refused"] += 1
        seen[f"refused: {error.message}"] += 1
        ruleset = None
    assume(ruleset is not None)
    assert ruleset is not None
    seen["accepted"] += 1
    whole = evaluate_whole(MADE_UP_CONTRACT, ruleset, case.lines)
    seen["eventful"] += bool(whole.records)
    seen.update(projection for projection, _ in whole.records)
    seen["insufficient"] += sum(whole.insufficient.values())
    result = evaluate_stream(case.rules, case.files, MADE_UP.decode(), as_given(case.lines, "at"))
    assert_agree(whole, result)
    assert_same_bytes(evaluate_in_pieces(MADE_UP_CONTRACT, ruleset, case.lines, case.seed), whole)


def assert_agreed_on_enough(seen: Counter[str]) -> None:
    """Assert that the comparison was not about nothing."""
    assert seen["accepted"] >= 0.8 * (seen["accepted"] + seen["refused"]), seen.most_common(30)
    assert seen["eventful"] >= 0.5 * seen["accepted"]
    for kind in ("flags", "suppressed", "shadow_flags", "insufficient"):
        assert seen[kind] >= 0.2 * seen["accepted"], kind


LIVELY: Final = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)


def test_made_up_rules_give_the_flags_of_the_plain_evaluator() -> None:
    """Two thousand rulesets with a stream each, always the same ones."""
    seen: Counter[str] = Counter()

    @settings(max_examples=2_000, derandomize=True, database=None, suppress_health_check=LIVELY)
    @given(cases())
    def each(case: Case) -> None:
        compare(case, seen)

    each()
    assert_agreed_on_enough(seen)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_many_more_made_up_rules_give_the_flags_of_the_plain_evaluator() -> None:
    """Forty thousand, others each time."""
    seen: Counter[str] = Counter()

    @settings(max_examples=40_000, suppress_health_check=LIVELY)
    @given(cases())
    def each(case: Case) -> None:
        compare(case, seen)

    each()
    assert_agreed_on_enough(seen)


def test_the_sample_stream_is_flagged_as_by_the_plain_evaluator(shared_data: Path) -> None:
    """All events of the sample under the shipped money-flow rules."""
    lines = (shared_data / "sample_stream.jsonl").read_bytes().splitlines()
    contract = (REPOSITORY / "config" / "contracts" / "money_flow.toml").read_text(encoding="utf-8")
    rules = (REPOSITORY / "config" / "rules" / "money_flow.toml").read_text(encoding="utf-8")
    flags = compare_real(contract, rules, {}, lines)
    assert flags.total() == 2353


def test_bank_accounts_are_flagged_as_by_the_plain_evaluator(shared_data: Path) -> None:
    """Two years of every fifth account of the Berka stream, with the partner accounts of its transfers."""
    lines = some_of(shared_data / "berka_1993-1994.src.jsonl.zst", lambda line: _number(line, b'"acct-') % 5 == 0)
    contract, rules = (
        (CONTRACTS / name).read_text(encoding="utf-8") for name in ("berka_partners.toml", "berka_partners_rules.toml")
    )
    flags = compare_real(contract, rules, {"lists/home_banks.txt": "# two letters each\nAB\nCD\nEF\n"}, lines)
    assert set(flags) == {f"{rule}" for rule in EXPECTED_OF_BERKA}, flags


def test_transfers_between_accounts_are_flagged_as_by_the_plain_evaluator(shared_data: Path) -> None:
    """Every twelfth account of the AMLSim stream, with payer and payee of each transfer."""
    lines = some_of(
        shared_data / "amlsim_20K_cycle200.src.jsonl.zst", lambda line: _number(line, b'"user_id": "n') % 12 == 0
    )
    contract, rules = (
        (CONTRACTS / name).read_text(encoding="utf-8")
        for name in ("amlsim_transfers.toml", "amlsim_transfers_rules.toml")
    )
    flags = compare_real(contract, rules, {"lists/watched.csv": "account,why\n1,made up\n77,made up\n"}, lines)
    assert set(flags) == {f"{rule}" for rule in EXPECTED_OF_AMLSIM}, flags


EXPECTED_OF_BERKA: Final = (
    "large_cash",
    "frequent_cash",
    "own_baseline",
    "new_partners",
    "dormant",
    "passed_on",
    "mule",
)
EXPECTED_OF_AMLSIM: Final = (
    "fan_in",
    "fan_out",
    "round_trip",
    "rapid",
    "spike",
    "dormant",
    "watched",
    "again",
    "network",
)


def compare_real(contract_text: str, rules: str, files: dict[str, str], lines: list[bytes]) -> Counter[str]:
    """Evaluate a real stream by both, and in pieces; return how many lines of output each rule gave."""
    contract = compile_contract(contract_text.encode(), "contract.toml")
    packed = {path: text.encode() for path, text in files.items()}
    ruleset = load_ruleset(rules.encode(), "rules.toml", contract, files=packed)
    whole = evaluate_whole(contract, ruleset, lines)
    result = evaluate_stream(rules, files, contract_text, as_given(lines, contract.time_field))
    assert_agree(whole, result)
    assert_same_bytes(evaluate_in_pieces(contract, ruleset, lines, 1), whole)
    return Counter(outcome.rule for outcomes in result.outcomes for outcome in outcomes)


def some_of(path: Path, wanted: Callable[[bytes], bool]) -> list[bytes]:
    """Return the wanted lines of a compressed stream."""
    with path.open("rb") as packed:
        plain = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(packed))
        return [line.rstrip(b"\n") for line in plain if wanted(line)]


def _number(line: bytes, behind: bytes) -> int:
    """Return the number that stands behind some text."""
    return int(line.split(behind, 1)[1].split(b'"', 1)[0])
