"""Transcripts: what their files may say, what the events become, and what counts as passed."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from pure_core import CONTRACT, RULES
from support import REPOSITORY
from tidewaiter.core.contract import compile_contract
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.scenarios import load_ruleset
from tidewaiter.core.scenarios.transcripts import Transcript, read_transcripts, run_transcript, values_of

if TYPE_CHECKING:
    from tidewaiter.core.contract import Contract

SCENARIOS = ("threshold", "velocity", "repetition")
DEFAULTS = 'user_id = "u", event_type = "deposit_completed", amount = "9.00", currency = "GBP", channel = "web"'
BURST = f"""
[[transcript]]
scenario = "velocity"
title = "six deposits within ten seconds"
expect = ["e6"]
defaults = {{ {DEFAULTS} }}
events = [
  {{ at = "0s" }},
  {{ at = "1s", amount = 4.5 }},
  {{ at = "2s", amount = 100 }},
  {{ at = "2s" }}, {{ at = "2s 500ms" }},
  {{ at = "10s", channel = "api" }},
]
"""
NESTED = compile_contract(
    b"""
contract = "nested"
version = 1
id = "key"
time = "at_time"
subject = "payer"
[field]
key = { type = "string", min_length = 1, max_length = 9 }
at_time = { type = "timestamp" }
payer = { type = "string", min_length = 1, max_length = 9, from = "src.name" }
payee = { type = "string", max_length = 9, from = "to.account.name", required = false }
n = { type = "integer", from = "src.n" }
yes = { type = "boolean", required = false }
when_due = { type = "timestamp", required = false }
""",
    "nested.toml",
)


def read(text: str, contract: Contract = CONTRACT) -> tuple[Transcript, ...]:
    """Return the transcripts of a file called t.toml."""
    return read_transcripts(text.encode(), "t.toml", contract, SCENARIOS)


def one(text: str, contract: Contract = CONTRACT) -> Transcript:
    """Return the only transcript."""
    (found,) = read(text, contract)
    return found


def events(transcript: Transcript) -> list[dict[str, Any]]:
    """Return the events as they stand in the lines."""
    return [json.loads(line) for line in transcript.data.splitlines()]


def outcome_of(text: str) -> tuple[bool, tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return passed, flagged, missed, surplus."""
    outcome = run_transcript(one(text), CONTRACT, RULES)
    return outcome.passed, outcome.flagged, outcome.missed, outcome.surplus


# -- what the events become ----------------------------------------------------------------------------------------


def test_defaults_time_and_ids_are_filled_in() -> None:
    """Every event has the defaults, its own members over them, times since the new year, and an id by its number."""
    first, second, *_, last = events(one(BURST))
    assert first == {
        "event_id": "e1", "user_id": "u", "event_time": "2026-01-01T00:00:00Z", "ingest_time": "2026-01-01T00:00:00Z",
        "event_type": "deposit_completed", "amount": 9.0, "currency": "GBP", "channel": "web",
    }  # fmt: skip
    assert (second["event_id"], second["event_time"], second["amount"]) == ("e2", "2026-01-01T00:00:01Z", 4.5)
    assert (last["event_id"], last["event_time"], last["channel"]) == ("e6", "2026-01-01T00:00:10Z", "api")


@pytest.mark.parametrize(
    ("at", "time"),
    [
        ("0s", "00:00:00Z"),
        ("2s500ms", "00:00:02.500000Z"),
        ("1us", "00:00:00.000001Z"),
        (" 1h  30m ", "01:30:00Z"),
        ("90m", "01:30:00Z"),
    ],
)
def test_times_may_have_several_parts(at: str, time: str) -> None:
    """And white space between them."""
    (event,) = events(one(f"[[transcript]]\nscenario='velocity'\nexpect=[]\nevents=[{{ at = '{at}', {DEFAULTS} }}]"))
    assert event["event_time"] == f"2026-01-01T{time}"


@pytest.mark.parametrize(("written", "digits"), [('"9000.00"', "9000.00"), ("9000", "9000"), ("9_000.5", "9000.5")])
def test_an_amount_keeps_its_digits(written: str, digits: str) -> None:
    """Text or number, it stands in the line as a person wrote it: no binary number touches it."""
    text = BURST.replace("amount = 4.5", f"amount = {written}")
    assert f'"amount":{digits},'.encode() in one(text).data.splitlines()[1]


