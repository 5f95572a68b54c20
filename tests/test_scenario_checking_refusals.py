"""What `check` refuses beyond conditions, and exactly where it points: one table of bad rulesets."""

# ruff: noqa: E501 - a row of a table of cases reads best on one line

from __future__ import annotations

from dataclasses import replace

import pytest

from scenario_checks import FILES, HEAD, LISTS, MARK, TRANSFERS, assert_refused, check, scenario
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.scenarios.checking import check_ruleset
from tidewaiter.core.scenarios.syntax import read_ruleset
from tidewaiter.core.toml_source import TomlSource

# the parts of the rulesets below; MARK stands where the caret must point
S = scenario
OK = scenario()
BODY = "when = 'foreign'\nmeasure = 'amount'\nthreshold = 1\n"
LEVEL = BODY.replace("'amount'", "'level'")
NEAR = "[metric]\nnear = { fn = 'count', by = 'account', window = '1h', where = 'amount >= p.lo' }\n"
CAPPED = "[metric]\nm = { fn = 'count', by = 'account', window = '1h', cap = 5 }\n"
AGES = "[metric]\nage = { fn = 'since_first', by = 'account' }\nidle = { fn = 'since_previous', by = 'account' }\n"
SCORED = S(LEVEL + "score = { bands = [{ points = 1 }] }\n")
TYPOLOGY = "[typology.ty]\nversion = 1\nseverity = 'low'\nthreshold = 5\n"


def M(line: str) -> str:  # noqa: N802 - one letter keeps a row of the table short
    """Return a ruleset with this metric."""
    return f"[metric]\n{line}\n{OK}"


def W(when: str, before: str = "", extra: str = "") -> str:  # noqa: N802 - the same
    """Return a ruleset with a scenario of this `when`."""
    return before + scenario(f"when = \"{when}\"\nmeasure = 'amount'\nthreshold = 1\n{extra}")


