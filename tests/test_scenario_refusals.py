"""What the scenario language refuses and where it points; that nothing accepted can fail or reach out of its place."""

# ruff: noqa: E501 - a row of a table of cases reads best on one line

from __future__ import annotations

import re
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenario_demo import CONTRACT, HEAD, START, event, load, scenario, toml_text
from scenario_rig import rendered
from stopwatch import Stopwatch
from support import REPOSITORY
from tidewaiter.core.contract import compile_contract
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.scenarios import load_ruleset
from tidewaiter.core.scenarios.expressions import Function, Node, parse_expression, parse_function, parse_template
from tidewaiter.core.toml_source import TomlSource

# -- what is refused, and where the message points ---------------------------------------------------------------------

ONE = "[scenario.one]\ntypology = 'test'\nversion = 1\nseverity = 'low'\nmeasure = 'amount'\nthreshold = 1\nwhen = 'cash'\n"
BAD_CONDITIONS = [
    ("amout > 5", "1: there is nothing called 'amout'", "did you mean 'amount'?"),
    ("account == NL", "12: there is nothing called 'NL'", "if it is a text: 'NL'; allowed: "),
    (
        "cash and kind == 'payy'",
        "18: 'payy' is not a value of the field",
        "did you mean 'pay'? allowed: pay, receive, fee",
    ),
    ("kind == pay", "9: there is nothing called 'pay'", "a text needs quotes: 'pay'"),
    ("limit < amount", "1: there is nothing called 'limit'", "a parameter is written p.limit"),
    ("amount > p.limt", "10: there is no parameter 'limt'", "did you mean 'limit'?"),
    ("amount > count", "10: is a whole number, but money with 2 decimals is needed here", ""),
    ("amount > points", "10: is money with 3 decimals, the other side is money with 2", ""),
    ("amount * balance > 1", "1: money times money has no unit", ""),
    ("amount > 1.001", "10: has more than 2 decimals", ""),
    ("amount * 1.5 > 1", "10: is not a whole number", ""),
    ("count > '5'", "9: is a text, but a whole number is needed here", "written without quotes"),
    ("kind > 'pay'", "8: `>` does not order one of pay, receive, fee", ""),
    ("kind == side", "1: the two fields have no value in common", ""),
    ("amount", "1: is money with 2 decimals, not a condition", "compare it"),
    ("1 < 2", "1: compares two constants", ""),
    ("at > 5", "1: at is a time", "windows"),
    ("amount / 2 > 1", "1: Div is not allowed", "there is no division"),
    ("amount // 2 > 1", "1: FloorDiv is not allowed", "there is no division"),
    ("amount ** 2 > 1", "1: Pow is not allowed", "no power"),
    ("max(amount, 2) > 1", "1: Call is not allowed", "[metric]"),
    ("account.upper == 'A'", "1: Attribute is not allowed", "p.NAME"),
    ("p.limit.real > amount", "1: Attribute is not allowed", ""),
    ("account[0] == 'A'", "1: Subscript is not allowed", "allowed: and or not"),
    ("(lambda: cash)", "2: Lambda is not allowed", ""),
    ("(cash := true)", "2: NamedExpr is not allowed", ""),
    ("cash if cash else cash", "1: IfExp is not allowed", ""),
    ("[x for x in kind]", "1: ListComp is not allowed", ""),
    ("f'{amount}' == 'x'", "1: JoinedStr is not allowed", ""),
    ("cash is true", "1: Is is not allowed", ""),
    ("cash & cash", "1: BitAnd is not allowed", ""),
    ("~count == 1", "1: UnaryOp is not allowed", ""),
    ("kind in ('pay')", "10: `in` needs a list", "needs its comma"),
    ("kind in other", "9: `in` needs a list", ""),
    ("kind in ('pay', other)", "17: a list holds constants only", ""),
    ("kind in ('pay' 'fee',)", "10: is not a plain text", ""),
    ("'pay' in ('pay', 'fee')", "1: compares two constants", ""),
    ("1 < count in (2, 3)", "1: `in` cannot stand in a chain", ""),
    ("count % step == 0", "9: `%` needs a positive constant", ""),
    ("count % 0 == 0", "9: `%` needs a positive constant", ""),
    ("amount > 5e2", "10: is not a number that can be used here", ""),
    ("count > 0x10", "9: is not a number that can be used here", ""),
    ("count > 12345678901234567890", "9: is not a number that can be used here", ""),
    ("count > 5j", "9: is not a number that can be used here", ""),
    ("count * (999999999999999999 * 9) > 1", "10: is too large a number", ""),
    ("account == b'x'", "12: is not a number that can be used here", ""),
    ("account == None", "12: is not a number that can be used here", ""),
    ("account == r'x'", "12: is not a plain text", ""),
    ("account == '''x'''", "12: is not a plain text", ""),
    ("account == 'a\\n'", "14: a backslash is not allowed", ""),
    ("cash) or (cash", "1: is not one expression", ""),
    ("cash, cash", "1: is not one expression", ""),
    ("cash and", "8: is not an expression", ""),
    ("1or cash", "1: is not an expression", ""),
    ("", "1: is empty", ""),
    ("\uff43ash", "1: '\uff43ash' is not a usable name", "plain letters"),
    ("account == 'ä' and kind == 'x'", "28: 'x' is not a value", ""),
    ("not " * 60 + "cash", "1: is nested too deeply", "at most 50"),
    ("(" * 150 + "cash" + ")" * 150 + " and x", "310: there is nothing called 'x'", ""),
    ("(" * 900 + "cash" + ")" * 900, "", "allowed: and or not"),
    ("-" * 1999 + "1", "1: is", ""),
    ("cash and " * 300 + "cash", "1: is 2704 characters long", "at most 2000"),
]


