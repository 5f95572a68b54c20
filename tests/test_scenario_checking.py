"""What a ruleset that is accepted means: types, units, unknowns, templates, segments, lists, sequences, scores."""

from __future__ import annotations

import pytest

from scenario_checks import FILES, HEAD, LISTS, check, checked, scenario, variant
from tidewaiter.core.scenarios.checking import list_files
from tidewaiter.core.scenarios.model import Band
from tidewaiter.core.scenarios.syntax import read_ruleset
from tidewaiter.core.scenarios.terms import DURATION, INTEGER, STRING, TEXT, Term, Type
from tidewaiter.core.toml_source import TomlSource

MONEY = Type("money", scale=2)
DAY = 86_400_000_000


def when(text: str, before: str = "", extra: str = "") -> Term:
    """Return the condition of a scenario with this `when`."""
    return variant(f"{before}{scenario(body(text))}{extra}").when


def body(text: str = "foreign", measure: str = "amount", threshold: str = "1") -> str:
    """Return the keys that every scenario has."""
    return f"when = \"{text}\"\nmeasure = '{measure}'\nthreshold = {threshold}\n"


def metric(line: str, after: str = "") -> dict[str, object]:
    """Return a metric of a ruleset with this line, as its fields."""
    text = f"{HEAD}utc_offset = '-05:30'\n{LISTS}[metric]\n{line}\n{after or scenario()}"
    found = check(text).metrics["m"]
    return {name: getattr(found, name) for name in found.__dataclass_fields__}


# -- metrics -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("fn = 'count', by = 'account', window = '1h'", {"fn": "count", "window": DAY // 24, "unknowable": False}),
        ("fn = 'count', by = ['account', 'kind'], window = '1h'", {"by": ("account", "kind"), "type": INTEGER}),
        ("fn = 'count', by = 'party', window = '1h'", {"unknowable": True}),  # a party may be absent
        ("fn = 'count', by = 'party', window = '1h', default = 0", {"unknowable": False, "default": 0}),
        ("fn = 'count', by = 'account', window = '1d', offset = '30d'", {"offset": 30 * DAY, "unknowable": True}),
        (
            "fn = 'count', by = 'account', window = 'day'",
            {"day": True, "window": DAY, "utc_offset": -19_800, "unknowable": False},
        ),
        ("fn = 'count', by = 'account', window = '1d', cap = 7", {"cap": 7, "utc_offset": 0}),
        ("fn = 'sum(level)', by = 'account', last = 5", {"last": 5, "window": None, "field": "level"}),
        ("fn = 'sum(risk)', by = 'account', window = '1d'", {"type": INTEGER, "unknowable": True}),
        ("fn = 'distinct(party)', by = 'account', window = '1d'", {"type": INTEGER, "unknowable": False}),
        ("fn = 'distinct(amount)', by = 'account', window = '1d'", {"type": INTEGER}),  # no currency: values, not sums
        ("fn = 'distinct(party)', by = 'account', last = 3", {"unknowable": True}),
        ("fn = 'last(party)', by = 'account'", {"type": STRING, "window": None, "unknowable": True}),
        ("fn = 'last(kind)', by = 'account', default = 'deposit'", {"default": "deposit", "unknowable": False}),
        ("fn = 'last(foreign)', by = 'account', default = false", {"default": False}),
        ("fn = 'since_previous', by = 'account'", {"type": DURATION, "window": None, "unknowable": True}),
        ("fn = 'since_first', by = 'account', warmup = '30d'", {"warmup": 30 * DAY}),
        ("fn = 'since_first', by = 'account', default = '1500ms'", {"default": 1_500_000, "unknowable": False}),
        ("fn = 'sum(fee)', by = 'account', window = '1d', default = '-0.125'", {"default": -125}),  # one currency
        ("fn = 'sum(fee)', by = 'account', window = '1d', default = 2", {"default": 2000}),
        ("fn = 'sum(amount)', by = ['account', 'currency'], window = '1d'", {"type": MONEY}),
        ("fn = 'sum(amount)', by = 'account', window = '1d', where = \"foreign and currency == 'EUR'\"", {}),
        ("fn = 'sum(amount)', by = 'account', window = '1d', where = \"('EUR' == currency) and foreign\"", {}),
        ("fn = 'sum(amount)', by = 'account', window = '1d', where = \"currency in ('EUR',)\"", {}),
        (
            "fn = \"sum(level, of=['one'])\", by = 'account', window = '1d'",
            {"where": Term("flagged", Type("boolean"), value=("one",)), "field": "level"},
        ),
    ],
)
def test_a_metric_means_what_it_says(line: str, meaning: dict[str, object]) -> None:
    """Functions, times in microseconds, types, defaults in their unit, and when there may be no value."""
    found = metric(f"m = {{ {line} }}")
    assert {key: found[key] for key in meaning} == meaning