REFUSED = [
    # -- file
    ("utc_offset = ¦'+1'\n" + OK, "utc_offset: '+1' is not an offset from UTC", "for example '+01:00', '-05:30', '+00:00'"),
    ("utc_offset = ¦'+24:00'\n" + OK, "utc_offset: '+24:00' is not an offset from UTC", "for example '+01:00', '-05:30', '+00:00'"),
    ("¦typologies = 1\n" + OK, "typologies: unknown key", "did you mean 'typology'?"),
    ("[field]\n¦amount = 'foreign'\n" + OK, "field.amount: is also the name of a field", "choose another name"),
    ("[field]\n¦list = 'foreign'\n" + OK, "field.list: is not a usable name", "lower-case letters, digits and _, beginning with a letter,"),
    ("[field]\nbig = ¦{ from = 'a.b' }\n" + OK, "field.big: must be a condition in quotes, not a table", 'for example: cash_in = "kind == \'deposit\'"; a nested value'),
    ("[field]\nbig = '¦amount'\n" + OK, "field.big: is money with 2 decimals, not a condition", "compare it with something"),
    ("[field]\nbig = 'foreign and ¦small'\nsmall = 'foreign'\n" + OK, "field.big: there is nothing called 'small'", "a derived field knows those above it only: move small up"),
    ("[field]\nbig = 'amount > ¦p.x'\n" + OK, "field.big: p.x cannot be used here", "a derived field has no parameters: write the value itself"),
    ("[field]\nbig = '¦m > 1'\n[metric]\nm = { fn = 'count', by = 'account', window = '1h' }\n" + OK, "field.big: m is a metric", "a derived field knows fields, derived fields and lists only"),
    ("[field]\nbig = '¦a.amount > 1'\n" + OK, "field.big: a.amount cannot be read here", "`a.` stands for the event found by `after`; it can be read"),
    ("[field]\nbig = \"kind == ¦'deposti'\"\n" + OK, "field.big: 'deposti' is not a value of the field", "did you mean 'deposit'? allowed: deposit, withdrawal, transfer"),
    ("[field]\nm = 'foreign'\n[metric]\n¦m = { fn = 'count', by = 'account', window = '1h' }\n" + OK, "metric.m: is also the name of a field", "choose another name"),
    # -- lists
    ("¦[list.watch]\n" + OK, "list.watch.file: is missing", "it must be text in quotes"),
    ("[list.watch]\nfile = ¦'watch'\n" + OK, "list.watch.file: 'watch' is not a list file", "allowed: a path that ends in .txt or .csv"),
    ("[list.watch]\nfile = ¦'/etc/watch.txt'\n" + OK, "list.watch.file: '/etc/watch.txt' is not a usable path", "a path relative to the ruleset file, for example 'lists/high_risk.txt'"),
    ("[list.watch]\nfile = ¦'lists/wacth.txt'\n" + OK, "list.watch.file: there is no file 'lists/wacth.txt'", "the path is relative to the ruleset file; looked for"),
    ("[list.watch]\nfile = 'lists/watch.txt'\n¦column = 'code'\n" + OK, "list.watch.column: a .txt file has no columns", "leave it out, or use a .csv file"),
    ("¦[list.watch]\nfile = 'lists/codes.csv'\n" + OK, "list.watch.column: is missing", "it must be text in quotes"),
    ("[list.watch]\nfile = 'lists/watch.txt'\nmatch = ¦'prefxi'\n" + OK, "list.watch.match: 'prefxi' is not allowed", "did you mean 'prefix'? allowed: exact, prefix"),
    ("[list.watch]\nfile = 'lists/watch.txt'\n¦fiel = 'x'\n" + OK, "list.watch.fiel: unknown key", "did you mean 'file'? allowed: file, match, column"),
    (W("country in ¦list.wacth", LISTS), "scenario.one.when: there is no list 'wacth'", "did you mean 'watch'? allowed: watch, codes"),
    (W("¦list.watch == 'x'", LISTS), "scenario.one.when: a list stands only after `in`", "for example: country in list.high_risk"),
    (W("country == ¦list.watch", LISTS), "scenario.one.when: a list stands only after `in`", "for example: country in list.high_risk"),
    (W("country in ¦watch", LISTS), "scenario.one.when: `in` needs a list of constants", "write in ('a', 'b') or in list.NAME; a list of one needs"),
    (W("country in (¦list.watch,)", LISTS), "scenario.one.when: a list stands only after `in`", "for example: country in list.high_risk"),
    (W("¦amount in list.watch", LISTS), "scenario.one.when: is money with 2 decimals", "a list is asked for a string or enum field, or a metric of one"),
    (W("¦'NO' in list.watch", LISTS), "scenario.one.when: is a constant", "a list is asked for a string or enum field, or a metric of one"),
    (W("country not in ¦watch", LISTS), "scenario.one.when: `in` needs a list of constants", "write in ('a', 'b') or in list.NAME; a list of one needs"),
    # -- fn
    (M("m = { fn = '¦smu(amount)', by = 'account', window = '1h' }"), "metric.m.fn: there is no function 'smu'", "did you mean 'sum'?"),
    (M("m = { fn = '¦avg(amount)', by = 'account', window = '1h' }"), "metric.m.fn: there is no function 'avg'", "allowed: count, sum(F), min(F), max(F), distinct(F),"),
    (M("m = { fn = '¦sum', by = 'account', window = '1h' }"), "metric.m.fn: sum needs a field", "write sum(FIELD)"),
    (M("m = { fn = 'sum(¦amout)', by = 'account', window = '1h' }"), "metric.m.fn: there is no field 'amout'", "did you mean 'amount'? allowed: amount, fee, risk, level"),
    (M("m = { fn = 'sum(¦kind)', by = 'account', window = '1h' }"), "metric.m.fn: kind is one of deposit, withdrawal, transfer, which sum cannot take", "allowed: amount, fee, risk, level"),
    (M("m = { fn = 'sum(¦at)', by = 'account', window = '1h' }"), "metric.m.fn: at is a time, which sum cannot take", "did you mean 'amount'? allowed: amount, fee, risk, level"),
    (M("m = { fn = 'distinct(¦foreign)', by = 'account', window = '1h' }"), "metric.m.fn: foreign is a truth value, which distinct cannot take", "allowed: event_id, account, party, memo, kind, channel,"),
    (M("m = { fn = 'last(¦memo)', by = 'account' }"), "metric.m.fn: memo may be 65535 characters long, too long to be shown in a flag", "give the field max_length = 1024 or less in the contract"),
    (M("m = { fn = 'sum(¦amount * 2)', by = 'account', window = '1h' }"), "metric.m.fn: a function takes the name of a field", "write sum(FIELD), or sum(FIELD, of=['ID', ...])"),
    (M("m = { fn = '¦sum(amount, fee)', by = 'account', window = '1h' }"), "metric.m.fn: has other arguments than it can have", "write sum(FIELD), or sum(FIELD, of=['ID', ...])"),
    (M("m = { fn = 'count(¦amount)', by = 'account', window = '1h' }"), "metric.m.fn: counts events, not a field", "write count, or count(flags, of=['ID', ...])"),
    (M("m = { fn = 'count(¦flags)', by = 'account', window = '1h' }"), "metric.m.fn: counts events, not a field", "write count, or count(flags, of=['ID', ...])"),
    (M("m = { fn = \"count(flags, of=[¦'oen'])\", by = 'account', window = '1h' }"), "metric.m.fn: there is no scenario 'oen'", "did you mean 'one'? allowed: one"),
    (M("m = { fn = \"count(flags, of=['one', ¦'one'])\", by = 'account', window = '1h' }"), "metric.m.fn: one is named twice", "name it once"),
    (M("m = { fn = 'count(flags, of=¦one)', by = 'account', window = '1h' }"), "metric.m.fn: `of` is a list of scenario ids", "write count, or count(flags, of=['ID', ...])"),
    (M("m = { fn = \"max(level, of=¦['one'])\", by = 'account', window = '1h' }"), "metric.m.fn: does not take of", "write max(FIELD)"),
    (M("m = { fn = '¦since_first(level)', by = 'account' }"), "metric.m.fn: has other arguments than it can have", "write since_first"),
    (M("m = { fn = '¦open(level).read()', by = 'account' }"), "metric.m.fn: is not a function of metrics", "allowed: count, sum(F), min(F), max(F), distinct(F),"),
    (M("m = { fn = '¦level', by = 'account' }"), "metric.m.fn: there is no function 'level'", "allowed: count, sum(F), min(F), max(F), distinct(F),"),
    (M("m = { fn = ¦5, by = 'account' }"), "metric.m.fn: must be text in quotes, not an integer", ""),
    # -- metric
    (M("¦m = { fn = 'count', window = '1h' }"), "metric.m.by: is missing", "it must be a field, or a list of fields"),
    (M("m = { fn = 'count', by = ¦'amount', window = '1h' }"), "metric.m.by: 'amount' is not a field to group by", "did you mean 'account'?"),
    (M("m = { fn = 'count', by = ¦['account', 'acount'], window = '1h' }"), "metric.m.by: 'acount' is not a field to group by", "did you mean 'account'?"),
    (M("m = { fn = 'count', by = ['account', ¦'account'], window = '1h' }"), "metric.m.by.1: account is named twice", "name it once"),
    (M("m = { fn = 'count', by = ¦[], window = '1h' }"), "metric.m.by: must be a field, or a list of fields, for example 'user' or ['user', 'country']", ""),
    (M("m = { fn = 'count', by = ¦['account', 'party', 'kind', 'channel', 'country', 'currency'], window = '1h' }"), "metric.m.by: 6 are too many", "at most 5"),
    (M("¦m = { fn = 'count', by = 'account' }"), "metric.m.window: is missing", "for example '10s', '24h', 'day'"),
    (M("m = { fn = 'count', by = 'account', window = ¦'500ms' }"), "metric.m.window: '500ms' is not a duration", "a whole number and s, m, h or d, from 1s to 100 years, for"),
    (M("m = { fn = 'count', by = 'account', window = ¦72 }"), "metric.m.window: must be text in quotes, not an integer", 'with its unit, for example "72h"'),
    (M("m = { fn = 'count', by = 'account', window = ¦'Day' }"), "metric.m.window: 'Day' is not a duration", "a whole number and s, m, h or d, from 1s to 100 years, for"),
    (M("m = { fn = 'count', by = 'account', window = ¦'day' }"), "metric.m.window: a day needs a time zone", "say at the top of the file where the day begins: utc_offset = '+01:00'"),
    (M("¦m = { fn = 'sum(level)', by = 'account' }"), "metric.m.window: is missing", "for example '10s', '24h', 'day' or last = 10 in its place"),
    (M("m = { fn = 'sum(level)', by = 'account', ¦window = '1h', last = 5 }"), "metric.m.window: cannot stand beside last", "the last N events, or those of a time: keep one of the two"),
    (M("m = { fn = 'sum(level)', by = 'account', last = 5, ¦offset = '1h' }"), "metric.m.offset: cannot stand beside last", "the last N events, or those of a time: keep one of the two"),
    (M("m = { fn = 'sum(level)', by = 'account', last = ¦0 }"), "metric.m.last: 0 is out of range", "allowed: 1 to 10000"),
    (M("m = { fn = 'sum(level)', by = 'account', last = ¦10001 }"), "metric.m.last: 10001 is out of range", "allowed: 1 to 10000"),
    (M("m = { fn = 'count', by = 'account', ¦last = 5 }"), "metric.m.last: count takes no last", "allowed: window, offset, cap"),
    (M("m = { fn = 'last(level)', by = 'account', ¦last = 5 }"), "metric.m.last: last takes no last", "allowed: window, offset"),
    (M("m = { fn = 'last(level)', by = 'account', ¦offset = '1h' }"), "metric.m.offset: needs a window to shift", "write the window as a length, for example '24h'"),
    (M("m = { fn = 'count', by = 'account', window = '1h', offset = ¦'0s' }"), "metric.m.offset: '0s' is not a duration", "a whole number and s, m, h or d, from 1s to 100 years, for"),
    (M("m = { fn = 'sum(level)', by = 'account', window = '1h', ¦cap = 5 }"), "metric.m.cap: sum takes no cap", "allowed: window, offset, last"),
    (M("m = { fn = 'distinct(kind)', by = 'account', last = 5, ¦cap = 5 }"), "metric.m.cap: cannot stand beside last", "last itself keeps no more than N events"),
    (M("m = { fn = 'since_first', by = 'account', ¦window = '1h' }"), "metric.m.window: since_first takes no window", "allowed: warmup"),
    (M("m = { fn = 'since_previous', by = 'account', ¦warmup = '1h' }"), "metric.m.warmup: since_previous takes no warmup", "allowed: none of window, offset, last, cap, warmup"),
    (M("m = { fn = 'count', by = 'account', window = '1h', ¦warmup = '1h' }"), "metric.m.warmup: count takes no warmup", "allowed: window, offset, cap"),
    (M("m = { fn = 'count', by = 'account', window = '1h', ¦wher = 'foreign' }"), "metric.m.wher: unknown key", "did you mean 'where'?"),
    (M("m = { fn = 'count', by = 'account', window = '1h', where = '¦amount' }"), "metric.m.where: is money with 2 decimals, not a condition", "compare it with something"),
    (M("m = { fn = 'count', by = 'account', window = '1h', where = 'foreign and ¦m > 1' }"), "metric.m.where: m is a metric", "a metric's `where` knows fields only, no other metrics"),
    (M("m = { fn = 'count', by = 'account', window = '1h', where = '¦a.level > 1' }"), "metric.m.where: a.level cannot be read here", "`a.` stands for the event found by `after`; it can be read"),
    (M("m = { fn = 'count', by = 'account', window = '1h', where = 'amount * p.x > ¦fee' }"), "metric.m.where: is money with 3 decimals, the other side is money with 2 decimals", "money of one scale goes together"),
    (M("m = { fn = 'count', by = 'account', window = '1h', where = 'level % ¦level == p.x' }"), "metric.m.where: `%` needs a positive constant on its right", "a number or p.NAME"),
    (M("m = { fn = 'count', by = 'account', window = '1h', default = ¦'x' }"), "metric.m.default: must be a whole number", "for example 0"),
    (M("m = { fn = 'count', by = 'account', window = '1h', default = ¦1.5 }"), "metric.m.default: must be a whole number", "for example 0"),
    (M("m = { fn = 'sum(fee)', by = 'account', window = '1h', default = ¦0.0001 }"), "metric.m.default: must be money with 3 decimals", "0 or '0.00'"),
    (M("m = { fn = 'since_first', by = 'account', default = ¦5 }"), "metric.m.default: must be a duration", "for example '90d', '1500ms'"),
    (M("m = { fn = 'last(kind)', by = 'account', default = ¦'deposti' }"), "metric.m.default: 'deposti' is not a value of the field", "did you mean 'deposit'? allowed: deposit, withdrawal, transfer"),
    (M("m = { fn = 'last(party)', by = 'account', default = ¦'"+"x"*65 + "' }"), "metric.m.default: is 65 characters long", "at most 64, as party itself"),
    (M("m = { fn = 'last(foreign)', by = 'account', default = ¦0 }"), "metric.m.default: must be a truth value", "in the type of the metric"),
    (M("m = { fn = 'count', by = 'account', window = '1h', default = ¦true }"), "metric.m.default: must be a whole number", "in the type of the metric"),
    (M("m = { fn = '¦sum(amount)', by = 'account', window = '1h' }"), "metric.m.fn: amount may be in several currencies", "add currency to `by`; or pin it in `where`: currency =="),
    (M("m = { fn = '¦max(amount)', by = ['account', 'kind'], window = '1h', where = \"currency != 'NOK'\" }"), "metric.m.fn: amount may be in several currencies", "add currency to `by`; or pin it in `where`: currency =="),
    (M("m = { fn = '¦last(amount)', by = 'account', where = \"currency == 'NOK' or foreign\" }"), "metric.m.fn: amount may be in several currencies", "add currency to `by`; or pin it in `where`: currency =="),
    (M("m = { fn = '¦min(amount)', by = 'account', window = '1h', where = \"currency in ('NOK', 'EUR')\" }"), "metric.m.fn: amount may be in several currencies", "add currency to `by`; or pin it in `where`: currency =="),
    ("utc_offset = '+01:00'\n[metric]\nm = { fn = 'count', by = 'account', window = 'day', ¦offset = '1d' }\n" + OK, "metric.m.offset: cannot shift a calendar day", "write the window as a length, for example '24h'"),
    # -- template
    (W("¦near > 1", NEAR), "scenario.one.when: the metric near needs the parameter p.lo", "add lo to params; it stands in the metric's `where`"),
    (W("near > 1", NEAR.replace("p.lo", "p.lo and kind == ¦p.lo"),"params = { lo = '5' }\n"), "metric.near.where: for scenario one: '5' is not a value of the field", "allowed: deposit, withdrawal, transfer"),
    (W("near > 1", NEAR.replace("amount >= p.lo","amount >= ¦p.lo"),"params = { lo = 'many' }\n"), "metric.near.where: for scenario one: is a text, but money with 2 decimals is needed here", "compare like with like"),
    (W("near > 1 and level > ¦p.lo", NEAR, "params = { lo = '5' }\n"), "scenario.one.when: is a text, but a whole number is needed here", "whole numbers are written without quotes"),
    (W("near > 1 and level > ¦p.lo", NEAR, "params = { lo = 5 }\n"), "scenario.one.when: p.lo is money with 2 decimals elsewhere and a whole number here", "use two parameters"),
    (W("near > 1", NEAR,"params = { lo = 5 }\nsegment.s = { where = 'foreign', lo = ¦5.001 }\n"), "scenario.one.segment.s.lo: has more than 2 decimals", "round it"),
    # -- cap
    (W("m > ¦5",CAPPED), "scenario.one.when: m stops at its cap 5, so `> 5` could be wrong", "compare with at most 4, or raise the cap"),
    (W("m <= ¦5",CAPPED), "scenario.one.when: m stops at its cap 5, so `<= 5` could be wrong", "compare with at most 4, or raise the cap"),
    (W("m == ¦5",CAPPED), "scenario.one.when: m stops at its cap 5, so `== 5` could be wrong", "compare with at most 4, or raise the cap"),
    (W("m != ¦5",CAPPED), "scenario.one.when: m stops at its cap 5, so `!= 5` could be wrong", "compare with at most 4, or raise the cap"),
    (W("m >= ¦6",CAPPED), "scenario.one.when: m stops at its cap 5, so `>= 6` could be wrong", "compare with at most 5, or raise the cap"),
    (W("m < ¦6",CAPPED), "scenario.one.when: m stops at its cap 5, so `< 6` could be wrong", "compare with at most 5, or raise the cap"),
    (W("¦6 <= m",CAPPED), "scenario.one.when: m stops at its cap 5, so `>= 6` could be wrong", "compare with at most 5, or raise the cap"),
    (W("1 < m < ¦6",CAPPED), "scenario.one.when: m stops at its cap 5, so `< 6` could be wrong", "compare with at most 5, or raise the cap"),
    (W("¦m + 1 > 2",CAPPED), "scenario.one.when: m has a cap, so it can only be compared with a constant or a parameter", "remove the cap, or use a metric without one here"),
    (W("¦m in (1, 2)",CAPPED), "scenario.one.when: m has a cap, so it can only be compared with a constant or a parameter", "remove the cap, or use a metric without one here"),
    (W("m > ¦level",CAPPED), "scenario.one.when: m has a cap, which could change this comparison", "compare it with a constant or a parameter, or remove the cap"),
    (W("¦level < m",CAPPED), "scenario.one.when: m has a cap, which could change this comparison", "compare it with a constant or a parameter, or remove the cap"),
    (W("m > ¦p.n",CAPPED,"params = { n = 5 }\n"), "scenario.one.when: m stops at its cap 5, so `> 5` could be wrong", "compare with at most 4, or raise the cap"),
    (W("m > p.n",CAPPED,"params = { n = 4 }\nsegment.s = { where = 'foreign', n = ¦5 }\n"), "scenario.one.segment.s.n: m stops at its cap 5, so `> 5` could be wrong", "compare with at most 4, or raise the cap"),
    (CAPPED + S("when = 'foreign'\nmeasure = '¦m'\nthreshold = 1\n"), "scenario.one.measure: m has a cap, so it can only be compared with a constant or a parameter", "remove the cap, or use a metric without one here"),
    (CAPPED + S("when = 'foreign'\nmeasure = 'level'\nthreshold = '¦m'\n"), "scenario.one.threshold: m has a cap, so it can only be compared with a constant or a parameter", "remove the cap, or use a metric without one here"),
    (CAPPED + S("when = 'foreign'\nmeasure = 'level'\nthreshold = 1\nreason = '{¦m}'\n"), "scenario.one.reason: m has a cap, so it can only be compared with a constant or a parameter", "remove the cap, or use a metric without one here"),
    (CAPPED + S("when = 'foreign'\nmeasure = 'level'\nthreshold = 1\nscore = { value = '¦m', bands = [{ points = 1 }] }\n"), "scenario.one.score.value: m has a cap, so it can only be compared with a constant or a parameter", "remove the cap, or use a metric without one here"),
    # -- types
    (W("age > ¦5",AGES), "scenario.one.when: is a number, but a duration is needed here", "a duration is written in quotes, with its unit: '90d', '1500ms'"),
    (W("age > ¦'5 days'",AGES), "scenario.one.when: '5 days' is not a duration", "a whole number and us, ms, s, m, h or d, at most 100 years,"),
    (W("age > ¦'200y'",AGES), "scenario.one.when: '200y' is not a duration", "a whole number and us, ms, s, m, h or d, at most 100 years,"),
    (W("age > ¦'40000d'",AGES), "scenario.one.when: '40000d' is not a duration", "a whole number and us, ms, s, m, h or d, at most 100 years,"),
    (W("age > ¦p.x",AGES,"params = { x = 5 }\n"), "scenario.one.when: is a number, but a duration is needed here", "a duration is written in quotes, with its unit: '90d', '1500ms'"),
    (W("¦age * 2 > '1d'",AGES), "scenario.one.when: `*` does not work on a duration", "it works on integer and money"),
    (W("¦age % 2 == '1d'",AGES), "scenario.one.when: `%` does not work on a duration", "it works on integer and money"),
    (W("¦-age > '1d'",AGES), "scenario.one.when: `-` does not work on a duration", "it works on numbers and money"),
    (W("age > ¦level",AGES), "scenario.one.when: is a whole number, but a duration is needed here", "compare like with like"),
    (W("age + ¦level > '1d'",AGES), "scenario.one.when: is a whole number, but a duration is needed here", "compare like with like"),
    (W("¦age",AGES), "scenario.one.when: is a duration, not a condition", "compare it with something"),
    (W("¦age in list.watch",AGES + LISTS), "scenario.one.when: is a duration", "a list is asked for a string or enum field, or a metric of one"),
    (W("age > ¦'1d' * 2",AGES), "scenario.one.when: `*` works on numbers", "write both sides as numbers"),
    (W("level > ¦'1d'"), "scenario.one.when: is a text, but a whole number is needed here", "whole numbers are written without quotes"),
    (W("amount > ¦fee"), "scenario.one.when: is money with 3 decimals, the other side is money with 2 decimals", "money of one scale goes together"),
    (W("¦amount * fee > 1"), "scenario.one.when: money times money has no unit", "multiply by a whole number"),
    (W("¦level * level * level * level * level * level * level * level * level * level * level * level * level * level * level * level * level > 1"), "scenario.one.when: multiplies too much: the result could have over 300 digits", "use fewer factors"),
    (W("country == ¦'XX'"), "scenario.one.when: 'XX' is not a value of the field", "allowed: NO, SE, DK"),
    (W("checked and ¦risk"), "scenario.one.when: is a whole number, not a condition", "compare it with something"),
    (W("¦at > '1d'"), "scenario.one.when: at is a time; time is said with windows only", "choose another field"),
    (W("¦a.amount > 1"), "scenario.one.when: a.amount needs an earlier event", 'declare it: after = { where = "...", within = \'1d\' }'),
    (W("level > ¦a.amout","","after = { where = 'foreign', within = '1d' }\n"), "scenario.one.when: the earlier event has no field 'amout'", "did you mean 'amount'?"),
    (W("'1d' < ¦a.at","","after = { where = 'foreign', within = '1d' }\n"), "scenario.one.when: at is a time; time is said with windows only", "choose another field"),
    (W("level > ¦a.m",CAPPED,"after = { where = 'foreign', within = '1d' }\n"), "scenario.one.when: the earlier event has no field 'm'", "allowed: event_id, account, party, memo, kind, channel,"),
    # -- scenario
    (S(BODY + "status = ¦'lvie'\n"), "scenario.one.status: 'lvie' is not allowed", "did you mean 'live'? allowed: draft, shadow, live, retired"),
    (S(BODY + "cooldown = ¦'0s'\n"), "scenario.one.cooldown: '0s' is not a duration", "a whole number and s, m, h or d, from 1s to 100 years, for"),
    (S(BODY + "cooldown = ¦5\n"), "scenario.one.cooldown: must be text in quotes, not an integer", ""),
    (S(BODY + "subject = ¦'amount'\n"), "scenario.one.subject: 'amount' is not a field to group by", "did you mean 'account'?"),
    (S(BODY + "params = { ¦where = 5 }\n"), "scenario.one.params.where: is not a usable name", "lower-case letters, digits and _, beginning with a letter,"),
    (S(BODY + "params = { ¦x = 5 }\n"), "scenario.one.params.x: is never used", "use it as p.x, or remove it"),
    (S(BODY + "params = { x = ¦[5] }\n"), "scenario.one.params.x: must be a number, a text or a truth value", ""),
    (S(BODY + "params = { x = ¦10000000000000000000 }\n"), "scenario.one.params.x: is too large a number", "at most 1000000000000000000"),
    (S(BODY + "tests = ¦[]\n"), "scenario.one.tests: must be a list of transcript files", ""),
    (S(BODY + "tests = ¦5\n"), "scenario.one.tests: must be a list of transcript files", ""),
    (S("when = 'foreign'\nmeasure = '¦5'\nthreshold = 1\n"), "scenario.one.measure: is a number", "needs a field, a metric or arithmetic with one"),
    (S("when = 'foreign'\nmeasure = 'level'\nthreshold = ¦true\n"), "scenario.one.threshold: must be a number or an expression in quotes", "for example 5, '500.00' or 'p.limit'"),
    (S("when = 'foreign'\nmeasure = 'level'\nthreshold = ¦1.5\n"), "scenario.one.threshold: is not a whole number", "multiply the other side instead"),
    (AGES + S("when = 'foreign'\nmeasure = 'age'\nthreshold = ¦90\n"), "scenario.one.threshold: is a number, but a duration is needed here", "a duration is written in quotes, with its unit: '90d', '1500ms'"),
    # -- names
    (OK + S(BODY + "on = { of = [¦'oen'] }\n","two"), "scenario.two.on.of.0: there is no scenario 'oen'", "did you mean 'one'? allowed: one"),
    (S(BODY + "on = { of = [¦'two'] }\n") + S(BODY,"two"), "scenario.one.on.of.0: two does not stand earlier in the file", "allowed: none"),
    (S(BODY + "on = { of = ['one', ¦'one'] }\n"), "scenario.one.on.of.1: one is named twice", "name it once"),
    (S(BODY + "on = { of = ¦'one' }\n","two"), "scenario.two.on.of: must be a list of scenario ids", "for example { of = ['a', 'b'] }"),
    (S(BODY + "status = 'shadow'\n") + S(BODY + "on = { of = [¦'one'] }\n","two"), "scenario.two.on.of.0: one is a shadow scenario", "what is live never depends on a shadow: make both shadow, or both live"),
    (S(BODY + "status = 'draft'\n") + S(BODY + "on = { of = [¦'one'] }\nstatus = 'shadow'\n","two"), "scenario.two.on.of.0: one is draft and never runs", "only live and shadow scenarios can be named"),
    (S(BODY + "status = 'retired'\n") + S(BODY + "on = { of = [¦'one'] }\nstatus = 'draft'\n","two"), "scenario.two.on.of.0: one is retired and never runs", "only live and shadow scenarios can be named"),
    ("[metric]\nn = { fn = \"count(flags, of=['one'])\", by = 'account', window = '1h' }\n" + S(BODY.replace("foreign","foreign and ¦n > 1")), "scenario.one.when: uses the metric n, which counts flags of one", "one must stand earlier in the file"),
    ("[metric]\nn = { fn = \"count(flags, of=['one'])\", by = 'account', window = '1h' }\n" + S(BODY + "status = 'shadow'\n") + S(BODY.replace("'amount'","'¦n'"),"two"), "scenario.two.measure: uses the metric n, which counts flags of one: one is a shadow scenario", "what is live never depends on a shadow: make both shadow, or both live"),
    ("[metric]\nn = { fn = \"count(flags, of=['one'])\", by = 'account', window = '1h' }\n" + S(BODY + "status = 'draft'\n") + S(BODY + "reason = '{¦n}'\n","two"), "scenario.two.reason: uses the metric n, which counts flags of one: one is draft and never runs", "only live and shadow scenarios can be named"),
    (S(BODY + "on = 'level > 1 and ¦n > 1'\n").replace("[scenario.one]","[metric]\nn = { fn = 'count', by = 'account', window = '1h' }\n[scenario.one]"), "scenario.one.on: n is a metric", "`on` says which events are looked at and knows fields only;"),
    # -- segment
    (S(BODY + "segment.s = ¦5\n"), "scenario.one.segment.s: must be a table, not an integer", 'for example { where = "channel == \'branch\'", n = 8 }'),
    (S(BODY + "segment.s = { ¦n = 5, where = 'foreign' }\n"), "scenario.one.segment.s.n: there is no parameter 'n'", "allowed: none"),
    (S(BODY.replace("foreign","level > p.n") + "params = { n = 5 }\nsegment.s = { where = 'foreign', ¦m = 5 }\n"), "scenario.one.segment.s.m: there is no parameter 'm'", "allowed: n"),
    (S(BODY.replace("foreign","level > p.n") + "params = { n = 5 }\nsegment.s = { where = 'foreign', n = ¦'x' }\n"), "scenario.one.segment.s.n: is a text, but a whole number is needed here", "whole numbers are written without quotes"),
    (S(BODY.replace("foreign","level > p.n") + "params = { n = 5 }\nsegment.s = { where = 'foreign', n = ¦2.5 }\n"), "scenario.one.segment.s.n: is not a whole number", "multiply the other side instead"),
    (S(BODY.replace("foreign","level > p.n") + "params = { n = 5 }\nsegment.s = { where = 'foreign', n = ¦true }\n"), "scenario.one.segment.s.n: is a truth value, but a whole number is needed here", "compare like with like"),
    (S(BODY.replace("foreign","amount > p.n * 2 and foreign == p.b") + "params = { n = 5, b = true }\nsegment.s = { where = 'foreign', n = ¦'2' }\n"), "scenario.one.segment.s.n: is a text, the parameter itself is a number", "use the same type"),
    (S(BODY.replace("foreign","kind == p.k") + "params = { k = 'deposit' }\nsegment.s = { where = 'foreign', k = ¦'deposti' }\n"), "scenario.one.segment.s.k: 'deposti' is not a value of the field", "did you mean 'deposit'? allowed: deposit, withdrawal, transfer"),
    (S(BODY.replace("foreign","level % p.n == 0") + "params = { n = 5 }\nsegment.s = { where = 'foreign', n = ¦0 }\n"), "scenario.one.segment.s.n: `%` needs a positive constant on its right", "a number or p.NAME"),
    (S(BODY + "¦segment.s = { }\n"), "scenario.one.segment.s: does not say whom it is for", "give it a `where`, or add [list.s]; lists: none"),
    (S(BODY + "segment.s = { where = ¦5 }\n"), "scenario.one.segment.s.where: must be a condition in quotes, not an integer", ""),
    (S(BODY + "segment.s = { where = '¦amount' }\n"), "scenario.one.segment.s.where: is money with 2 decimals, not a condition", "compare it with something"),
    (S(BODY + "segment.s = { where = 'level > ¦p.n' }\nparams = { n = 5 }\n").replace("'foreign'","'level > p.n'"), "scenario.one.segment.s.where: p.n cannot be used here", "a segment's `where` has no parameters: write the value itself"),
    (LISTS + S(BODY + "subject = 'account'\non = 'level > p.n'\nsegment.watch = { ¦n = 5 }\nparams = { n = 5 }\n"), "scenario.one.segment.watch.n: p.n stands in `on` or `after`, which are the same for everybody", "use another parameter there"),
    (S(BODY + "on = 'foreign'\nafter = { where = 'level > p.n', within = '1d' }\nsegment.s = { where = 'foreign', ¦n = 5 }\nparams = { n = 5 }\n"), "scenario.one.segment.s.n: p.n stands in `on` or `after`, which are the same for everybody", "use another parameter there"),
    (S(BODY + "¦segment.list = { where = 'foreign' }\n"), "scenario.one.segment.list: is not a usable name", "lower-case letters, digits and _, beginning with a letter,"),
    (S(BODY + "¦segment.s0 = { where = 'foreign' }\n" + "".join(f"segment.s{i} = {{ where = 'foreign' }}\n" for i in range(1,21))), "scenario.one.segment: 21 are too many", "at most 20"),
    # -- after
    (S(BODY + "¦after = { within = '1d' }\n"), "scenario.one.after.where: is missing", "it must be text in quotes"),
    (S(BODY + "¦after = { where = 'foreign' }\n"), "scenario.one.after.within: is missing", "it must be text in quotes"),
    (S(BODY + "after = ¦'foreign'\n"), "scenario.one.after: must be a table, not a string", "with the keys where, within, by, reuse"),
    (S(BODY + "after = { where = 'foreign', within = ¦'soon' }\n"), "scenario.one.after.within: 'soon' is not a duration", "a whole number and s, m, h or d, from 0s to 100 years, for"),
    (S(BODY + "after = { where = 'foreign', within = '1d', by = ¦'amount' }\n"), "scenario.one.after.by: 'amount' is not a field to group by", "did you mean 'account'?"),
    (S(BODY + "after = { where = 'foreign', within = '1d', ¦resue = true }\n"), "scenario.one.after.resue: unknown key", "did you mean 'reuse'? allowed: where, within, by, reuse"),
    (S(BODY + "after = { where = 'foreign', within = '1d', reuse = ¦'yes' }\n"), "scenario.one.after.reuse: must be true or false, not a string", ""),
    (S(BODY + "after = { where = '¦a.foreign', within = '1d' }\n"), "scenario.one.after.where: a.foreign cannot be read here", "`a.` stands for the event found by `after`; it can be read"),
    (S(BODY + "after = { where = 'foreign', within = '1d' }\non = '¦a.foreign'\n"), "scenario.one.on: a.foreign cannot be read here", "`a.` stands for the event found by `after`; it can be read"),
    (CAPPED + S(BODY + "after = { where = '¦m > 1', within = '1d' }\n"), "scenario.one.after.where: m is a metric", "`after.where` knows fields only; put the metric into `when`"),
    # -- reason
    (S(BODY + "reason = '¦{amount'\n"), "scenario.one.reason: has a brace without its partner", "allowed in braces: a field, a metric, p.NAME, a.NAME; a"),
    (S(BODY + "reason = 'a ¦} b'\n"), "scenario.one.reason: has a brace without its partner", "allowed in braces: a field, a metric, p.NAME, a.NAME; a"),
    (S(BODY + "reason = '¦{amount:.2f}'\n"), "scenario.one.reason: {amount:.2f} cannot be filled in", "allowed in braces: a field, a metric, p.NAME, a.NAME; a"),
    (S(BODY + "reason = '¦{amount + 1}'\n"), "scenario.one.reason: {amount + 1} cannot be filled in", "allowed in braces: a field, a metric, p.NAME, a.NAME; a"),
    (S(BODY + "reason = '¦{}'\n"), "scenario.one.reason: {} cannot be filled in", "allowed in braces: a field, a metric, p.NAME, a.NAME; a"),
    (S(BODY + "reason = '{¦amout}'\n"), "scenario.one.reason: there is nothing called 'amout'", "did you mean 'amount'?"),
    (S(BODY + "reason = '{¦p.x}'\n"), "scenario.one.reason: there is no parameter 'x'", "allowed: none"),
    (S(BODY + "reason = '{¦a.amount}'\n"), "scenario.one.reason: a.amount needs an earlier event", 'declare it: after = { where = "...", within = \'1d\' }'),
    (S(BODY + "reason = '{¦memo}'\n"), "scenario.one.reason: memo may be 65535 characters long, too long to be shown in a flag", "give the field max_length = 1024 or less in the contract"),
    (S(BODY + "reason = '{¦at}'\n"), "scenario.one.reason: at is a time; time is said with windows only", "choose another field"),
    (S(BODY + "reason = ¦'"+"x"*1001 + "'\n"), "scenario.one.reason: is 1001 characters long", "at most 1000"),
    (S(BODY + "reason = ¦5\n"), "scenario.one.reason: must be text in quotes, not an integer", ""),
    (S(BODY + "reason = '" + "{level}"*30 + "{¦level}'\n"), "scenario.one.reason: fills in too much", "at most 30 names in braces"),
    (S(BODY + "reason = '¦{list.watch}'\n"), "scenario.one.reason: {list.watch} cannot be filled in", "allowed in braces: a field, a metric, p.NAME, a.NAME; a"),
    # -- score
    (S(LEVEL + "score = ¦5\n"), "scenario.one.score: must be a table, not an integer", "with the keys value, bands"),
    (S(LEVEL + "¦score = { value = 'level' }\n"), "scenario.one.score.bands: is missing", "it must be a list"),
    (S(LEVEL + "score = { bands = ¦[] }\n"), "scenario.one.score.bands: has 0 bands", "allowed: 1 to 50"),
    (S(LEVEL + "score = { bands = [¦5] }\n"), "scenario.one.score.bands.0: must be a table, not an integer", "with the keys at_least, below, points, reason"),
    (S(LEVEL + "score = { bands = [{ ¦point = 5 }] }\n"), "scenario.one.score.bands.0.point: unknown key", "did you mean 'points'? allowed: at_least, below, points, reason"),
    (S(LEVEL + "score = { bands = [¦{ at_least = 1 }] }\n"), "scenario.one.score.bands.0.points: is missing", "it must be a whole number"),
    (S(LEVEL + "score = { bands = [{ points = ¦1000001 }] }\n"), "scenario.one.score.bands.0.points: 1000001 is out of range", "allowed: -1000000 to 1000000"),
    (S(LEVEL + "score = { bands = [{ points = ¦0.5 }] }\n"), "scenario.one.score.bands.0.points: must be a whole number, not a decimal number", ""),
    (S(LEVEL + "score = { bands = [{ at_least = ¦'x', points = 1 }] }\n"), "scenario.one.score.bands.0.at_least: must be a whole number", "in the unit of the score's value"),
    (S(LEVEL + "score = { bands = [{ at_least = ¦1.5, points = 1 }] }\n"), "scenario.one.score.bands.0.at_least: must be a whole number", "in the unit of the score's value"),
    (S(LEVEL + "score = { bands = [{ at_least = 5, below = ¦5, points = 1 }] }\n"), "scenario.one.score.bands.0.below: is not above at_least", "a band is [at_least, below)"),
    (S(LEVEL + "score = { bands = [{ below = 5, points = 1 }, { at_least = ¦6, points = 2 }] }\n"), "scenario.one.score.bands.1.at_least: is not where the band before it ends", "write at_least = 5: bands leave no gap and do not overlap"),
    (S(LEVEL + "score = { bands = [{ below = 5, points = 1 }, ¦{ points = 2 }] }\n"), "scenario.one.score.bands.1.at_least: is missing", "only the first band may leave out at_least"),
    (S(LEVEL + "score = { bands = [¦{ points = 1 }, { at_least = 5, points = 2 }] }\n"), "scenario.one.score.bands.0.below: is missing", "only the last band may leave out below"),
    (S(LEVEL + "score = { value = '¦5', bands = [{ points = 1 }] }\n"), "scenario.one.score.value: is a number", "needs a field, a metric or arithmetic with one"),
    (S(LEVEL + "score = { value = '¦foreign', bands = [{ points = 1 }] }\n"), "scenario.one.score.value: is a truth value", "needs a field, a metric or arithmetic with one"),
    (S(BODY + "score = { bands = [{ at_least = ¦1.001, points = 1 }] }\n"), "scenario.one.score.bands.0.at_least: must be money with 2 decimals", "in the unit of the score's value"),
    (AGES + S(BODY + "score = { value = 'age', bands = [{ at_least = ¦90, points = 1 }] }\n"), "scenario.one.score.bands.0.at_least: must be a duration", "for example '90d', '1500ms'"),
    (AGES + S(BODY + "score = { value = 'age', bands = [{ at_least = '90d', below = ¦'10d', points = 1 }] }\n"), "scenario.one.score.bands.0.below: is not above at_least", "a band is [at_least, below)"),
    # -- typology
    (SCORED + TYPOLOGY.replace("[", "¦["), "typology.ty.weights: is missing", "it must be a table"),
    (SCORED + TYPOLOGY + "weights = ¦{}\n", "typology.ty.weights: names no scenario", "for example { fan_in = 2, fan_out = 1 }"),
    (SCORED + TYPOLOGY + "weights = { ¦oen = 1 }\n", "typology.ty.weights.oen: there is no scenario 'oen'", "did you mean 'one'? allowed: one"),
    (SCORED + TYPOLOGY + "weights = { one = ¦0 }\n", "typology.ty.weights.one: 0 is out of range", "allowed: 1 to 1000"),
    (SCORED + TYPOLOGY + "weights = { one = ¦1.5 }\n", "typology.ty.weights.one: must be a whole number, not a decimal number", ""),
    (SCORED + TYPOLOGY.replace("threshold = 5","threshold = ¦'5'") + "weights = { one = 1 }\n", "typology.ty.threshold: must be a whole number, not a string", ""),
    (SCORED + TYPOLOGY.replace("[typology.ty]","¦[typology.one]") + "weights = { one = 1 }\n", "typology.one: is also the id of a scenario", "choose another id"),
    (SCORED + TYPOLOGY + "weights = { one = 1 }\nreason = '{¦points}'\n", "typology.ty.reason: there is nothing called 'points'", "did you mean 'amount'?"),
    (SCORED + TYPOLOGY + "weights = { one = 1 }\nreason = '{¦a.level}'\n", "typology.ty.reason: a.level cannot be read here", "a typology has no `after`"),
    (SCORED + TYPOLOGY + "weights = { one = 1 }\nreason = '{¦p.level}'\n", "typology.ty.reason: p.level cannot be used here", "write the value itself"),
    (SCORED + TYPOLOGY + "weights = { one = 1 }\n¦when = 'foreign'\n", "typology.ty.when: unknown key", "allowed: title, version, severity, status, threshold,"),
    (SCORED + TYPOLOGY + "weights = { one = 1 }\nrepeat = ¦'edgy'\n", "typology.ty.repeat: 'edgy' is not allowed", "did you mean 'edge'? allowed: every, edge"),
    (OK + TYPOLOGY + "weights = { ¦one = 1 }\n", "typology.ty.weights.one: one has no score", "give it one; scenarios with a score: none"),
    (S(LEVEL + "status = 'shadow'\nscore = { bands = [{ points = 1 }] }\n") + TYPOLOGY + "weights = { ¦one = 1 }\n", "typology.ty.weights.one: one is a shadow scenario", "what is live never depends on a shadow: make both shadow, or both live"),
    (S(LEVEL + "status = 'draft'\nscore = { bands = [{ points = 1 }] }\n") + TYPOLOGY + "status = 'shadow'\nweights = { ¦one = 1 }\n", "typology.ty.weights.one: one is draft and never runs", "only live and shadow scenarios can be named"),
    (TYPOLOGY.replace("[typology.ty]","¦[typology.'a b']") + "weights = { one = 1 }\n" + SCORED, "typology.a b: is not a usable typology id", "letters, digits, - and _, beginning with a letter, at most 64"),
]  # fmt: skip