@pytest.mark.parametrize(("when", "place", "hint"), BAD_CONDITIONS)
def test_a_bad_condition_is_refused_at_its_column(when: str, place: str, hint: str) -> None:
    """The message names file, line, column, key, what is wrong, and the hint what is allowed; a caret points at it."""
    text = f"{HEAD}[scenario.one]\ntypology = 't'\nversion = 1\nseverity = 'low'\nmeasure = 'amount'\nthreshold = 1\n"
    if "\\" in when or "\n" in when or "'''" in when:
        text += f"when = {toml_text(when)}\n"
        offset, place = 0, re.sub(r"^\d+: ", "", place)
    else:
        text += f'when = "{when}"\n'
        offset = len('when = "')
    with pytest.raises(ConfigError) as caught:
        load(text + "params = { limit = '5' }\n")
    message = caught.value.message
    assert message.startswith("r.toml:10:")
    if match := re.match(r"(\d+): (.*)", place):
        column = int(match[1]) + offset
        assert message.startswith(f"r.toml:10:{column}: scenario.one.when: {match[2]}")
        picture = str(caught.value).splitlines()[-2:]
        assert picture[1].index("^") == 4 + column - 1
        assert picture[0] == f'    when = "{when}"'
    else:
        assert place in message
    assert hint in str(caught.value)