def test_a_currency_pinned_by_a_derived_field_or_a_parameter_counts() -> None:
    """A derived field is taken for what it stands for, a parameter for the value it will have."""
    derived = "[field]\nours = \"currency == 'NOK' and foreign\"\n[metric]\n"
    line = "m = { fn = 'sum(amount)', by = 'account', window = '1d', where = 'ours and level > 1' }\n"
    assert check(HEAD + derived + line + scenario()).metrics["m"].type == MONEY
    line = "m = { fn = 'sum(amount)', by = 'account', window = '1d', where = 'currency == p.c' }\n"
    found = check(HEAD + "[metric]\n" + line + scenario(body("m > 5") + "params = { c = 'EUR' }\n"))
    assert found.metrics["m"].unknowable  # over nothing


# -- conditions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "unknowable"),
    [
        ("foreign", False),
        ("checked", True),
        ("foreign or risk > 1", True),
        ("level > 1 and amount > 5", False),
        ("country in list.watch", True),
        ("kind not in list.watch", False),
        ("strange", True),
        ("plain", False),
        ("n > 1", False),
        ("age > '1d'", True),
        ("old > '1d'", False),
        ("a.level > 1", False),
        ("a.risk > 1", True),
        ("risk * 2 + level > 3", True),
        ("-level % 2 == 0", False),
    ],
)
def test_what_may_be_unknown_is_known(text: str, unknowable: bool) -> None:
    """A term may be unknown if a field, metric or earlier field in it may be; the rest is two-valued."""
    before = (
        f"[field]\nstrange = 'risk > 1'\nplain = 'foreign'\n{LISTS}[metric]\n"
        "n = { fn = 'count', by = 'account', window = '1d' }\n"
        "age = { fn = 'since_first', by = 'account' }\n"
        "old = { fn = 'since_first', by = 'account', default = '9d' }\n"
    )
    assert when(text, before, "after = { where = 'foreign', within = '1d' }\n").unknowable is unknowable


