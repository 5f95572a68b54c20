"""`tidewaiter rules`: its transcripts, its plan, what a history covers, and the schema with the parser's keys."""

from __future__ import annotations

import gzip
import json
import os
import re
import tomllib
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from pure_core import CONTRACT, HALT, RULES, evaluate_lines, line, lines, new_engine
from support import REPOSITORY, enter_configured
from tidewaiter.core.contract import compile_contract
from tidewaiter.core.scenarios import load_ruleset, schema, syntax, tables
from tidewaiter.core.scenarios.coverage import Coverage
from tidewaiter.core.scenarios.readable import conjuncts, filled, term_text
from tidewaiter.shell.commands import app

if TYPE_CHECKING:
    from pathlib import Path

RULESET = """
ruleset = "mine"
version = 1
contract = "money_flow/1"

[field]
cash = "channel in ('web', 'api')"      # a # in a 'text'

[list.watched]
file = "watched.txt"

[metric]
seen = { fn = "count", by = "user_id", window = "1h", where = "cash" }
near = { fn = "count", by = "user_id", window = "1h", where = "amount >= p.low" }
spent = { fn = "sum(amount)", by = ["user_id", "channel"], window = "1d", default = "0" }

[scenario.big]
title = "Many, of which the last is big"
typology = "large"
risk_ref = "RA-1"
version = 1
severity = "high"
on = "cash"
when = '''
  seen >= p.n          # often enough
  and amount >= p.floor
'''
params = { n = 2, floor = "100.00" }
segment.rich = { where = "user_id in list.watched", floor = "500.00" }
segment.nobody = { where = "user_id == 'nobody'", n = 9 }
measure = "amount"
threshold = "p.floor"
tests = ["big.toml"]

[scenario.near_ones]
typology = "large"
version = 1
severity = "low"
status = "shadow"
when = "near * 2 >= p.n and spent > 0 and not (event_type == 'deposit_completed' or amount % 7 == 0)"
params = { low = "50.00", n = 3 }
segment.rich = { where = "user_id in list.watched", low = "60.00" }
measure = "near"
threshold = "p.n"

[scenario.silent]
typology = "never"
version = 1
severity = "low"
when = "amount > 5 and channel == 'mobile' and amount < 5"
measure = "amount"
threshold = "5"

[scenario.later]
typology = "never"
version = 1
severity = "low"
status = "draft"
when = "amount > 5"
measure = "amount"
threshold = "5"
tests = ["big.toml"]
"""
DEFAULTS = (
    'defaults = { user_id = "u", event_type = "deposit_completed", amount = "9.00", currency = "GBP", channel = "web" }'
)
TRANSCRIPTS = f"""
[[transcript]]
scenario = "big"
title = "the second is big"
expect = ["e2"]
{DEFAULTS}
events = [ {{ at = "0s" }}, {{ at = "1h", amount = "100.00" }} ]

[[transcript]]
scenario = "big"
title = "the second comes late"
expect = []
{DEFAULTS}
events = [ {{ at = "0s" }}, {{ at = "1h 1s", amount = "100.00" }} ]

[[transcript]]
scenario = "later"
expect = []
{DEFAULTS}
events = [ {{ at = "0s" }} ]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with a configuration, a ruleset of its own, its list and its transcripts."""
    enter_configured(tmp_path, monkeypatch, {"r.toml": RULESET, "watched.txt": "u1\n", "big.toml": TRANSCRIPTS})
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    """Run `tidewaiter rules ARGUMENTS`; return standard output and error."""
    assert app.main(["rules", *arguments]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out, captured.err


# -- test ----------------------------------------------------------------------------------------------------------


def test_transcripts_that_hold_end_in_exit_0(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is one line; drafts do not run, and what has none is named. No stream and no state directory is needed."""
    before = sorted(here.rglob("*"))
    out, err = said(capsys, "test")
    assert err == ""
    assert re.search(r"big +the second is big +passed", out)
    assert "not run: later is draft" in out
    assert "untested: near_ones, silent\n2 transcripts: 2 passed, 0 failed\n" in out
    assert sorted(here.rglob("*")) == before


def test_a_transcript_that_fails_says_what_was_inside(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 and one line on standard error; the events with metrics and conditions on standard output."""
    file = here / "config" / "big.toml"
    file.write_text(file.read_text().replace('at = "1h"', 'at = "2h"').replace("expect = []", 'expect = ["e1"]', 1))
    out, err = said(capsys, "test", code=2)
    assert err == (
        "tidewaiter: config/big.toml:2: 2 of 2 transcripts failed: big: not flagged: e2\n"
    )  # fmt: skip
    assert "FAILED: not flagged: e2" in out
    assert "config/big.toml:2: big: the second is big\n" in out
    rows = [row.split() for row in out.splitlines() if row.startswith(("  event ", "  e1 ", "  e2 "))]
    assert rows[0] == [
        "event",
        "at",
        "expected",
        "flagged",
        "seen",
        "on",
        "seen",
        ">=",
        "p.n",
        "amount",
        ">=",
        "p.floor",
    ]
    assert rows[1] == ["e1", "0s", "1", "true", "false", "false"]
    assert rows[2] == ["e2", "2h", "yes", "1", "true", "false", "true"]


def test_a_surplus_flag_fails_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A near miss that hits is as wrong as a hit that misses."""
    file = here / "config" / "big.toml"
    file.write_text(file.read_text().replace("1h 1s", "1h"))
    assert "flagged and not expected: e2" in said(capsys, "test", code=2)[1]


def test_one_scenario_can_be_tested_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt one is named."""
    assert "untested: silent\n0 transcripts" in said(capsys, "test", "--scenario", "silent")[0]
    assert "has none of that id: did you mean 'silent'?" in said(capsys, "test", "--scenario", "silence", code=2)[1]


@pytest.mark.parametrize(
    ("file", "old", "new", "where"),
    [
        (
            "r.toml",
            '"big.toml"',
            '"bag.toml"',
            r"config/r.toml:\d+:10: scenario.big.tests.0: .*/bag.toml cannot be read",
        ),
        ("big.toml", '"e2"', '"e3"', r"config/big.toml:5:11: transcript.0.expect.0: 'e3' is no id of these events"),
        ("big.toml", 'at = "0s"', 'at = "x"', r"config/big.toml:7:19: transcript.0.events.0.at: 'x' is not a time"),
        ("r.toml", "amount >= p.floor", "amont >= p.floor", r"scenario.big.when: .*'amont'"),
    ],
)
def test_an_error_points_at_its_place(
    here: Path, capsys: pytest.CaptureFixture[str], file: str, old: str, new: str, where: str
) -> None:
    """In the ruleset as in the transcripts, one line, exit 2."""
    path = here / "config" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    err = said(capsys, "test", code=2)[1]
    assert re.search(where, err), err
    assert err.count("\n") == 1


def test_a_transcript_file_is_a_regular_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe would be waited for, a NUL is in no path, and a file has a largest size: one line each."""
    os.mkfifo(here / "config" / "pipe")
    with (here / "config" / "huge").open("wb") as file:
        file.truncate(9 << 20)
    for name, why in (
        ("pipe", "is not a regular file"),
        ("a\\u0000b", "embedded null byte"),
        ("huge", "at most 8388608"),
    ):
        (here / "config" / "r.toml").write_text(RULESET.replace('"big.toml"', f'"{name}"', 1))
        err = said(capsys, "test", code=2)[1]
        assert "cannot be read: " in err
        assert why in err
        assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["test", "show", "coverage"])
def test_nothing_quoted_moves_the_terminal(here: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    """Escape sequences and marks of direction in titles and texts are written out."""
    bad, written = "\\u001b]0;x\\u0007\\u202e[bold]", r"\x1b]0;x\x07\u202e[bold]"
    for name, old in (("big.toml", "the second is big"), ("r.toml", "Many, of which")):
        path = here / "config" / name
        path.write_text(path.read_text().replace(old, old + bad, 1).replace("expect = []", 'expect = ["e1"]', 1))
    rules = here / "config" / "r.toml"  # a condition takes no control characters, and marks of direction as they are
    rules.write_text(rules.read_text().replace("spent > 0", "spent > 0 and user_id != '\\u202e'"))
    metric = 'seen = { fn = "count", by = "user_id", window = "1h", where = "cash'
    rules.write_text(rules.read_text().replace(metric, f"{metric} and user_id != '\\u202e'"))
    out, err = said(capsys, command, code=2 if command == "test" else 0)
    assert (r"\u202e" if command == "show" else written) in out
    assert not set(out + err) & set("\x1b\x07\u202e")


def test_without_a_configuration_the_other_way_is_named(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No stream is asked for; one that was named and is not there is no reason to do without."""
    monkeypatch.chdir(here / "config")
    err = said(capsys, "show", code=2)[1]
    assert "does not exist: name the configuration with --config FILE, or pass --contract and --rules\n" in err
    assert "--contract" not in said(capsys, "show", "--config", "gone.toml", code=2)[1]


# -- show ----------------------------------------------------------------------------------------------------------


def test_show_lists_scenarios_metrics_and_lists(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With what reads what: a template once for each value in use."""
    out, _ = said(capsys, "show")
    assert re.search(r"big +1 +live +high +large +user_id +- +every +seen\n", out)
    assert "not run: later is draft" in out
    assert re.search(r"near +count, 1h +user_id +amount >= 50.00 +near_ones\n", out)
    assert re.search(r"near#2 +count, 1h +user_id +amount >= 60.00 +near_ones\n", out)
    assert re.search(r"spent +sum\(amount\), 1d +user_id, channel +- +near_ones\n", out)
    assert re.search(r"watched +1 +exact +\S+ +[0-9a-f]{64}\n", out)


def test_the_plan_shows_every_step_under_its_condition(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the order of the pass."""
    out, _ = said(capsys, "show", "--plan")
    assert "if cash\n" in out
    steps = [re.sub(r"^[│├└─ ]+", "", row) for row in out.splitlines()]
    assert steps.index("metric seen: count, 1h by user_id, for big") < next(
        at for at, step in enumerate(steps) if step.startswith("scenario big; rich: seen >= 2 and amount >= 500.00")
    )
    assert "4 metrics are kept, 0 of them for more than one reader" in out


def test_the_function_can_be_printed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same text as `check --print-python`, and not together with the plan."""
    out, _ = said(capsys, "show", "--python")
    compile(out, "printed", "exec")
    assert app.main(["check", "--print-python"]) == 0
    assert capsys.readouterr().out == out
    assert "two views: ask for one" in said(capsys, "show", "--python", "--plan", code=2)[1]


@pytest.mark.parametrize(
    "text",
    [
        "not (event_type == 'deposit_completed' or amount % 7.00 == 0.00)",
        "amount + amount * 2 > 5.00",
        "(amount + amount) * 2 > 5.00",
        "amount - (amount - amount) > -amount",
        "1.00 < amount <= 5.00",
        "channel in ('web', 'api') and channel not in ('mobile', 'web')",
        "event_type == 'deposit_completed' and (amount > 1.00 or amount < 2.00) or amount == 3.00",
        "user_id in list.watched or user_id not in list.watched",
    ],
)
def test_a_term_reads_as_its_condition(text: str) -> None:
    """Brackets stand where they must, and nowhere else."""
    rules = f"""
ruleset = "r"
version = 1
contract = "money_flow/1"
[list.watched]
file = "w.txt"
[scenario.s]
typology = "t"
version = 1
severity = "low"
when = "{text}"
measure = "amount"
threshold = "5"
"""
    ruleset = load_ruleset(rules.encode(), "r.toml", CONTRACT, {"w.txt": b"u1\n"})
    assert term_text(ruleset.checked.scenarios[0].variants[0].when) == text


def test_a_condition_is_cut_into_what_must_all_hold() -> None:
    """Brackets and remarks do not confuse it, nor words in texts; numbers take the place of names."""
    text = "a >= p.n   # not 'and'\n and (b == ' and # ' or c)\n and ((d and not (e)) and f in list.x)"
    parts = conjuncts(text)
    assert parts == ("a >= p.n", "b == ' and # ' or c", "d", "not (e)", "f in list.x")
    values = {"a": "3", "p.n": "2", "b": "'x'", "and": "no", "list.x": "no", "x": "no", "d": "true"}
    numbers = [filled(part, values) for part in parts]
    assert numbers == ["3 >= 2", "'x' == ' and # ' or c", "true", "not (e)", "f in no"]


# -- coverage ------------------------------------------------------------------------------------------------------


def test_coverage_is_a_table_of_typologies_and_risks(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Drafts too; what has no risk reference is named."""
    out, _ = said(capsys, "coverage")
    assert re.search(r"large +big +Many, of which the last is big +high +live +RA-1 +1 +-\n", out)
    assert re.search(r"\n +near_ones +low +shadow +- +- +-\n", out)
    assert "4 scenarios, 2 of them live, cover 2 typologies" in out
    assert "without risk_ref: near_ones, silent, later" in out


@pytest.mark.parametrize("name", ["events.jsonl", "events.jsonl.gz", "parts"])
def test_a_history_shows_what_never_fired_and_why(here: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Scenario by scenario, condition by condition, population by population; nothing is written."""
    history = lines(b"{}", *(line(number, amount=number * 10 + 1) for number in range(60)))
    if name == "parts":
        (here / name).mkdir()
        cut = history.index(b"\n", len(history) // 2) + 1
        (here / name / "1.jsonl").write_bytes(history[:cut])
        (here / name / "2.jsonl").write_bytes(history[cut:])
    else:
        (here / name).write_bytes(gzip.compress(history) if name.endswith("gz") else history)
    before = sorted(here.rglob("*"))
    out, err = said(capsys, "coverage", name)
    assert err == ""
    assert "60 events, 1 lines left out" in out
    # u1 is of the list: its floor is 500, everybody else's is 100
    assert re.search(r"big +live +60 +0 +36 +36 +0\n", out)
    assert re.search(r"near_ones +shadow +60 +0 +0 +0 +0\n", out)
    assert "near_ones: looked at 60 events\n    near * 2 >= p.n: true at 5" in out
    assert "    not (event_type == 'deposit_completed' or amount % 7 == 0): never true\n" in out
    assert "silent: looked at 60 events\n    amount > 5: true at 59\n    channel == 'mobile': never true\n" in out
    assert "    amount < 5: true at 1\n" in out
    assert "no event reached\n  big: segment nobody (n = 9)\n" in out
    assert "near_ones: " not in out.split("no event reached")[1]
    assert sorted(here.rglob("*")) == before


def test_conditions_that_were_true_but_never_together(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each was true, never all at one event."""
    (here / "e.jsonl").write_bytes(lines(*(line(at, amount=at + 1, channel="mobile") for at in range(9))))
    out, _ = said(capsys, "coverage", "e.jsonl")
    assert "each was true, never all at one event" in out
    assert "big: no event was looked at: `on` was never true" in out


def test_an_earlier_event_that_never_came_in_time(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """How many events it would take, and how near one had to be."""
    rules = here / "config" / "r.toml"
    sequence = "after = { where = 'amount  >= p.low', within = '1h' }\nparams = { low = '5.00' }\n"
    rules.write_text(rules.read_text().replace('when = "amount > 5 and', sequence + 'when = "amount > 5 and', 1))
    apart = [line(at, amount=9, user_id=f"u{at}") for at in range(4)]
    (here / "e.jsonl").write_bytes(lines(*apart, line(9, amount=1, user_id="u9")))
    said_so = "    after: no looked-at event had one within 1h (4 events matched 'amount >= p.low')\n"
    assert said_so in said(capsys, "coverage", "e.jsonl")[0]
    (here / "e.jsonl").write_bytes(lines(*apart, line(9, amount=1, user_id="u1")))
    assert "    after: amount >= p.low: true at 1\n" in said(capsys, "coverage", "e.jsonl")[0]


def test_a_chain_over_several_units_is_one_condition(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its constant is money to one side and a whole number to the other; what stands behind keeps its own counts."""
    contract = here / "config" / "c.toml"
    contract.write_bytes(CONTRACT.text + b'n = { type = "integer", required = false, default = 1 }\n')
    rules = here / "config" / "r.toml"
    condition = "amount > 5 > n and channel == 'web' and user_id == 'ZZ'"
    rules.write_text(RULESET.replace("amount > 5 and channel == 'mobile' and amount < 5", condition))
    (here / "e.jsonl").write_bytes(lines(*(line(at, amount=at + 1, n=at + 1) for at in range(9))))
    out, _ = said(capsys, "coverage", "e.jsonl", "--contract", str(contract))
    assert "amount > 5 > n: never true\n    channel == 'web': true at 9\n    user_id == 'ZZ': never true\n" in out


def test_a_history_that_cannot_be_read_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Missing, and cut off in the middle of its compression."""
    assert "gone.jsonl does not exist" in said(capsys, "coverage", "gone.jsonl", code=2)[1]
    (here / "e.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:-4])
    assert "e.jsonl.gz: cannot be read: it is not whole" in said(capsys, "coverage", "e.jsonl.gz", code=2)[1]


def test_probes_change_no_flag() -> None:
    """The counts beside the probes are those of the engine without them, whatever the cut."""
    items = [line(at, amount=at * 37 % 900 + 1, user_id=f"u{at % 2}") for at in range(600)]
    outcome = evaluate_lines(new_engine(), *items)
    expected = Counter(flag["rule_name"] for flag in outcome.flags)
    assert len(expected) == 3
    for size in (600, 7):
        coverage = Coverage(RULES, CONTRACT, HALT)
        for at in range(0, 600, size):
            coverage.feed(lines(*items[at : at + size]), at_start=at == 0)
        assert {each.id: each.flags for each in coverage.scenarios()} == expected


# -- schema --------------------------------------------------------------------------------------------------------


def test_the_schema_has_the_parser_s_keys() -> None:
    """Key by key, table by table, and the same forms of durations and offsets: it cannot drift."""
    for keys, known in (
        (syntax.RULESET_KEYS, schema.RULESET),
        (syntax.LIST_KEYS, schema.LIST),
        (syntax.METRIC_KEYS, schema.METRIC),
        (syntax.SCENARIO_KEYS, schema.SCENARIO),
        (syntax.AFTER_KEYS, schema.AFTER),
        (syntax.SCORE_KEYS, schema.SCORE),
        (syntax.BAND_KEYS, schema.BAND),
        (syntax.TYPOLOGY_KEYS, schema.TYPOLOGY),
    ):
        assert set(keys) == set(known)
    without_groups = [re.sub(r"[()^$]|\\Z", "", text) for text in (schema.LENGTH, tables._LENGTH.pattern)]
    assert without_groups[0] == without_groups[1]
    without_groups = [re.sub(r"[()^$]|\\Z", "", text) for text in (schema.UTC_OFFSET, tables._UTC_OFFSET.pattern)]
    assert without_groups[0] == without_groups[1]


def complaints(rule: dict[str, Any], value: Any, where: str = "") -> list[str]:
    """Return where `value` does not fit a schema, of the few keywords that ours uses."""
    found: list[str] = []
    kinds: dict[str, Any] = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float)}
    wanted = rule.get("type", [])
    wanted = [wanted] if isinstance(wanted, str) else wanted
    fits = any(isinstance(value, kinds.get(kind, bool)) for kind in wanted)
    if wanted and (not fits or (isinstance(value, bool) and "boolean" not in wanted)):
        return [f"{where}: type"]
    for word in ("oneOf", "anyOf"):
        if word in rule:
            fitting = [each for each in rule[word] if not complaints(each, value, where)]
            if not fitting or (word == "oneOf" and len(fitting) > 1):
                found.append(f"{where}: {word}")
    if "enum" in rule and value not in rule["enum"]:
        found.append(f"{where}: enum")
    if "const" in rule and value != rule["const"]:
        found.append(f"{where}: const")
    if isinstance(value, str) and not re.search(rule.get("pattern", ""), value):
        found.append(f"{where}: pattern")
    if isinstance(value, int) and not rule.get("minimum", value) <= value <= rule.get("maximum", value):
        found.append(f"{where}: range")
    if isinstance(value, list):
        found += [
            each for at, item in enumerate(value) for each in complaints(rule.get("items", {}), item, f"{where}.{at}")
        ]
        if len(value) < rule.get("minItems", 0):
            found.append(f"{where}: minItems")
    if isinstance(value, dict):
        found += [f"{where}.{key}: missing" for key in rule.get("required", ()) if key not in value]
        for key, item in value.items():
            inner = rule.get("properties", {}).get(key)
            patterns = [each for pattern, each in rule.get("patternProperties", {}).items() if re.search(pattern, key)]
            inner = inner if inner is not None else next(iter(patterns), rule.get("additionalProperties", True))
            if inner is False:
                found.append(f"{where}.{key}: unknown")
            elif isinstance(inner, dict):
                found += complaints(inner, item, f"{where}.{key}")
    return found


@pytest.mark.parametrize("file", ["money_flow", "aml_core", ""])
def test_what_the_parser_accepts_the_schema_accepts(capsys: pytest.CaptureFixture[str], file: str) -> None:
    """The shipped rulesets, and one with most constructs; what is misspelt it does not."""
    rule = json.loads(said(capsys, "schema")[0])
    text = (REPOSITORY / "config" / "rules" / f"{file}.toml").read_text() if file else RULESET
    data = tomllib.loads(text)
    assert complaints(rule, data) == []
    data["scenario"]["threshhold"] = {**next(iter(data["scenario"].values())), "treshold": 5}
    assert complaints(rule, data) == [".scenario.threshhold.treshold: unknown"]


def test_the_schema_is_refused_a_wrong_kind(capsys: pytest.CaptureFixture[str]) -> None:
    """The keywords say something: each of these is found at its place."""
    rule = json.loads(said(capsys, "schema")[0])
    data = tomllib.loads(RULESET)
    data["version"] = 0
    data["metric"]["seen"]["window"] = "1w"
    data["scenario"]["big"]["severity"] = "huge"
    del data["scenario"]["silent"]["when"]
    assert sorted(complaints(rule, data)) == [
        ".metric.seen.window: anyOf",
        ".scenario.big.severity: enum",
        ".scenario.silent.when: missing",
        ".version: range",
    ]


# -- help ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["test", "show", "coverage", "schema"])
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """That can be copied."""
    out, _ = said(capsys, command, "--help")
    assert f"tidewaiter rules {command}" in out.split("Example")[-1]


def test_the_pack_holds_what_its_transcripts_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every scenario of the shipped pack has transcripts, and they pass."""
    monkeypatch.delenv("TIDEWAITER_CONFIG", raising=False)
    monkeypatch.chdir(REPOSITORY)
    config = REPOSITORY / "config"
    contract, rules = config / "contracts" / "account_transfers.toml", config / "rules" / "aml_core.toml"
    assert compile_contract(contract.read_bytes(), "c").name == "account_transfers"
    out, _ = said(capsys, "test", "--rules", str(rules), "--contract", str(contract))
    assert ", 0 failed" in out
    assert "untested" not in out