BAD_FILES = [
    ("ruleset = 'x'\nversion = 1\ncontract = 'demo/3'\n" + ONE, "3:12: contract: the rules are written for 'demo/3'", "demo/2"),
    (HEAD + "[scenari.one]\n", "4:1: scenari: unknown key", "did you mean 'scenario'?"),
    (HEAD + ONE + "treshold = 5\n", "11:1: scenario.one.treshold: unknown key", "did you mean 'threshold'?"),
    (HEAD + ONE + "cool_down = '5m'\n", "11:1: scenario.one.cool_down: unknown key", "did you mean 'cooldown'? allowed: title"),
    (HEAD + ONE + "status = 'daft'\n", "11:10: scenario.one.status: 'daft' is not allowed", "did you mean 'draft'?"),
    (HEAD + ONE + "repeat = 'edgy'\n", "11:10: scenario.one.repeat: 'edgy'", "did you mean 'edge'? allowed: every, edge"),
    (HEAD + ONE.replace("'low'", "'hihg'"), "7:12: scenario.one.severity: 'hihg'", "did you mean 'high'?"),
    (HEAD + ONE.replace("version = 1", "version = 1.0"), "6:11: scenario.one.version: must be a whole number", ""),
    (HEAD + ONE.replace("version = 1", "version = true"), "6:11: scenario.one.version: must be a whole number", ""),
    (HEAD + ONE.replace("version = 1\n", ""), "4:1: scenario.one.version: is missing", ""),
    (HEAD + ONE + "window = '5 minutes'\n", "11:10: scenario.one.window: '5 minutes' is not a duration", "'5m'"),
    (HEAD + ONE + "window = 5\n", "11:10: scenario.one.window: must be text in quotes", ""),
    (HEAD + ONE + "subject = 'amount'\n", "11:11: scenario.one.subject: 'amount' is not a field to group by", ""),
    (HEAD + ONE + "params = { x = 5 }\n", "11:12: scenario.one.params.x: is never used", "p.x"),
    (HEAD + ONE + "on = { of = ['two'] }\n", "11:14: scenario.one.on.of.0: there is no scenario 'two'", ""),
    (HEAD + ONE + "on = { of = ['one'] }\n", "11:14: scenario.one.on.of.0: one does not stand earlier", ""),
    (HEAD + ONE + "on = { off = ['one'] }\n", "11:8: scenario.one.on.off: unknown key", "did you mean 'of'?"),
    (HEAD + ONE + "on = 5\n", "11:6: scenario.one.on: must be a table", ""),
    (HEAD + ONE + "[scenario.two\n", "11:14: is not TOML", ""),
    (HEAD + ONE.replace("'cash'", '"kind == "pay""'), "10:18: is not TOML", "in single quotes: \"x == 'y'\""),
    (HEAD + ONE.replace("'cash'", '"kind in ("pay",)"'), "10:19: is not TOML", "in single quotes: \"x == 'y'\""),
    (HEAD + ONE + 'after = { where = "kind == "pay"", within = "1h" }\n', "11:29: is not TOML", "in single quotes"),
    (HEAD + ONE + "[scenario.'two;x']\n", "11:1: scenario.two;x: is not a usable scenario id", ""),
    (HEAD + "[metric]\nm = { fn = 'sum', by = 'account', window = '5s' }\n" + ONE, "5:13: metric.m.fn: sum needs a field", "sum(FIELD)"),
    (HEAD + "[metric]\nm = { fn = 'count', by = 'acount', window = '5s' }\n" + ONE, "5:26: metric.m.by: 'acount'", "'account'"),
    (HEAD + "[metric]\nm = { fn = 'count', by = 'account', window = '0s' }\n" + ONE, "5:46: metric.m.window: '0s'", "'10s'"),
    (HEAD + "[metric]\nm = { fn = 'count', by = 'account' }\n" + ONE, "5:1: metric.m.window: is missing", ""),
    (HEAD + "[metric]\namount = { fn = 'count', by = 'account', window = '5s' }\n" + ONE, "5:1: metric.amount: is also", ""),
    (HEAD + "[metric]\n_m = { fn = 'count', by = 'account', window = '5s' }\n" + ONE, "5:1: metric._m: is not a usable", ""),
    (
        HEAD + "[metric]\nm = { fn = 'count', by = 'account', window = '5s', where = 'cash and m > 1' }\n" + ONE,
        "5:70: metric.m.where: m is a metric", "fields only",
    ),
    (
        HEAD + "[metric]\nm = { fn = 'count', by = 'account', window = '5s', where = 'amount > p.x' }\n"
        + ONE.replace("'cash'", "'m > 1'"),
        "12:9: scenario.one.when: the metric m needs the parameter p.x", "add x to params",
    ),
    (
        HEAD + "[metric]\nm = { fn = \"count(flags, of=['oen'])\", by = 'account', window = '5s' }\n" + ONE,
        "5:30: metric.m.fn: there is no scenario 'oen'", "did you mean 'one'?",
    ),
    (
        HEAD + "[metric]\nm = { fn = \"count(flags, of=['one'])\", by = 'account', window = '5s' }\n"
        + ONE.replace("'cash'", "'m > 1'"),
        "12:9: scenario.one.when: uses the metric m, which counts flags of one", "earlier",
    ),
    (HEAD + ONE.replace("threshold = 1", "threshold = 'count'"), "9:14: scenario.one.threshold: is a whole number, but", ""),
    (HEAD + ONE.replace("'amount'", "'cash'"), "8:12: scenario.one.measure: is a truth value", ""),
    (HEAD + ONE.replace("'amount'", "'5'"), "8:12: scenario.one.measure: is a number", ""),
    (HEAD + ONE.replace("when = 'cash'", "when = 'amount > p.x or count > p.x'") + "params.x = 5\n",
     "10:33: scenario.one.when: p.x is money with 2 decimals elsewhere", "two parameters"),
    (HEAD, "1:1: scenario.scenario: is missing", ""),
    (HEAD + "[scenario]\n", "4:1: scenario: names no scenario", ""),
    ("ruleset = 5\n", "1:11: ruleset: must be text", ""),
    ("ruleset = 5979-05-27 07:32\n", "1:", ""),
    ("x = " + "[" * 3000, "", ""),
    ("x = " + "1" * 5000, "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "place", "hint"), BAD_FILES)
def test_a_bad_file_is_refused_at_its_place(text: str, place: str, hint: str) -> None:
    """Unknown keys with the nearest one, wrong types, names of nothing: line, column, and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        load(text)
    expected = f"r.toml:{place}".replace("scenario.scenario", "scenario") if place else "r.toml: "
    assert caught.value.message.startswith(expected), caught.value.message
    assert hint in str(caught.value)


def test_a_file_that_is_not_utf8_is_refused() -> None:
    """With its line and column, and no traceback."""
    with pytest.raises(ConfigError, match=r"^r\.toml:2:3: byte 6 is not UTF-8: save the file"):
        load_ruleset(b"#x\n\xc3\xa9 \xff", "r.toml", CONTRACT)


def test_nesting_is_refused_at_every_depth() -> None:
    """Also where the parser just manages but a second walk over the text would not: an error, no traceback."""
    for depth in range(250, 520):
        with pytest.raises(ConfigError, match=r"^r\.toml(:1:1: x: unknown key|: is nested too deeply)"):
            load("x = " + "[" * depth + "]" * depth)


# -- places ------------------------------------------------------------------------------------------------------------


def place_of(text: str, path: tuple[str | int, ...], at: int | None = None) -> tuple[int, int]:
    """Return line and column that an error for `path` names."""
    match = re.match(r"f:(\d+):(\d+): ", TomlSource(text.encode(), "f").error(path, "x", at=at).message)
    assert match is not None
    return int(match[1]), int(match[2])


@pytest.mark.parametrize("quote", ["'", '"', "'''", '"""'])
def test_places_are_found_in_every_kind_of_string(quote: str) -> None:
    """The n-th character of a string is found in the file, whatever its quotes."""
    text = f"# x = 'no'\n[a.\"b c\"]\r\nq = {{ r = [1, {quote}hay{quote}, {quote}needle{quote}], s = 2 }}\n"
    line = text.splitlines()[2]
    assert place_of(text, ("a", "b c", "q", "r", 2), at=3) == (3, line.index("needle") + 4)
    assert place_of(text, ("a", "b c", "q", "s")) == (3, line.index("2 }") + 1)


def test_places_are_found_behind_escapes_and_joined_lines() -> None:
    """Escapes count as one character, an escaped line end as none, a first newline after the quotes as none."""
    text = 'a = "\\u00e9\\t\\\\x\\U0001F600y"\nb = """\n1 \\\n   2\n3"4""x"""\nc = \'\'\'\nx\ny\'\'\'\nd.e = 1.5\n'
    data = tomllib.loads(text)
    assert place_of(text, ("a",), data["a"].index("y")) == (1, text.index("y") + 1)
    assert place_of(text, ("b",), data["b"].index("2")) == (4, 4)
    assert place_of(text, ("b",), data["b"].index("x")) == (5, 6)
    assert place_of(text, ("c",), data["c"].index("y")) == (8, 1)
    assert place_of(text, ("d", "e")) == (9, 7)


KEY = st.one_of(st.from_regex(r"[a-z]{1,3}", fullmatch=True), st.from_regex(r"\"[a-z #=\[.]{1,4}\"", fullmatch=True))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(KEY, st.text(max_size=8), st.sampled_from(["basic", "inline", "array", "table"])), max_size=6)
)
def test_the_scan_finds_every_string_that_tomllib_reads(rows: list[tuple[str, str, str]]) -> None:
    """On generated files, the character found for each index of each string decodes to that very character."""
    lines = []
    for number, (key, value, shape) in enumerate(rows):
        name, text = f"k{number}.{key}", toml_text(value)
        lines.append(
            {
                "basic": f"{name} = {text} # {text}",
                "inline": f"{name} = {{ x = 1, y = {text} }}",
                "array": f"{name} = [ # [\n 1, [{text}],\n]",
                "table": f"[t{number}.{key}]\nz = {text}",
            }[shape]
        )
    text = "\n".join(sorted(lines, key=lambda line: line.startswith("[t"))) + "\n"
    source = TomlSource(text.encode(), "f")
    for number, (key, value, shape) in enumerate(rows):
        root = ("t" if shape == "table" else "k") + str(number)
        tail: tuple[str | int, ...] = {"basic": (), "inline": ("y",), "array": (1, 0), "table": ("z",)}[shape]
        for index, character in enumerate(value):
            line, column = place_of(text, (root, key.strip('"'), *tail), index)
            rest = source.text.split("\n")[line - 1][column - 1 :]
            assert rest.startswith((character, f"\\u{ord(character):04x}"))