@pytest.mark.parametrize(
    ("text", "value"),
    [("'90d'", 90 * DAY), ("'1500ms'", 1_500_000), ("'7us'", 7), ("'1d' + '2h'", DAY + DAY // 12), ("'1h' - '1h'", 0)],
)
def test_durations_are_microseconds(text: str, value: int) -> None:
    """Texts that meet a duration, alone and added up."""
    before = "[metric]\nage = { fn = 'since_first', by = 'account' }\n"
    term = when(f"age > {text}", before)
    assert term.args[1] == Term("const", DURATION, value=value)


def test_durations_add_and_subtract() -> None:
    """Two metrics that are durations, a parameter, and a measure with its threshold."""
    before = (
        "[metric]\nage = { fn = 'since_first', by = 'account' }\nidle = { fn = 'since_previous', by = 'account' }\n"
    )
    text = before + scenario(body("age - idle > p.gap", "age + idle", "'p.gap'") + "params = { gap = '90m' }\n")
    found = variant(text)
    assert found.measure.type == found.threshold.type == DURATION
    assert found.params == {"gap": (DURATION, 5_400_000_000)}


def test_lists_and_earlier_events_are_terms() -> None:
    """A list is named, an earlier field too; the earlier event's fields are known in the contract's order."""
    text = LISTS + scenario(
        body("country not in list.codes and a.amount < amount", "a.level + level")
        + "after = { where = 'foreign', within = '2h', by = 'party' }\nreason = '{a.kind}'\n"
    )
    found = checked(text)
    assert found.lists == ("codes",)
    assert found.after is not None
    assert (found.after.fields, found.after.by) == (("kind", "amount", "level"), "party")
    assert (found.after.within, found.after.reuse) == (DAY // 12, False)
    listed, compared = found.variants[0].when.args
    assert (listed.op, listed.value, listed.args[0].value) == ("not listed", "codes", "country")
    assert compared.args[0] == Term("earlier", MONEY, value="amount")


def test_a_capped_metric_may_meet_what_the_cap_cannot_change() -> None:
    """Constants below the cap, or at it where all values from the cap up agree; in chains and from either side."""
    capped = "[metric]\nm = { fn = 'distinct(party)', by = 'account', window = '1h', cap = 5 }\n"
    for text in (
        "m > 4",
        "m >= 5",
        "m < 5",
        "m <= 4",
        "m == 4",
        "m != 4",
        "5 <= m",
        "1 < m < 5",
        "not m > -9",
        "4 == m",
    ):
        assert when(text, capped).names("metric") == {"m"}


def test_a_product_has_a_bound() -> None:
    """Two sums and a constant multiply; whatever is accepted has at most 309 digits."""
    sums = "[metric]\ns = { fn = 'sum(level)', by = 'account', window = '1h' }\n"
    assert when("s * s * s * s * s * s > level * level * 999999999999999999", sums).op == "compare"


def test_nested_arithmetic_takes_no_more_time_than_flat() -> None:
    """Each part of an expression is looked at once: twice would double the time with each of 40 levels."""
    text = "level"
    for level in range(40):
        text = f"({text} + 1)" if level % 2 else f"(1 - {text})"
    assert when(f"{text} > 5").depth == 42
    chain = "foreign"
    for _ in range(20):
        chain = f"(foreign == {chain} == foreign)"
    assert when(chain).op == "compare"


# -- templates and segments --------------------------------------------------------------------------------------------

NEAR = (
    "[metric]\nnear = { fn = 'count', by = 'account', window = '1h', where = 'amount >= p.lo' }\n"
    "all = { fn = 'count', by = 'account', window = '1h' }\n"
)


def test_a_template_has_one_instance_for_each_distinct_value() -> None:
    """Scenarios and segments with equal values share an instance, whatever the way the value is written."""
    text = HEAD + LISTS + NEAR
    text += scenario(body("near > p.n") + "params = { lo = '5', n = 1 }\nsegment.s = { where = 'foreign', n = 2 }\n")
    text += scenario(body("near > 3") + "params = { lo = 5.00 }\nsegment.watch = { lo = 6 }\n", "two")
    text += scenario(body("near > 3") + "params = { lo = 6 }\n", "three")
    found = check(text)
    assert list(found.metrics) == ["near", "near#2", "all"]
    assert [item.name for item in found.metrics.values()] == ["near", "near", "all"]
    uses = {item.decl.id: [(each.segment, each.metrics) for each in item.variants] for item in found.scenarios}
    assert uses == {
        "one": [("s", ("near",)), (None, ("near",))],
        "two": [("watch", ("near#2",)), (None, ("near",))],
        "three": [(None, ("near#2",))],
    }
    (low,) = (item.where.args[1] for item in found.metrics.values() if item.key == "near#2" and item.where)
    assert low == Term("const", MONEY, value=600)
    assert found.scenarios[0].variants[0].when.names("metric") == {"near"}


def test_a_scenario_that_is_only_checked_leaves_no_instance() -> None:
    """Drafts and retired scenarios are checked in full, and neither run nor change what runs."""
    text = HEAD + NEAR + scenario(body("near > 1") + "status = 'draft'\nparams = { lo = 1 }\n")
    text += scenario(body("near > 1") + "params = { lo = 2 }\n", "two")
    text += scenario(body("all > 1") + "status = 'retired'\n", "three")
    found = check(text)
    assert list(found.metrics) == ["near", "all"]
    assert [item.decl.id for item in found.scenarios] == ["two"]
    assert found.skipped == {"one": "draft", "three": "retired"}


def test_segments_stand_in_file_order_with_their_own_parameters() -> None:
    """A condition, or the list of the segment's name; the last variant is for everybody else."""
    text = LISTS + scenario(
        body("amount > p.limit and kind == p.kind", "amount", "'p.limit'")
        + "params = { limit = 500, kind = 'deposit' }\n"
        + "segment.foreign_ones = { where = 'foreign', limit = '100.50' }\nsegment.watch = { kind = 'transfer' }\n"
    )
    first, second, rest = checked(text).variants
    assert [each.segment for each in (first, second, rest)] == ["foreign_ones", "watch", None]
    assert first.population is not None
    assert second.population is not None
    assert (first.population.op, second.population.op, rest.population) == ("field", "listed", None)
    assert second.population.args[0].value == "account"
    assert first.params == {"limit": (MONEY, 100_50), "kind": (STRING, "deposit")}
    assert second.params == {"limit": (MONEY, 500_00), "kind": (STRING, "transfer")}
    assert [each.threshold.value for each in (first, second, rest)] == [100_50, 500_00, 500_00]


def test_a_typed_parameter_is_one_thing_everywhere() -> None:
    """Also across the metric's `where`, where an enum and a text field may share a text."""
    text = "[metric]\nm = { fn = 'count', by = 'account', window = '1h', where = 'kind == p.k' }\n"
    found = variant(text + scenario(body("m > 1 and account != p.k") + "params = { k = 'deposit' }\n"))
    assert found.params == {"k": (STRING, "deposit")}


# -- lists -------------------------------------------------------------------------------------------------------------


def test_a_scenario_knows_the_lists_on_which_its_flags_depend() -> None:
    """Its own, its metrics', those behind derived fields and segments, and those of the scenarios it counts."""
    text = LISTS + "[list.third]\nfile = 'lists/watch.txt'\n"
    text += "[field]\nodd = 'account in list.codes'\n[metric]\n"
    text += "m = { fn = 'count', by = 'account', window = '1h', where = 'odd' }\n"
    text += "f = { fn = \"count(flags, of=['one'])\", by = 'account', window = '1h' }\n"
    text += scenario(body("m > 1"))
    text += scenario(body("f > 1 and kind in list.third"), "two")
    text += scenario(body() + "on = { of = ['two'] }\n", "three")
    text += scenario(body() + "segment.watch = {}\n", "four")
    text += scenario(body(), "five")
    found = {item.decl.id: item.lists for item in check(HEAD + text).scenarios}
    assert found == {
        "one": ("codes",),
        "two": ("codes", "third"),
        "three": ("codes", "third"),
        "four": ("watch",),
        "five": (),
    }


def test_lists_are_loaded_by_name_and_files_named_before_loading() -> None:
    """Each file once, as written."""
    text = HEAD + LISTS + "[list.third]\nfile = 'lists/watch.txt'\n" + scenario()
    found = check(text).lists
    assert {name: (item.file, item.prefix, set(item.entries)) for name, item in found.items()} == {
        "watch": ("lists/watch.txt", False, {"NO"}),
        "codes": ("lists/codes.csv", True, {"A1", "B2"}),
        "third": ("lists/watch.txt", False, {"NO"}),
    }
    assert list_files(read_ruleset(TomlSource(text.encode(), "r.toml", exact=True))) == tuple(FILES)


# -- who may name whom -------------------------------------------------------------------------------------------------


def test_shadow_may_depend_on_live_and_on_shadow() -> None:
    """Drafts may name what runs, too."""
    of = "f = { fn = \"count(flags, of=['one', 'two'])\", by = 'account', window = '1h' }\n"
    text = f"{HEAD}[metric]\n{of}" + scenario() + scenario(body() + "status = 'shadow'\non = { of = ['one'] }\n", "two")
    text += scenario(body("f > 1") + "status = 'shadow'\n", "three") + scenario(
        body("f > 1") + "status = 'draft'\n", "four"
    )
    found = check(text)
    assert [item.decl.status for item in found.scenarios] == ["live", "shadow", "shadow"]
    assert found.scenarios[1].on == Term("flagged", Type("boolean"), value=("one",))


# -- what a flag says --------------------------------------------------------------------------------------------------


def test_a_reason_is_texts_and_terms_in_turn() -> None:
    """Fields, metrics, derived fields, parameters as what they are used as, and braces written twice."""
    text = (
        "[field]\nodd = 'foreign'\n[metric]\nn = { fn = 'count', by = 'account', window = '1h' }\n"
        + scenario(
            body("amount > p.limit and level % p.step == 0", "amount")
            + "params = { limit = 5, step = 2, note = 'x', rate = 1.50 }\n"
            + "reason = '{{{n}}} of {amount}{odd} > {p.limit}, {p.step}, {p.note}, {p.rate}'\n"
        )
    )  # fmt: skip
    found = variant(text)
    assert found.metrics == ("n",)
    shown = [piece if isinstance(piece, str) else (piece.op, piece.type, piece.value) for piece in found.reason]
    assert shown == [
        "{", ("metric", INTEGER, "n"), "} of ", ("field", MONEY, "amount"), ("derived", Type("boolean"), "odd"), " > ",
        ("const", MONEY, 500), ", ", ("const", INTEGER, 2), ", ", ("const", TEXT, "x"), ", ", ("const", TEXT, "1.50"),
    ]  # fmt: skip


def test_a_score_has_bands_in_the_unit_of_its_value() -> None:
    """The measure by default; half-open, ascending, without gaps; open at both ends where nothing is said."""
    low, middle = "{ below = 10, points = -5 }", "{ at_least = '10.00', below = 99.5, points = 0, reason = 'mid' }"
    bands = f"[{low}, {middle}, {{ at_least = 99.5, points = 7 }}]"
    found = checked(scenario(body() + f"score = {{ bands = {bands} }}\n"))
    assert found.variants[0].score_value == found.variants[0].measure
    assert found.bands == (Band(None, 1000, -5, ""), Band(1000, 9950, 0, "mid"), Band(9950, None, 7, ""))
    found = checked(scenario(body() + "score = { value = 'level * 2', bands = [{ at_least = -3, points = 1 }] }\n"))
    assert found.bands == (Band(-3, None, 1, ""),)


def test_a_typology_weighs_scenarios_with_a_score() -> None:
    """After all scenarios; one that does not run is left out and named."""
    text = HEAD + scenario(body() + "score = { bands = [{ points = 1 }] }\n")
    text += "[typology.ty]\nversion = 1\nseverity = 'high'\nthreshold = 30\nweights = { one = 2 }\ncooldown = '1d'\n"
    text += "reason = '{amount}'\n"
    text += "[typology.no]\nversion = 1\nseverity = 'low'\nthreshold = 3\nweights.one = 1\nstatus = 'draft'\n"
    found = check(text)
    (typology,) = found.typologies
    assert (typology.weights, typology.threshold, typology.cooldown) == ({"one": 2}, 30, DAY)
    assert (typology.subject, typology.reason) == ("account", (Term("field", MONEY, value="amount"),))
    assert found.skipped == {"no": "draft"}


def test_the_window_shown_is_that_of_the_metrics_measured() -> None:
    """In seconds; a calendar day has 86,400 of them, what has no window none."""
    metrics = (
        "utc_offset = '+00:00'\n[metric]\nd = { fn = 'sum(level)', by = 'account', window = 'day' }\n"
        "h = { fn = 'sum(level)', by = 'account', window = '1h' }\n"
        "n = { fn = 'sum(level)', by = 'account', last = 5 }\n"
    )
    for measure, window in (("d + h", 86_400), ("h", 3600), ("n", 0), ("level", 0)):
        assert checked(metrics + scenario(body("foreign", measure))).window == window