def test_nested_fields_go_by_their_flat_names() -> None:
    """A contract without ingest time; objects are made where a field lies in one, and only there."""
    text = """
[[transcript]]
scenario = "velocity"
expect = []
defaults = { payer = "a", n = 1 }
events = [
  { at = "1d", payee = "b" },
  { at = "2d", id = "mine", yes = true, when_due = 2026-02-01T00:00:00Z },
]
"""
    assert events(one(text, NESTED)) == [
        {
            "key": "e1", "at_time": "2026-01-02T00:00:00Z", "src": {"name": "a", "n": 1},
            "to": {"account": {"name": "b"}},
        },
        {
            "key": "mine", "at_time": "2026-01-03T00:00:00Z", "src": {"name": "a", "n": 1}, "yes": True,
            "when_due": "2026-02-01T00:00:00+00:00",
        },
    ]  # fmt: skip


# -- what counts as passed -----------------------------------------------------------------------------------------


def test_exactly_the_expected_events_must_be_flagged() -> None:
    """A hit that stays out fails, and so does one that nobody expects."""
    assert outcome_of(BURST) == (True, ("e6",), (), ())
    assert outcome_of(BURST.replace('["e6"]', "[]")) == (False, ("e6",), (), ("e6",))
    assert outcome_of(BURST.replace('at = "10s"', 'at = "11s"')) == (False, (), ("e6",), ())
    assert outcome_of(BURST.replace('["e6"]', '["e6", "e5"]')) == (False, ("e6",), ("e5",), ())


def test_only_flags_of_its_own_scenario_count() -> None:
    """Another scenario may flag what it likes."""
    text = BURST.replace("amount = 100", 'amount = "900.00"')
    assert outcome_of(text)[0]
    assert outcome_of(text.replace('"velocity"', '"threshold"').replace('["e6"]', '["e3"]'))[0]


def test_transcripts_do_not_see_each_other() -> None:
    """Each begins with an empty state: the same ids and users may be in all of them."""
    outcomes = [run_transcript(each, CONTRACT, RULES) for each in read(BURST + BURST)]
    assert [outcome.passed for outcome in outcomes] == [True, True]
    assert [outcome.transcript.line for outcome in outcomes] == [2, 15]


def test_an_account_may_be_silent_for_years() -> None:
    """What a policy would call a jump ahead is how a transcript says that time goes by."""
    assert outcome_of(BURST.replace('at = "10s"', 'at = "4000d"').replace('["e6"]', "[]"))[0]


def test_an_event_that_the_engine_refuses_fails_with_its_reason() -> None:
    """What only screening finds, such as an event that is received before it happens."""
    text = BURST.replace('channel = "api"', 'ingest_time = "2025-12-31T00:00:00Z"')
    outcome = run_transcript(one(text), CONTRACT, RULES)
    assert not outcome.passed
    assert outcome.halt.startswith("e6 is no valid event here: contract: later than ingest_time")