# -- nothing gets through ----------------------------------------------------------------------------------------------

TOKENS = st.sampled_from(
    [
        "and",
        "or",
        "not",
        "in",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ".",
        ":",
        ";",
        "=",
        "==",
        "!=",
        "<",
        "<=",
        ">",
        ">=",
        "+",
        "-",
        "*",
        "/",
        "//",
        "%",
        "**",
        "@",
        "&",
        "|",
        "^",
        "~",
        "->",
        ":=",
        "lambda",
        "if",
        "else",
        "for",
        "is",
        "None",
        "True",
        "true",
        "false",
        "p",
        "p.x",
        "p.y",
        "a.amount",
        "a.note",
        "list.x",
        "of",
        "sum",
        "since_first",
        "{",
        "{amount}",
        "amount",
        "balance",
        "count",
        "step",
        "cash",
        "kind",
        "account",
        "other",
        "note",
        "at",
        "m",
        "flagged",
        "'pay'",
        "'fee'",
        "'1.5'",
        "0",
        "1",
        "2.5",
        "1e9",
        "99999999999999999999",
        "__import__",
        "__builtins__",
        "__class__",
        "event",
        "events",
        "i",
        "t",
        "hits",
        "emit",
        "cells",
        "n0",
        "h0",
        "c0",
        "zip",
        "range",
        "open",
        "eval",
        "exec",
        '"',
        "'",
        "'''",
        "#",
        "\\",
        "\n",
        "\t",
        "\r",
        "\x00",
        "\x0c",
        "é",
        "\uff45",
        "f'{amount}'",
        "await",
        "yield",
    ]
)


