"""From lines to events: the fast way and the line-by-line way agree on anything, and every fault has its own words."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pure_core import CONTRACT, CONTRACT_TEXT, line, lines
from tidewaiter.core.contract import NESTING_LIMIT, Contract, compile_contract
from tidewaiter.core.decoding import BOM, LineFault, cut_lines, decode_at_once, decode_block, decode_lines_singly

IGNORING: Final = compile_contract(
    CONTRACT_TEXT.replace(b'unknown_fields = "refuse"', b'unknown_fields = "ignore"')
    .replace(b"[field]", b'[field]\nfee = { type = "integer", required = false }', 1), "ignoring.toml",
)  # fmt: skip
CONTRACTS: Final = {"refuse": CONTRACT, "ignore": IGNORING}


def nested(depth: int) -> bytes:
    """Return a JSON value nested `depth` deep, arrays and objects by turns."""
    text = b"1"
    for level in range(depth):
        text = b"[%b]" % text if level % 2 else b'{"a":%b}' % text
    return text


def note(value: bytes, number: int = 0) -> bytes:
    """Return an event with the undeclared member `note`, its value as given."""
    return line(number)[:-1] + b', "note": ' + value + b"}"


def decoded(*items: bytes, contract: Contract = CONTRACT, at_start: bool = False) -> list[Any]:
    """Decode the items as the lines of one block."""
    return decode_block(contract, lines(*items), at_start=at_start)


def fault(item: bytes, contract: Contract = CONTRACT) -> LineFault:
    """Return the fault of one line, which stands between two good ones that must be unharmed."""
    before, found, after = decoded(line(1), item, line(2), contract=contract)
    assert (before.event_id, after.event_id) == ("e1", "e2")
    assert isinstance(found, LineFault)
    return found


def took_the_fast_way(contract: Contract, data: bytes) -> bool:
    """Whether the block was decoded without a look at the reasons."""
    return decode_at_once(contract, data, cut_lines(data)) is not None


# -- the fast way and the slow way -------------------------------------------------------------------------------------

good = st.builds(
    line, st.integers(0, 5), user_id=st.text(min_size=1, max_size=4), amount=st.sampled_from([1, 0.01, 12.345, 1e6])
)
odd_values = st.sampled_from(
    [nested(63), nested(64), nested(65), b'"\xff"', b'"}"', b'"{"', b'"}\\n{"', b'"\x00"', b'"\xc3\xa9"', b"1e999",
     b"NaN", b"123456789012345678901234567890", b"[}", b'"' + b"[" * 100 + b'"', b"{", b'"\\"', b"[]", b'{"a": 1}',
     b"\xef\xbb\xbf1"]
)  # fmt: skip
bad = st.sampled_from(
    [b"", b" ", b"\r", b"{}", b"[]", b"}", b"{", b"}{", b"null", b"\x00", b"\xff", BOM, b"{]}", b'"}', b"{\xff}", b"1",
     line(7, amount=-1), line(7, amount=None), line(7, more=1), line(7)[:-1], line(7) + b"}", line(7)[1:],
     line(7).replace(b'"amount": 10.5', b'"amount": 10.5, "amount": 11'), line(7).replace(b"10.5", b"1" * 400)]
)  # fmt: skip
separators = st.sampled_from(
    [b"\n", b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b" \n", b"", b"\n ", b" ", b"\n" + BOM, b"\r\r\n"]
)
insertions = st.sampled_from([b"\n", b"\r", b" ", b"\x00", b"\xff", BOM, b"}\n{", b"{", b"}", b"\t"])
inserts = st.lists(st.tuples(st.integers(0, 1200), insertions), max_size=2)


@given(
    st.sampled_from(sorted(CONTRACTS)),
    st.lists(
        st.tuples(st.one_of(good, good, st.builds(note, odd_values, st.integers(0, 5)), bad), separators), max_size=6
    ),
    inserts,
    st.booleans(),
)
@example("ignore", [(line(0) + line(1), b"\n"), (b"", b"\n"), (line(2), b"\n")], [], False)
@example("ignore", [(note(b'"}\n{"'), b"\n"), (line(1) + line(2), b"\n")], [], False)
@example("refuse", [(line(0, fee=[{}, {}]).replace(b"}, {", b"}\n, {"), b"\n"), (line(1) + line(2), b"\n")], [], False)
@example("refuse", [(BOM + line(0), b"\n"), (BOM + line(1), b"\n")], [], True)
def test_the_fast_way_gives_what_reading_line_by_line_gives(
    kind: str, items: list[tuple[bytes, bytes]], inserted: list[tuple[int, bytes]], at_start: bool
) -> None:
    """For any mix of good lines, mutations and broken separators: one entry per line, the same both ways."""
    contract = CONTRACTS[kind]
    data = b"".join(item + separator for item, separator in items)
    for at, extra in inserted:
        data = data[: at % (len(data) + 1)] + extra + data[at % (len(data) + 1) :]
    if not data.endswith(b"\n"):
        data += b"\n"
    entries = decode_block(contract, data, at_start=at_start)
    assert entries == decode_lines_singly(contract, cut_lines(data), at_start=at_start)
    assert len(entries) == data.count(b"\n")


@given(st.lists(good, min_size=1, max_size=6), st.sampled_from(sorted(CONTRACTS)))
def test_good_lines_take_the_fast_way(items: list[bytes], kind: str) -> None:
    """The guards let ordinary blocks through, non-ASCII text included; otherwise speed would be lost silently."""
    assert took_the_fast_way(CONTRACTS[kind], lines(*items))
    assert took_the_fast_way(CONTRACTS[kind], b"".join(b" " + item + b"\r\n" for item in items))


@given(st.lists(st.one_of(good, st.builds(note, odd_values), bad), min_size=1, max_size=6), st.data())
def test_an_entry_depends_on_its_own_line_alone(items: list[bytes], data: st.DataObject) -> None:
    """Whatever stands before and behind a line in the block, and wherever the block was cut, it is judged the same."""
    whole = decoded(*items, contract=IGNORING)
    cut = data.draw(st.integers(0, len(items)))
    parts = [part for part in (items[:cut], items[cut:]) if part]
    assert [entry for part in parts for entry in decoded(*part, contract=IGNORING)] == whole


@pytest.mark.parametrize(
    "data",
    [
        lines(line(0) + line(1)),
        lines(line(0) + line(1), b"", line(2)),
        lines(line(0).replace(b", ", b",\n", 1)),
        lines(line(0), b"", line(1)),
        lines(BOM + line(0)),
        lines(note(b'"\xff"')),
        lines(note(nested(NESTING_LIMIT))),
        lines(note(b'"\x00"')),
        lines(line(0), b"{}"),
    ],
)
def test_the_fast_way_is_left_where_it_could_be_wrong(data: bytes) -> None:
    """Whatever the library would read differently from JSON lines goes line by line."""
    assert not took_the_fast_way(IGNORING, data)


def test_the_library_alone_would_have_skipped_a_line() -> None:
    """Why lines are cut first: two objects on a line, a blank line, an object over two lines are no error to it."""
    data = lines(line(0) + line(1), b"", line(2).replace(b", ", b",\n", 1))
    assert len(IGNORING.decoder.decode_lines(data)) == 3
    kinds = [entry.kind if isinstance(entry, LineFault) else "event" for entry in decoded(data[:-1], contract=IGNORING)]
    assert kinds == ["json", "framing", "json", "json"]


# -- what is an event --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "item",
    [
        line(5),
        line(5) + b"\r",
        b" \t" + line(5) + b" \t",
        line(5).replace(b'"user_id"', rb'"us\u0065r_id"'),
        line(5, event_time="2026-03-09t12:00:05.000000z"),
        line(5, event_time="2026-03-09T17:30:05+05:30"),
        line(5).replace(b'"e5"', b'"x", "event_id": "e5"'),
        line(5, user_id="\x00 \U0001f600 \\u0000"),
        line(5).replace(b'"amount": 10.5', b'"amount": 105e-1'),
    ],
)
def test_unusual_ways_to_write_an_event_are_events(item: bytes) -> None:
    """One carriage return, white space around, escapes, offsets, exponents; of duplicate keys the last counts."""
    (event,) = decoded(item)
    assert event.event_id == "e5"


def test_a_byte_order_mark_is_dropped_at_the_start_of_a_segment_only() -> None:
    """The first line of a segment may begin with one; anywhere else it is not JSON."""
    first, second = decoded(BOM + line(0), BOM + line(1), at_start=True)
    assert first.event_id == "e0"
    assert second == LineFault("json", "not valid JSON")
    (again,) = decoded(BOM + line(0))
    assert again == LineFault("json", "not valid JSON")
    (twice,) = decoded(BOM + BOM + line(0), at_start=True)
    assert twice == LineFault("json", "not valid JSON")


@pytest.mark.parametrize(
    "value",
    [nested(NESTING_LIMIT - 1), b'"' + b"[" * 200 + b'"', b'"\\"' + b"[" * 200 + b'"', b"[" + b"[]," * 200 + b"1]"],
)
def test_nesting_up_to_the_limit_is_ignored_with_its_field(value: bytes) -> None:
    """With the event itself, 64 levels are read; brackets inside texts and beside each other do not count."""
    (event,) = decoded(note(value), contract=IGNORING)
    assert event.event_id == "e0"


# -- the words of each fault -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("item", [b"", b" ", b"\r", b" \t\r", b"\x0b\x0c", b"\r\r"])
def test_a_blank_line_is_a_framing_fault(item: bytes) -> None:
    """Nothing but white space."""
    assert fault(item) == LineFault("framing", "blank line")


@pytest.mark.parametrize("item", [b"\x00", line(0) + b"\x00", note(b'"\x00"'), b"\x00" + line(0), b"\xff\x00"])
def test_a_nul_byte_is_a_framing_fault(item: bytes) -> None:
    """Zero pages of a crashed writer, wherever in the line."""
    assert fault(item, IGNORING) == LineFault("framing", "NUL byte")


@pytest.mark.parametrize(
    ("item", "at"),
    [(b"\xff", 0), (b"{\xc0\xaf}", 1), (note(b'"\xed\xa0\x80"'), len(line(0)) + 10), (line(0) + b"\xc3", len(line(0)))],
)
def test_invalid_utf8_is_a_framing_fault_that_names_the_byte(item: bytes, at: int) -> None:
    """Also inside a field that is otherwise ignored: overlong forms, surrogates, cut sequences."""
    assert fault(item, IGNORING) == LineFault("framing", f"invalid UTF-8 at byte {at}")


@pytest.mark.parametrize(
    "item",
    [note(nested(NESTING_LIMIT)), b"[" * 100_000, b'[{"":' * 50_000, note(b"[" * 65), b'{"a":' * 65 + b"1" + b"}" * 65],
)
def test_deep_nesting_is_a_fault_of_its_own(item: bytes) -> None:
    """One level beyond the limit, however much more follows, closed or not."""
    assert fault(item, IGNORING) == LineFault("json", f"nested deeper than {NESTING_LIMIT}")


@pytest.mark.parametrize(
    "item",
    [
        line(0)[:-1], line(0)[1:], line(0) + line(1), line(0) + b",", line(0)[:-1] + b",}", b"nul", b"{", b"}", b'"',
        b"#",
        note(b"NaN"), note(b"Infinity"), note(b"01"), note(b"1."), note(b"'x'"), note(b'"\t"'), note(b'"\\q"'),
        note(b'"\\ud800"'), line(0).replace(b"10.5", b"NaN"), line(0).replace(b"10.5", b"-Infinity"),
        line(0, amount=-1)[:-1], line(0, user_id=5) + b"]", b"[1,2", b'{"event_id": 5, "us', b'{"unknown": 1, "us',
        line(0, user_id="\ud800"),
    ],
)  # fmt: skip
def test_what_is_no_json_is_called_that(item: bytes) -> None:
    """Torn, doubled, or misspelt, also where an earlier member already breaks the contract."""
    assert fault(item) == fault(item, IGNORING) == LineFault("json", "not valid JSON")


@pytest.mark.parametrize("item", [b"[]", b"1", b'"text"', b"null", b"true", b"[1, 2]", b"-0.5e3"])
def test_json_that_is_no_object_is_a_contract_fault(item: bytes) -> None:
    """A value of another kind in place of an event."""
    assert fault(item) == LineFault("contract", "not an object")


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"event_id": ""}, "not a text of 1 to 128 characters", "event_id"),
        ({"event_id": "x" * 129}, "not a text of 1 to 128 characters", "event_id"),
        ({"event_id": 5}, "not a text of 1 to 128 characters", "event_id"),
        ({"event_time": "2026-03-09T12:00:00"}, "not an RFC 3339 time with a UTC offset", "event_time"),
        ({"event_time": "yesterday"}, "not an RFC 3339 time with a UTC offset", "event_time"),
        ({"event_time": "2026-02-30T12:00:00Z"}, "not an RFC 3339 time with a UTC offset", "event_time"),
        ({"event_time": "2026-03-09T12:00:60Z"}, "not an RFC 3339 time with a UTC offset", "event_time"),
        ({"ingest_time": 1772971200}, "not an RFC 3339 time with a UTC offset", "ingest_time"),
        ({"event_type": "deposit"}, "not one of the allowed values", "event_type"),
        ({"currency": 0}, "not one of the allowed values", "currency"),
        ({"amount": 0}, "not an amount within the bounds", "amount"),
        ({"amount": 1_000_000.01}, "not an amount within the bounds", "amount"),
        ({"amount": 10**400}, "not an amount within the bounds", "amount"),
        ({"amount": "10.5"}, "not an amount within the bounds", "amount"),
        ({"amount": [1]}, "not an amount within the bounds", "amount"),
        ({"channel": None}, "required field is missing", "channel"),
        ({"extra": 1}, "field not declared by the contract", "extra"),
        ({"a`b": 1}, "field not declared by the contract", "a"),
        ({"x" * 500: 1}, "field not declared by the contract", "x" * 64),
    ],
)
def test_a_broken_contract_names_the_field(fields: dict[str, Any], reason: str, field: str) -> None:
    """The first field that is not as declared, and what it should have been."""
    assert fault(line(0, **fields)) == LineFault("contract", reason, field)


@pytest.mark.parametrize("text", ["1e400", "-1e400", "9" * 400])
def test_a_number_beyond_a_double_is_out_of_bounds(text: str) -> None:
    """A number that no double holds breaks the contract of a money field, and is ignored elsewhere."""
    huge = text.encode()
    assert fault(line(0).replace(b"10.5", huge)) == LineFault("contract", "not an amount within the bounds", "amount")
    (event,) = decoded(note(huge), contract=IGNORING)
    assert event.event_id == "e0"


@pytest.mark.parametrize(
    ("value", "reason"), [("1.5", "whole number"), (str(2**63), "whole number"), ("true", "whole")]
)
def test_an_optional_field_is_held_to_its_type(value: str, reason: str) -> None:
    """Optional means that it may be absent, not that it may be anything."""
    found = fault(line(0)[:-1] + b', "fee": ' + value.encode() + b"}", IGNORING)
    assert reason in found.reason
    assert found.field == "fee"


def test_the_reasons_do_not_quote_the_library() -> None:
    """A library upgrade must not change a rejection: none of its words appear in any reason."""
    values: tuple[Any, ...] = (None, 5, "", [], {"a": 1}, True)
    items = [line(0, **{name: value}) for name in json.loads(line(0)) for value in values]
    for entry in decoded(*items, *(item[:-3] for item in items), b"[]", b"1"):
        if isinstance(entry, LineFault):
            for word in ("Expected", "Invalid", "malformed", "truncated", "$", "`", "msgspec"):
                assert word not in entry.reason


@given(st.binary(max_size=60).filter(lambda text: b"\n" not in text))
def test_any_bytes_are_an_event_or_a_fault(text: bytes) -> None:
    """No line, whatever its bytes, raises."""
    for contract in CONTRACTS.values():
        (entry,) = decoded(text, contract=contract)
        assert isinstance(entry, LineFault | contract.event_type)