@pytest.mark.parametrize("number", ["nan", "+inf", "-inf", "+1.5", "1e400", "1e3", "0.0000000001"])
def test_a_number_that_a_flag_could_not_show_is_refused(number: str) -> None:
    """What stands raw in a flag is a plain decimal, though the parameter is only told in a reason."""
    rules = HEAD + S(f"{LEVEL}params = {{ x = {MARK}{number} }}\nreason = '{{p.x}}'\n")
    hint = "write plain digits, at most 18 before the point and 9 after it"
    assert_refused(rules, f"scenario.one.params.x: {number} is not a number that can be used here", hint)


def test_the_subject_of_a_typology_must_be_a_field_to_group_by() -> None:
    """It is the contract's own, and asked for as that of a scenario is."""
    source = TomlSource((HEAD + SCORED + TYPOLOGY + "weights = { one = 1 }\n").encode(), "r.toml", exact=True)
    decl = read_ruleset(source)
    decl = replace(decl, scenarios=tuple(replace(each, subject="account") for each in decl.scenarios))
    with pytest.raises(ConfigError, match=r"typology\.ty: 'at' is not a field to group by"):
        check_ruleset(decl, source, replace(TRANSFERS, subject_field="at"), {})


@pytest.mark.parametrize(("text", "message", "hint"), REFUSED)
def test_a_bad_ruleset_is_refused_with_this_message_at_this_place(text: str, message: str, hint: str) -> None:
    """File, line, column, key, what is wrong, what is allowed; the caret stands under the mark."""
    assert_refused(HEAD + text, message, hint)