def refusal_of(problem: str, hint: str, at: int) -> ConfigError:
    """Return the error that a parser raises, with its place in the text."""
    return ConfigError(problem, hint=f"{at}|{hint}")


TEXTS = st.one_of(
    st.lists(TOKENS, max_size=60).map(" ".join),
    st.lists(TOKENS, max_size=60).map("".join),
    st.text(max_size=80),
    st.tuples(TOKENS, st.integers(1, 1000)).map(lambda pair: pair[0] * pair[1]),
    st.tuples(TOKENS, TOKENS, TOKENS, st.integers(1, 700)).map(lambda x: x[0] * x[3] + x[1] + x[2] * x[3]),
)


@settings(max_examples=1500, deadline=None)
@given(TEXTS)
def test_any_text_is_a_tree_or_refused_within_bounded_time(text: str) -> None:
    """Conditions, functions and reasons: a node of a known kind, or a ConfigError whose place lies in the text."""
    for parse in (parse_expression, parse_function, parse_template):
        with Stopwatch() as watch:
            try:
                found = parse(text, refusal_of)
            except ConfigError as error:
                place = int(error.hint.partition("|")[0])
                assert 0 <= place <= max(len(text) - 1, 0)
            else:
                assert isinstance(found, Node | Function | tuple)
                for node in found.walk() if isinstance(found, Node) else ():
                    assert node.op in NODES
        assert watch.seconds < 2