def test_a_condition_is_true_false_unknown_or_not_looked_at() -> None:
    """Blank behind an `on` that is not true, and for fields of an earlier event that is not there."""
    rules = """
ruleset = "r"
version = 1
contract = "nested/1"
[scenario.velocity]
typology = "t"
version = 1
severity = "low"
on = "yes"
after = { where = "n == 1", within = "1d" }
when = "payee == 'b' and n > a.n"
measure = "n"
threshold = 0
"""
    text = """
[[transcript]]
scenario = "velocity"
expect = []
defaults = { payer = "a", yes = true }
events = [
  { at = "0s", n = 1 },
  { at = "1s", n = 2, payee = "c" },
  { at = "2s", n = 3, yes = false },
  { at = "3s", n = 1, payee = "b" },
]
"""
    inside = values_of(one(text, NESTED), NESTED, load_ruleset(rules.encode(), "r.toml", NESTED))
    assert inside.columns == ("on", "after", "payee == 'b'", "n > a.n")
    assert inside.rows == (
        ("true", "false", "unknown", ""),
        ("true", "true", "false", "true"),
        ("false", "", "", ""),
        ("true", "true", "true", "false"),
    )
    absent = values_of(
        one(text.replace(", yes = true", ""), NESTED), NESTED, load_ruleset(rules.encode(), "r.toml", NESTED)
    )
    assert absent.rows[0] == ("unknown", "", "", "")


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"velocity"', '"velocty"', ":3:12: transcript.0.scenario: the ruleset has no scenario 'velocty': did you"),
        ('"velocity"', "5", ":3:12: transcript.0.scenario: must be text in quotes, not an integer"),
        ("expect =", "expects =", ":5:1: transcript.0.expects: unknown key: did you mean 'expect'?"),
        ('["e6"]', '["e7"]', ":5:11: transcript.0.expect.0: 'e7' is no id of these events: did you mean 'e6'?"),
        ('["e6"]', "[6]", ":5:11: transcript.0.expect.0: 6 is no id of these events: name events by their ids"),
        ("amount = 4.5", "amount = 4.555", ":9:25: transcript.0.events.1.amount: has more than 2 decimals"),
        ("amount = 4.5", 'amount = "x"', ":9:25: transcript.0.events.1.amount: is not an amount: major units"),
        ("amount = 4.5", "amount = true", ":9:25: transcript.0.events.1.amount: is not an amount"),
        ("amount = 4.5", "amount = 1e3", ":9:25: transcript.0.events.1.amount: is not an amount"),
        ("amount = 4.5", "amount = -1", ":9:25: transcript.0.events.1.amount: not an amount within the bounds"),
        ("amount = 4.5", "amnt = 4.5", ":9:16: transcript.0.events.1.amnt: unknown key: did you mean 'amount'?"),
        ("amount = 4.5", 'event_id = "x"', ":9:16: transcript.0.events.1.event_id: is said by 'id': write id = …"),
        ("amount = 4.5", 'event_time = "x"', ":9:16: transcript.0.events.1.event_time: is said by 'at'"),
        ("amount = 4.5", 'id = "e1"', ":9:21: transcript.0.events.1.id: 'e1' is the id of an event above"),
        ("amount = 4.5", "channel = 4.5", ":9:26: transcript.0.events.1.channel: must be text in quotes, not a"),
        ("amount = 4.5", 'channel = "x"', ":9:26: transcript.0.events.1.channel: not one of the allowed values: see"),
        ('at = "1s"', 'at = "1"', ":9:10: transcript.0.events.1.at: '1' is not a time: the time since the beginning"),
        ('at = "1s"', "at = 1", ":9:10: transcript.0.events.1.at: must be text in quotes"),
        ('at = "1s"', 'at = "40000d"', ":9:10: transcript.0.events.1.at: '40000d' is not a time"),
        ('at = "1s", ', "", ":9:3: transcript.0.events.1.at: is missing"),
        ('at = "2s" }', 'at = "0s" }', ":11:10: transcript.0.events.3.at: is before the event above it"),
        (', channel = "web"', "", ":8:3: transcript.0.events.0: required field is missing: channel: see the contract"),
        (', channel = "web"', ', channel = "w"', ":6:108: transcript.0.defaults.channel: not one of the"),
        ("defaults = {", "defaults = { at = '1s',", ":6:14: transcript.0.defaults.at: unknown key"),
        ("[[transcript]]", "[transcript]", ":2:1: transcript: must be a list, not a table: write [[transcript]]"),
        ("[[transcript]]", "[[transcripts]]", ":2:1: transcripts: unknown key: did you mean 'transcript'?"),
        ("[[transcript]]", "[[transcript]", "is not TOML"),
        ('  { at = "0s" },', "  5,", ":8:3: transcript.0.events.0: must be a table, not an integer"),
    ],
)
def test_an_error_says_where_and_what_is_allowed(old: str, new: str, said: str) -> None:
    """File, line, column, key; the caret stands below the place."""
    assert old in BURST
    with pytest.raises(ConfigError) as caught:
        read(BURST.replace(old, new, 1))
    assert said in str(caught.value)
    assert str(caught.value).startswith("t.toml")


def test_a_history_has_events() -> None:
    """An empty one shows nothing, one of ten thousand and more is no transcript."""
    with pytest.raises(ConfigError, match="0 events: 1 to 10000"):
        read(f"[[transcript]]\nscenario='velocity'\nexpect=[]\ndefaults={{ {DEFAULTS} }}\nevents=[]")


def test_the_examples_of_the_reference_hold() -> None:
    """The transcripts in config/README.md, run with the ruleset that stands there."""
    config = REPOSITORY / "config"
    contract = compile_contract((config / "contracts" / "account_transfers.toml").read_bytes(), "contract.toml")
    blocks = re.findall(r"```toml\n(.*?)```", (config / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    ruleset = next(block for block in blocks if block.startswith("ruleset =") and "[scenario.CASH-01]" in block)
    loaded = load_ruleset(ruleset.encode(), "README.md", contract)
    (example,) = [block for block in blocks if block.startswith("[[transcript]]")]
    found = read_transcripts(example.encode(), "README.md", contract, [each.id for each in loaded.scenarios])
    assert [run_transcript(each, contract, loaded).passed for each in found] == [True, True]