def test_more_instances_than_fit_are_refused_where_they_are_asked_for() -> None:
    """A template forks for each distinct value; at the limit the error is at the scenario that would make one more."""
    scenarios = [S(f"when = 'near > {MARK if n == 500 else ''}1'\nmeasure = 'level'\nthreshold = 1\nparams = {{ lo = {n} }}\n", f"s{n}")
                 for n in range(501)]  # fmt: skip
    with pytest.raises(ConfigError, match=r"^rules/r\.toml:\d+:1: scenario: 501 are too many: at most 500"):
        check((HEAD + NEAR + "".join(scenarios)).replace(MARK, ""))
    two = "[metric]\n" + "".join(
        f"{name} = {{ fn = 'count', by = 'account', window = '1h', where = 'amount >= p.lo' }}\n"
        for name in ("near", "far")
    )
    texts = [
        S(f"when = 'near > 1 and far > 1'\nmeasure = 'level'\nthreshold = 1\nparams = {{ lo = {n} }}\n", f"s{n}")
        for n in range(251)
    ]
    texts[250] = texts[250].replace("near", f"{MARK}near")
    assert_refused(
        HEAD + two + "".join(texts),
        "scenario.s250.when: with near for s250 the rules need too many metrics",
        "at most 500",
    )
    assert len(check(HEAD + two + "".join(texts[:250])).metrics) == 500


def test_derived_fields_cannot_pile_up_beyond_what_an_expression_may_be() -> None:
    """Each stands for all that it is made of: in depth, and in parts, which could double with each of them."""
    deep = "".join(f"d{n} = '{MARK if n == 25 else ''}not d{n - 1}'\n" for n in range(1, 30))
    message = "field.d25: is nested too deeply with its derived fields"
    assert_refused(f"{HEAD}[field]\nd0 = 'not foreign'\n{deep}{OK}", message, "at most 50 levels")
    wide = "".join(f"d{n} = '{MARK if n == 9 else ''}d{n - 1} or not d{n - 1}'\n" for n in range(1, 100))
    message = "field.d9: has 2556 parts with its derived fields"
    assert_refused(f"{HEAD}[field]\nd0 = 'foreign'\n{wide}{OK}", message, "at most 2000")


def test_a_bad_list_file_is_named_beside_the_ruleset() -> None:
    """The path is the ruleset's folder with the list's own path, and the line is in the list."""
    files = FILES | {"lists/codes.csv": b"code,name\nA1,x\n,y\n"}
    with pytest.raises(ConfigError, match=r"^rules/lists/codes\.csv:3: code is empty: give an entry"):
        check(HEAD + LISTS + OK, files)