NODES = {
    "and", "or", "not", "negate", "+", "-", "*", "%", "compare", "in", "not in", "listed", "not listed", "number", "text",
    "truth", "name", "param", "earlier", "list",
}  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(st.lists(TOKENS, max_size=14), st.sampled_from(["when", "where", "on", "measure", "threshold", "fn"]))
def test_any_text_is_refused_with_a_place_or_runs_without_fail(tokens: list[str], where: str) -> None:
    """Whatever stands where an expression is expected: a ConfigError, or a function that cannot fail."""
    parts = {"when": "m > 1", "where": "cash", "on": "cash", "measure": "amount", "threshold": "1", "fn": "count"}
    parts[where] = " ".join(tokens)
    quoted = {key: toml_text(value) for key, value in parts.items()}
    text = (
        f"{HEAD}[metric]\nm = {{ fn = {quoted['fn']}, by = 'account', window = '5s', where = {quoted['where']} }}\n"
        f"[scenario.one]\ntypology = 't'\nversion = 1\nseverity = 'low'\non = {quoted['on']}\nwhen = {quoted['when']}\n"
        f"measure = {quoted['measure']}\nthreshold = {quoted['threshold']}\n"
        + ("params = { x = 1 }\n" if "p.x" in parts[where] else "")
    )
    rules, refusal = None, ""
    try:
        rules = load(text)
    except ConfigError as error:
        refusal = error.message
    if rules is None:
        assert re.match(r"r\.toml:\d+:\d+: (scenario\.one|metric\.m)\b", refusal), refusal
        return
    state = rules.new_state()
    evaluate = rules.bind(state)
    events = [event(cash=True, count=-1), event(cash=True, kind="fee", step=7), event()]
    for _ in range(3):
        hits = evaluate(events, [START] * 3, *([0, 10**15, -3] for _ in rules.money_columns))
        for hit in hits:
            assert rendered(rules, hit, events[hit[0]], "t").endswith("}")
    names = set(re.findall(r"[A-Za-z_]+[0-9]*", re.sub(r"#.*|'[^']*'|\"[^\"]*\"", "", rules.python_source)))
    assert not names & {"__import__", "__builtins__", "open", "eval", "exec"}


def test_a_hostile_file_name_stays_in_its_comment() -> None:
    """The file name stands in the generated text; a newline in it must not end the comment."""
    rules = load_ruleset(scenario("cash").encode(), "x\nimport os\r#", CONTRACT)
    assert "\nimport os" not in rules.python_source
    assert rules.bind(rules.new_state())([event(cash=True)], [START], [5]) != []


def test_generated_code_has_no_builtins() -> None:
    """Even a name that slipped through would find nothing."""
    rules = load(scenario("cash"))
    evaluate = rules.bind(rules.new_state())
    assert evaluate.__globals__["__builtins__"] == {}


def test_a_ruleset_whose_flags_could_outgrow_an_audit_entry_is_refused() -> None:
    """A parameter text so long that a flag would not fit an entry of 65,535 bytes is an error at load, with its place."""
    contract = compile_contract((REPOSITORY / "config/contracts/money_flow.toml").read_bytes(), "contract.toml")
    rules = (REPOSITORY / "config/rules/money_flow.toml").read_text(encoding="utf-8")
    for length, refused in ((30_000, False), (70_000, True)):
        text = rules.replace('when = "amount > p.limit"', 'when = "amount > p.limit and user_id != p.note"').replace(
            'params = { limit = "500.00" }', f'params = {{ limit = "500.00", note = "{"x" * length}" }}'
        )
        if refused:
            with pytest.raises(ConfigError, match=r"scenario\.threshold\.params: a flag could be \d+ bytes long"):
                load_ruleset(text.encode(), "rules.toml", contract)
        else:
            load_ruleset(text.encode(), "rules.toml", contract)


def test_a_subject_without_a_bound_is_refused_with_what_to_do() -> None:
    """A scenario about a field of any length could outgrow an audit entry: the contract must bound the field."""
    bounded = b'other = { type = "string", max_length = 64 }'
    assert bounded in CONTRACT.text
    contract = compile_contract(CONTRACT.text.replace(bounded, b'other = { type = "string" }'), "demo.toml")
    rules = scenario("amount > '1'", extra="subject = 'other'\n").encode()
    load_ruleset(rules, "r.toml", CONTRACT)
    with pytest.raises(ConfigError, match="its subject other may be 65535 characters long: give the field max_length"):
        load_ruleset(rules, "r.toml", contract)
