"""Pipeline files: what they say, the columns after each step, and errors that point at the place."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import polars as pl
import pytest

from support import REPOSITORY
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.pipelines.columns import (
    BOOLEAN,
    DATE,
    FLOAT,
    INTEGER,
    KINDS,
    STRING,
    TIMESTAMP,
    ColumnType,
    Schema,
)
from tidewaiter.core.pipelines.expression_types import Ground, Reference
from tidewaiter.core.pipelines.planning import plan
from tidewaiter.core.pipelines.step_casts import castable
from tidewaiter.core.pipelines.step_files import places, read_pipeline
from tidewaiter.core.pipelines.steps import (
    Aggregate,
    Cast,
    Deduplicate,
    Derive,
    Filter,
    Join,
    KeySource,
    ListSource,
    Rename,
    Select,
    Sort,
    Step,
)
from tidewaiter.core.pipelines.table_format import TableFormat
from tidewaiter.shell.pipelines.composing import Pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

TWO = ColumnType("decimal", 2)
SCHEMA: Schema = {
    "id": STRING, "amount": TWO, "quantity": INTEGER, "country": STRING, "booked": DATE, "at": TIMESTAMP,
    "score": FLOAT, "open": BOOLEAN,
}  # fmt: skip
COUNTRIES: Schema = {"code": STRING, "risk": INTEGER}
HEAD = 'pipeline = "claims"\nversion = 1\n'


def planned(text: str, schema: Schema = SCHEMA) -> Schema:
    """Return the columns after the steps of a pipeline file, the steps written as `text`."""
    pipeline = read_pipeline((HEAD + text).encode(), "p.toml")
    steps = plan(pipeline.steps, schema, places(pipeline), reference_schema=lambda _: COUNTRIES)
    return steps[-1].after if steps else schema


def refusal(text: str) -> str:
    """Return why the pipeline file with these lines after its head (lines 1 and 2) is refused."""
    with pytest.raises(ConfigError) as refused:
        planned(text)
    return str(refused.value)


# -- casts -------------------------------------------------------------------------------------------------------------


def test_the_table_of_casts_is_what_planning_allows() -> None:
    """Which type becomes which is written in config/README.md; each type also stays what it is."""
    page = (REPOSITORY / "config" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+) \| (.+) \|$", page.split("\n#### Casts\n", 1)[1].split("\n#### ", 1)[0], re.MULTILINE)
    said = {one: (one, *kinds_in(to)) for had, to in rows for one in kinds_in(had)}
    assert set(said) == set(KINDS)
    for had in KINDS:
        allowed = {wanted for wanted in KINDS if castable(ColumnType(had), ColumnType(wanted))}
        assert allowed == (set(KINDS) if had == "string" else set(said[had])), had


def kinds_in(cell: str) -> list[str]:
    """Return the types that a cell of the table names."""
    return [kind for kind in KINDS if re.search(f"`{kind}(\\([mn]\\))?`", cell)]


# -- reading -----------------------------------------------------------------------------------------------------------

WHOLE = """\
pipeline = "claims_daily"
version = 3
title = "Claims, day by day"
contract = "contracts/claim.toml"
on_invalid = "quarantine"
[input]
format = "csv"
compression = "gzip"
delimiter = ";"
quote = "'"
header = false
encoding = "latin-1"
columns = ["id", "amount"]
[output]
format = "jsonl"
compression = "zstd"
[keys]
people = { file = "keys/people" }
other = { credential = "other" }
[list]
countries = { file = "lists/countries.csv", key = "code" }
[[step]]
filter = "amount > '0.00'"
[[step]]
name = "totals"
derive = { total = "amount * quantity", "two words" = "upper(country)" }
[[step]]
select = ["total", "id"]
[[step]]
rename = { total = "amount" }
[[step]]
cast = { quantity = "decimal(2)", id = "integer" }
[[step]]
deduplicate = { by = ["id"], keep = "last" }
[[step]]
deduplicate = { by = ["id", "country"] }
[[step]]
join = { file = "lists/c.csv", on = { country = "code" }, take = { risk = "country_risk" }, missing = "reject" }
[[step]]
join = { file = "lists/c.csv", on = { country = "code" }, take = ["risk"] }
[[step]]
sort = ["-booked", "id"]
[[step]]
aggregate = { by = ["country"], n = "count()", total = "sum(amount)" }
"""


def test_a_pipeline_file_says_all_that_a_run_needs() -> None:
    """Every key lands where it belongs; steps without a name are called by number and kind."""
    read = read_pipeline(WHOLE.encode(), "p.toml")
    assert (read.name, read.version, read.title) == ("claims_daily", 3, "Claims, day by day")
    assert (read.contract, read.on_invalid, read.file) == ("contracts/claim.toml", "quarantine", "p.toml")
    assert read.input == TableFormat("csv", "gzip", ";", "'", False, "latin-1", ("id", "amount"))
    assert read.output == TableFormat("jsonl", "zstd")
    assert read.keys == {"people": KeySource(file="keys/people"), "other": KeySource(credential="other")}
    assert read.lists == {"countries": ListSource("lists/countries.csv", "code")}
    assert read.digest == hashlib.sha256(WHOLE.encode()).hexdigest()
    expected: tuple[Step, ...] = (
        Filter("1_filter", "amount > '0.00'"),
        Derive("totals", {"total": "amount * quantity", "two words": "upper(country)"}),
        Select("3_select", ("total", "id")),
        Rename("4_rename", {"total": "amount"}),
        Cast("5_cast", {"quantity": TWO, "id": INTEGER}),
        Deduplicate("6_deduplicate", ("id",), "last"),
        Deduplicate("7_deduplicate", ("id", "country"), "first"),
        Join("8_join", "lists/c.csv", {"country": "code"}, {"risk": "country_risk"}, "reject"),
        Join("9_join", "lists/c.csv", {"country": "code"}, {"risk": "risk"}, "null"),
        Sort("10_sort", (("booked", True), ("id", False))),
        Aggregate("11_aggregate", ("country",), {"n": "count()", "total": "sum(amount)"}),
    )
    assert read.steps == expected
    assert [step.kind for step in read.steps][7:] == ["join", "join", "sort", "aggregate"]


def test_what_may_be_left_out_has_its_default() -> None:
    """A name and a version are a pipeline: it halts on bad records and does nothing to good ones."""
    read = read_pipeline(HEAD.encode(), "p.toml")
    assert (read.on_invalid, read.contract, read.title, read.steps) == ("halt", None, "", ())
    assert (read.input, read.output) == (TableFormat(), TableFormat())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = 1", "p.toml:3:1: steps: unknown key: did you mean 'step'?"),
        ('on_invalid = "drp"', "p.toml:3:14: on_invalid: 'drp' is not allowed: did you mean 'drop'?"),
        ("contract = ''", "p.toml:3:12: contract: is empty"),
        ("[input]\ndelimeter = ';'", "p.toml:4:1: input.delimeter: unknown key: did you mean 'delimiter'?"),
        ("[input]\nheader = 'no'", "p.toml:4:10: input.header: must be true or false, not a string"),
        ("[input]\nformat = 'xls'", "p.toml:4:10: input.format: 'xls' is not allowed"),
        ("[input]\ncolumns = ['a', 'a']", "p.toml:4:17: input.columns.2: 'a' is named twice"),
        ("[output]\nencoding = 'utf-8'", "p.toml:4:1: output.encoding: unknown key"),
        ("[keys]\nk = {}", "p.toml:4:5: keys.k: must name one place"),
        ("[keys]\nk = 'secret'", 'p.toml:4:5: keys.k: must be a table { file = "…" }, not a string'),
        ("[keys]\nk = { value = 'x' }", "p.toml:4:7: keys.k.value: unknown key"),
        ("[list]\nl = { file = 'x' }", "p.toml:4:1: list.l.key: is missing"),
        ("step = 3", "p.toml:3:8: step: must be a list, not an integer"),
        ("step = [1]", "p.toml:3:9: step 1: must be a table: write [[step]], not an integer"),
        ("[[step]]\nname = 'x'", "p.toml:3:1: step 1: does nothing: each [[step]] has one of: filter, derive"),
        ("[[step]]\nfilter = 'a'\nsort = ['a']", "p.toml:5:1: step 1: sort: does more than one thing: filter and sort"),
        ("[[step]]\nfiltre = 'a'", "p.toml:4:1: step 1: filtre: unknown key: did you mean 'filter'?"),
        ("[[step]]\nfilter = true", "p.toml:4:10: step 1 (1_filter): filter: must be text in quotes, not a boolean"),
        ("[[step]]\nderive = {}", "p.toml:4:10: step 1 (1_derive): derive: is empty: write derive = { total ="),
        ("[[step]]\nderive = { a = 1.5 }", "p.toml:4:16: step 1 (1_derive): derive.a: must be text in quotes, not a d"),
        ("[[step]]\nselect = []", "p.toml:4:10: step 1 (1_select): select: is empty"),
        ("[[step]]\nselect = ['id', 3]", "p.toml:4:17: step 1 (1_select): select.2: must be text in quotes, not an in"),
        ("[[step]]\nselect = ['id', '']", "p.toml:4:17: step 1 (1_select): select.2: is empty"),
        ("[[step]]\nrename = ['a']", "p.toml:4:10: step 1 (1_rename): rename: must be a table, not an array: write re"),
        ("[[step]]\ncast = { a = 'decimal(19)' }", "p.toml:4:14: step 1 (1_cast): cast.a: there is no type 'decimal(1"),
        ("[[step]]\ncast = { a = 'decimal' }", "p.toml:4:14: step 1 (1_cast): cast.a: there is no type 'decimal': say"),
        ("[[step]]\ncast = { a = 'int' }", "p.toml:4:14: step 1 (1_cast): cast.a: there is no type 'int': did you mea"),
        ("[[step]]\ndeduplicate = { by = ['a'], kep = 'first' }", "p.toml:4:29: step 1 (1_deduplicate): deduplicate.k"),
        ("[[step]]\ndeduplicate = { keep = 'first' }", "p.toml:4:1: step 1 (1_deduplicate): deduplicate.by: is missin"),
        ("[[step]]\ndeduplicate = { by = ['a'], keep = 'any' }", "p.toml:4:36: step 1 (1_deduplicate): deduplicate.ke"),
        ("[[step]]\njoin = { on = { a = 'b' }, take = ['c'] }", "p.toml:4:1: step 1 (1_join): join.file: is missing"),
        ("[[step]]\njoin = { file = 'x', take = ['c'] }", "p.toml:4:1: step 1 (1_join): join.on: is missing: write on"),
        ("[[step]]\nsort = ['a', '-a']", "p.toml:4:14: step 1 (1_sort): sort.2: '-a' cannot be sorted by: once each"),
        ("[[step]]\nsort = ['-']", "p.toml:4:9: step 1 (1_sort): sort.1: '-' cannot be sorted by"),
        ("[[step]]\nname = 'x'\nsort = ['a']\n[[step]]\nname = 'x'\nsort = ['a']", "p.toml:7:8: step 2 (x): name: ano"),
        ("[[step]]\nsort = ['a']\n[[step]]\nname = '1_sort'\nsort = ['a']", "p.toml:6:8: step 2 (1_sort): name: anoth"),
        ("x = ", "p.toml:3:5: is not TOML"),
    ],
)  # fmt: skip
def test_a_fault_in_the_file_is_shown_where_it_stands(text: str, message: str) -> None:
    """File, line, column, key, and the nearest word that is allowed."""
    assert refusal(text).startswith(message), refusal(text)


def test_the_input_says_its_encoding_by_any_name_and_how_far_it_may_grow() -> None:
    """Another name of an encoding means the same; the ratio is a whole number."""
    read = read_pipeline((HEAD + '[input]\nencoding = "CP1252"\nmax_ratio = 500\n').encode(), "p.toml")
    assert (read.input.encoding, read.input.max_ratio) == ("windows-1252", 500)
    assert "p.toml:4:13: input.max_ratio: 0 is no ratio" in refusal("[input]\nmax_ratio = 0")
    assert "input.max_ratio: must be a whole number, not a decimal number" in refusal("[input]\nmax_ratio = 1.5")
    assert "output.max_ratio: unknown key" in refusal("[output]\nmax_ratio = 5")


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (lambda one: one.filter(5), r"^step 2 \(2_filter\): filter: must be text in quotes, not an integer"),
        (lambda one: one.filter("value >"), r"^step 2 \(2_filter\): filter: character 7: is not an expression"),
        (lambda one: one.derive(a="1", b="class"), r"^step 2 \(2_derive\): derive.b: character 1: .*column\('class'\)"),
        (lambda one: one.derive(a=5), r"^step 2 \(2_derive\): derive.a: must be text in quotes"),
        (lambda one: one.select(), r"^step 2 \(2_select\): select: is empty"),
        (lambda one: one.cast(a="decimal"), r"^step 2 \(2_cast\): cast.a: there is no type 'decimal': say how many"),
        (lambda one: one.join("c.csv", on="id", take=["x"]), r"^step 2 \(2_join\): join.on: must be a table"),
        (lambda one: one.aggregate(by="id", n="count()"), r"^step 2 \(2_aggregate\): aggregate.by: must be a list"),
        (lambda one: one.sort("id").named("first"), r"^step 2 \(first\): name: another step is called 'first'"),
    ],
)
def test_a_composed_step_is_refused_at_once_and_by_its_name(add: Callable[[Pipeline], Pipeline], message: str) -> None:
    """Nobody has seen the text that stands behind it: neither file nor line is named."""
    first = Pipeline("p").filter("id == 'x'").named("first")
    with pytest.raises(ConfigError, match=message):
        add(first)


def test_a_composed_pipeline_holds_only_what_a_file_can() -> None:
    """Other values of Python are a TypeError where they are given."""
    with pytest.raises(TypeError, match="a pipeline holds texts, lists and tables, not NoneType"):
        Pipeline("p").filter(None)  # type: ignore[arg-type]


def test_a_composed_step_is_planned_under_its_name() -> None:
    """Errors about columns name the step and the character of the text."""
    pipeline = read_pipeline(Pipeline("p").filter("nope > 1").named("early").to_toml().encode(), "<Pipeline>")
    with pytest.raises(ConfigError, match=r"^step 1 \(early\): filter: character 1: there is no column 'nope'"):
        plan(pipeline.steps, SCHEMA, places(pipeline))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("version = 1", "p.toml:1:1: pipeline: is missing"),
        ('pipeline = "x"', "p.toml:1:1: version: is missing"),
        ('pipeline = "x"\nversion = 0', "p.toml:2:11: version: 0 is not a version"),
        ('pipeline = "x"\nversion = 1.5', "p.toml:2:11: version: must be a whole number, not a decimal number"),
    ],
)
def test_a_pipeline_has_a_name_and_a_version(head: str, message: str) -> None:
    """Both are in the audit log of every run."""
    with pytest.raises(ConfigError) as refused:
        read_pipeline(head.encode(), "p.toml")
    assert str(refused.value).startswith(message)


# -- planning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "columns"),
    [
        ("filter = 'open'", "id amount quantity country booked at score open"),
        ('derive = { total = "amount * quantity" }', "id amount quantity country booked at score open total"),
        ('derive = { id = "upper(id)" }', "id amount quantity country booked at score open"),
        ("select = ['open', 'id']", "open id"),
        ("rename = { id = 'amount', amount = 'id' }", "amount id quantity country booked at score open"),
        ("cast = { quantity = 'decimal(3)' }", "id amount quantity country booked at score open"),
        ("sort = ['-at']", "id amount quantity country booked at score open"),
        ("deduplicate = { by = ['id'] }", "id amount quantity country booked at score open"),
        (
            "join = { file = 'c', on = { country = 'code' }, take = { risk = 'r' } }",
            "id amount quantity country booked at score open r",
        ),
        ("aggregate = { by = ['country'], n = 'count()' }", "country n"),
    ],
)
def test_each_step_has_its_columns_before_any_row_is_read(step: str, columns: str) -> None:
    """The order of columns is the order of the output."""
    assert list(planned(f"[[step]]\n{step}")) == columns.split()


def test_the_type_of_each_column_is_known() -> None:
    """A later step is typed against what an earlier one gives."""
    steps = """
    [[step]]
    derive = { total = "amount * quantity", age = "age_at(booked, '2026-01-01')", sure = "amount > 1" }
    [[step]]
    derive = { total = "total * 1.5", high = "if_else(sure, total, nothing())" }
    [[step]]
    cast = { age = "decimal(1)", quantity = "string" }
    [[step]]
    select = ["total", "age", "sure", "high", "quantity"]
    """
    after = {name: str(column) for name, column in planned(steps).items()}
    assert after == {
        "total": "decimal(3)", "age": "decimal(1)", "sure": "boolean", "high": "decimal(2)", "quantity": "string",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("filter = 'amonut > 1'", "4:11: step 1 (1_filter): filter: there is no column 'amonut' here: did you mean"),
        ("filter = 'amount'", "4:11: step 1 (1_filter): filter: is decimal(2), not a condition"),
        ("filter = 'nothing()'", "4:11: step 1 (1_filter): filter: is nothing, not a condition"),
        ('derive = { a = "1", b = "2 + upper(id)" }', "4:30: step 1 (1_derive): derive.b: cannot be computed with"),
        ('derive = { a = "1", b = "a + 1" }', "4:26: step 1 (1_derive): derive.b: there is no column 'a' here"),
        ("derive = { a = 'nothing()' }", "4:17: step 1 (1_derive): derive.a: has no type"),
        ("derive = { __row = '1' }", "4:20: step 1 (1_derive): derive.__row: a column cannot be called '__row'"),
        ("derive = { ' ' = '1' }", "4:18: step 1 (1_derive): derive. : a column cannot be called ' '"),
        ("select = ['id', 'amuont']", "4:17: step 1 (1_select): select.amuont: there is no column 'amuont' here: did"),
        ("rename = { idd = 'x' }", "4:18: step 1 (1_rename): rename.idd: there is no column 'idd' here"),
        ("rename = { id = 'amount' }", "4:17: step 1 (1_rename): rename.id: two columns would be called 'amount'"),
        ("rename = { id = 'x', amount = 'x' }", "4:17: step 1 (1_rename): rename.id: two columns would be called 'x'"),
        ("rename = { id = '__row' }", "4:17: step 1 (1_rename): rename.id: a column cannot be called '__row'"),
        ("cast = { open = 'integer' }", "4:17: step 1 (1_cast): cast.open: open is boolean and cannot become integer"),
        ("cast = { score = 'string' }", "4:18: step 1 (1_cast): cast.score: score is float and cannot become string"),
        ("sort = ['id', '-bookd']", "4:15: step 1 (1_sort): sort.bookd: there is no column 'bookd' here"),
        ("deduplicate = { by = ['no'] }", "4:23: step 1 (1_deduplicate): deduplicate.by.no: there is no column 'no'"),
        ("join = { file = 'c', on = { no = 'code' }, take = ['risk'] }", "4:34: step 1 (1_join): join.on.no: there is"),
        ("aggregate = { by = ['no'], n = 'count()' }", "4:21: step 1 (1_aggregate): aggregate.by.no: there is no"),
    ],
)  # fmt: skip
def test_a_step_that_does_not_fit_its_columns_is_refused(step: str, message: str) -> None:
    """The error names the step, its key and the character of the expression, before any row is read."""
    text = refusal(f"[[step]]\n{step}")
    assert text.startswith(f"p.toml:{message}"), text


def test_a_step_composed_without_a_file_is_named_by_number() -> None:
    """Where there is no file to point into, the step and the character are said."""
    with pytest.raises(ConfigError) as refused:
        plan([Filter("a", "open"), Derive("b", {"x": "1 + nope"})], SCHEMA)
    assert str(refused.value).startswith("step 2 (b): derive.x: character 5: there is no column 'nope' here")


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([Filter("a", "open"), Sort("a", (("id", False),))], "step 2 (a): another step is called 'a'"),
        ([Select("a", ())], "step 1 (a): select: is empty"),
        ([Select("a", ("id", "id"))], "step 1 (a): select.id: 'id' is named twice"),
        ([Derive("a", {})], "step 1 (a): derive: is empty"),
        ([Cast("a", {})], "step 1 (a): cast: is empty"),
        ([Deduplicate("a", ("id",), "any")], "step 1 (a): deduplicate.keep: 'any' is not allowed"),
        ([Join("a", "c", {"country": "code"}, {"risk": "r"}, "no")], "step 1 (a): join.missing: 'no' is not allowed"),
        ([Join("a", "c", {"country": "code"}, {"risk": "r"})], "step 1 (a): join.file: no reference list can be read"),
    ],
)
def test_what_a_file_could_not_say_is_refused_as_well(steps: list[Step], message: str) -> None:
    """Declarations made in Python are held to the same rules."""
    with pytest.raises(ConfigError) as refused:
        plan(steps, SCHEMA)
    assert str(refused.value).startswith(message)


def test_expressions_may_use_the_keys_and_lists_of_the_ground() -> None:
    """They are given to the planning, not looked for by it."""
    countries = Reference(COUNTRIES, pl.DataFrame({"code": ["GB"], "risk": [1]}), "code")
    steps = [Derive("a", {"h": "keyed_hash(id, 'k')", "r": "lookup(country, 'c', 'risk')"})]
    after = plan(steps, SCHEMA, ground=Ground({"k": b"0" * 16}, {"c": countries}))[0].after
    assert (after["h"], after["r"]) == (STRING, INTEGER)
