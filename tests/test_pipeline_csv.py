"""Delimited text: every record comes out as it was written or is rejected by itself, wherever a block is cut."""

from __future__ import annotations

import csv
import io
import tracemalloc
from contextlib import closing
from typing import TYPE_CHECKING, Final

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from csv_reference import Grammar, reference_records
from tidewaiter.core.errors import ConfigError, SourceHalt
from tidewaiter.core.pipelines.columns import ROW, STRING
from tidewaiter.core.pipelines.table_format import KnownFormat, TableFormat
from tidewaiter.edges.tables import csv_records
from tidewaiter.edges.tables.csv_source import CsvTable
from tidewaiter.edges.tables.decompressing import InputFile
from tidewaiter.edges.tables.line_blocks import RECORD_LIMIT, line_blocks
from tidewaiter.edges.tables.sources import Source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tidewaiter.core.pipelines.batches import Rejected

MANY: Final = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
Row = list[str | None]


def read(path: Path, batch_bytes: int = 1 << 24, **said: object) -> tuple[list[tuple[int, Row]], list[Rejected]]:
    """Return the rows with their numbers, and the rejections."""
    source = Source(path, TableFormat(**said), batch_bytes=batch_bytes)  # type: ignore[arg-type]
    rows: list[tuple[int, Row]] = []
    rejected: list[Rejected] = []
    for batch in source.batches():
        assert batch.frame.columns == [ROW, *source.columns]
        rows += [(number, list(cells)) for number, *cells in batch.frame.rows()]
        rejected += batch.rejected
    return rows, rejected


def of(tmp_path: Path, content: bytes, name: str = "in.csv") -> Path:
    """Write a file."""
    path = tmp_path / name
    path.write_bytes(content)
    return path


# -- the grammar -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"1,2", "3 fields expected, 2 found"),
        (b"1,2,3,4", "3 fields expected, 4 found"),
        (b"", "a blank line: 3 fields expected, 1 found"),
        (b'1,a"b,3', "a quote inside field 2, which does not begin with one"),
        (b'1,"a"b,3', "text after the closing quote of field 2"),
        (b'1, "2",3', "a quote inside field 2, which does not begin with one"),
        (b"1,\0,3", "a NUL byte after 2 bytes of the record"),
        (b"1,\xc3\xa9\xff,3", "byte 0xff after 3 characters of the record (4 bytes in UTF-8) cannot be decoded"),
        (b"1,2\r2,3", "a carriage return outside quotes that no line feed follows"),
    ],
)
def test_what_is_no_record_is_rejected_and_its_neighbours_survive(tmp_path: Path, line: bytes, problem: str) -> None:
    """A broken record is one rejection with its number, the reason and its raw text; the others are rows."""
    path = of(tmp_path, b"a,b,c\n1,2,3\n" + line + b"\n7,8,9\n")
    rows, rejected = read(path)
    assert rows == [(1, ["1", "2", "3"]), (3, ["7", "8", "9"])]
    assert [(each.row, each.column, each.problem, each.record, each.step) for each in rejected] == [
        (2, None, problem, line.decode("utf-8", "backslashreplace"), "read")
    ]


@pytest.mark.parametrize(
    ("record", "cells"),
    [
        (b'1,"a\nb",3', ["1", "a\nb", "3"]),
        (b'1,"a\r\nb",3', ["1", "a\r\nb", "3"]),
        (b'1,"a ""b"" c",3', ["1", 'a "b" c', "3"]),
        (b'"","",', ["", "", None]),
        (b",,", [None, None, None]),
        (b" 1 , 2 ,# 3", [" 1 ", " 2 ", "# 3"]),
        (b'"""1""",",","\n"', ['"1"', ",", "\n"]),
    ],
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_cells_come_out_as_they_were_written(tmp_path: Path, record: bytes, cells: Row, end: bytes) -> None:
    """Quotes, line breaks in them, white space and emptiness are kept; the last line end may be missing."""
    rows, rejected = read(of(tmp_path, b"a,b,c\r\n" + record + end))
    assert (rows, rejected) == ([(1, cells)], [])


def test_a_lost_quote_costs_its_line_only(tmp_path: Path) -> None:
    """A quote that is never closed makes its own line a rejection; reading goes on with the next line."""
    path = of(tmp_path, b'a,b\n1,"2\n' + b"3,4\n" * 300_000)
    rows, rejected = read(path, batch_bytes=1 << 16)
    assert [each.row for each in rejected] == [1]
    assert rejected[0].record == '1,"2'
    assert "no end of the record within 1048576 bytes" in rejected[0].problem
    assert (len(rows), rows[0], rows[-1]) == (300_000, (2, ["3", "4"]), (300_001, ["3", "4"]))


def test_an_open_quote_at_the_end_costs_its_line_only(tmp_path: Path) -> None:
    """At the end of the file the lost quote is called that, and the lines behind it are read."""
    rows, rejected = read(of(tmp_path, b'a,b\n1,"2\n3,4\n5,6'))
    assert rows == [(2, ["3", "4"]), (3, ["5", "6"])]
    assert [(each.row, each.problem) for each in rejected] == [(1, "the quote that opens field 2 is not closed")]


@pytest.mark.parametrize("batch_bytes", [1 << 12, 1 << 19, 1 << 24])
def test_a_record_over_the_limit_is_rejected_in_bounded_memory(tmp_path: Path, batch_bytes: int) -> None:
    """A line of 3 MiB is named with its length, cut to the limit, and does not hide its neighbours."""
    path = of(tmp_path, b"a,b\n1,2\n" + b"x" * (3 << 20) + b",y\n5,6\n")
    rows, rejected = read(path, batch_bytes)
    assert rows == [(1, ["1", "2"]), (3, ["5", "6"])]
    assert [each.problem for each in rejected] == ["a record of 3145730 bytes: more than 1048576 are not read"]
    assert rejected[0].record == "x" * RECORD_LIMIT
    assert rejected[0].value == "x" * 200 + "…"


@pytest.mark.parametrize("beginning", [b"", b'1,"'])
def test_a_line_without_end_takes_no_more_memory_than_a_block(beginning: bytes) -> None:
    """Of a line of 64 MiB no more is held than the limit and a block, in a quoted field too, and in JSON Lines."""
    parts = [beginning, *[b"x" * (1 << 20)] * 64, b"\n1,2\n"]
    for cut in (
        lambda: list(csv_records.cut_records(iter(parts), csv_records.Dialect(b",", b'"', 2), 1 << 20)),
        lambda: list(line_blocks(iter(parts), 1 << 20)),
    ):
        tracemalloc.start()
        found = cut()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found
        assert peak < 10 << 20


def test_a_short_record_cannot_hide_behind_a_long_one(tmp_path: Path) -> None:
    """Two records whose missing and extra fields make up for each other are both found."""
    rows, rejected = read(of(tmp_path, b"a,b,c\n" + b"1,2,3\n" * 5 + b"1,2\n" + b"1,2,3\n" * 5 + b"1,2,3,4\n"))
    assert (len(rows), [each.row for each in rejected]) == (10, [6, 12])


@pytest.mark.parametrize(
    "record", [b"1,22\n", b"1,22\r\n", b'"1",22\n', b"1,\n"], ids=["plain", "returns", "quoted", "null"]
)
@pytest.mark.parametrize(
    "wrong",
    [lambda frame: frame.head(99), lambda frame: pl.concat([frame, frame.head(1)])],
    ids=["less", "more"],
)
def test_a_parser_that_counts_otherwise_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: bytes, wrong: Callable[[pl.DataFrame], pl.DataFrame]
) -> None:
    """What the parser gives for a block counts only if it has as many rows as the block has records."""
    path = of(tmp_path, b"a,b\n" + record * 100)
    cells: Row = ["1", "22" if b"22" in record else None]
    whole = pl.read_csv
    monkeypatch.setattr(pl, "read_csv", lambda *args, **kwargs: wrong(whole(*args, **kwargs)))
    rows, rejected = read(path)
    assert (rows, rejected) == ([(number, cells) for number in range(1, 101)], [])


@pytest.mark.parametrize("cell", ["\ufeffx", "\ufeff", "x^", "x\x01", "x\u06bf", "x"])
@pytest.mark.parametrize("batch_bytes", [1, 1 << 24])
def test_a_block_that_begins_like_a_mark_or_compressed_data_is_text(
    tmp_path: Path, cell: str, batch_bytes: int
) -> None:
    """The parser neither drops a byte order mark inside the file nor inflates a block that begins like a stream."""
    rows, rejected = read(of(tmp_path, b"a,b\n" + f"{cell},2\n".encode() * 3), batch_bytes)
    assert (rows, rejected) == ([(number, [cell, "2"]) for number in (1, 2, 3)], [])


@pytest.mark.parametrize(("delimiter", "quote"), [("0", "1"), ("1", "0"), (",", "0"), ("2", '"')])
def test_digits_can_be_delimiter_and_quote(tmp_path: Path, delimiter: str, quote: str) -> None:
    """What is put before a block for the parser is one record, whatever separates its fields."""
    path = of(tmp_path, f"a{delimiter}b\nx{delimiter}y\n".encode())
    assert read(path, delimiter=delimiter, quote=quote) == ([(1, ["x", "y"])], [])


def test_a_parser_that_fails_on_the_system_is_in_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An OSError out of the parser sends the block through the grammar."""

    def refused(*_: object, **__: object) -> pl.DataFrame:
        raise OSError("corrupt deflate stream")

    monkeypatch.setattr(pl, "read_csv", refused)
    assert read(of(tmp_path, b"a,b\n1,2\n")) == ([(1, ["1", "2"])], [])


@pytest.mark.parametrize("line", [b"\n", b"1\n", b",,\n\n"])
def test_short_bad_lines_take_bounded_memory(tmp_path: Path, line: bytes) -> None:
    """A block of nothing but bad lines comes in batches of some thousand rejections, numbered on."""
    path = of(tmp_path, b"a,b\n" + line * 100_000)
    row = 0
    for batch in Source(path).batches():
        assert len(batch.rejected) <= 2 << 14
        assert [each.row for each in batch.rejected] == list(range(row + 1, row + len(batch.rejected) + 1))
        row += len(batch.rejected)
    assert row == 100_000 * line.count(b"\n")


def test_short_good_lines_come_in_batches_of_bounded_height(tmp_path: Path) -> None:
    """However short the lines are, a batch has at most so many rows."""
    heights = [len(batch.frame) for batch in Source(of(tmp_path, b"a\n" + b"1\n" * 600_000)).batches()]
    assert heights == [1 << 18, 1 << 18, 600_000 - (1 << 19)]


# -- the same, however it is cut ---------------------------------------------------------------------------------------


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prove texts in pieces of 16 bytes."""
    monkeypatch.setattr(csv_records, "PIECE_BYTES", 16)


def _read_all(path: Path, grammar: Grammar, block: int) -> tuple[dict[int, Row | bytes], list[Rejected]]:
    form = KnownFormat("csv", "none", header=False, columns=tuple(f"c{at}" for at in range(grammar.fields)))
    table = CsvTable(InputFile(path, form))
    table._dialect = table._dialect._replace(limit=grammar.limit)
    found: dict[int, Row | bytes] = {}
    rejected: list[Rejected] = []
    with closing(table.batches(1, block)) as batches:
        for batch in batches:
            found |= {number: list(cells) for number, *cells in batch.frame.rows()}
            rejected += batch.rejected
    assert not found.keys() & {each.row for each in rejected}
    return found, rejected


@MANY
@given(
    text=st.lists(
        st.sampled_from(
            [
                b"a",
                b"bc",
                b",",
                b",",
                b'"',
                b'"',
                b'""',
                b'","',
                b"\n",
                b"\n",
                b"\r\n",
                b"\r",
                b"\xc3\xa9",
                b"\xff",
                b"\0",
            ]
        ),
        max_size=60,
    ).map(b"".join),
    fields=st.integers(1, 3),
    block=st.integers(1, 80),
    limit=st.sampled_from([8, 20, 1 << 20]),
)
def test_any_text_gives_the_records_of_the_grammar(
    tmp_path: Path, small_pieces: None, text: bytes, fields: int, block: int, limit: int
) -> None:
    """Rows, numbers and rejections are those of a byte by byte reading, whatever the size of blocks."""
    path = of(tmp_path, text)
    grammar = Grammar(fields, limit=limit)
    expected = reference_records(text.removeprefix(b"\xef\xbb\xbf"), grammar)
    found, rejected = _read_all(path, grammar, block)
    rows = {number: record for number, record in enumerate(expected, 1) if isinstance(record, list)}
    assert found == rows
    assert [(each.row, each.record) for each in rejected] == [
        (number, record.decode("utf-8", "backslashreplace"))
        for number, record in enumerate(expected, 1)
        if isinstance(record, bytes)
    ]
    assert _read_all(path, grammar, 1 << 20) == (found, rejected)


cells = st.text(st.sampled_from('ab ,;"\n\r\té#😀'), max_size=6)


@MANY
@given(
    table=st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1, max_size=20)
    ),
    end=st.sampled_from(["\n", "\r\n"]),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    quote=st.sampled_from(['"', "'"]),
    block=st.integers(1, 200),
)
def test_what_the_csv_module_writes_comes_back(
    tmp_path: Path, small_pieces: None, table: list[list[str]], end: str, delimiter: str, quote: str, block: int
) -> None:
    """Tables written by Python's csv module are read as that module reads them."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quotechar=quote, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(table)
    columns = tuple(f"c{at}" for at in range(len(table[0])))
    path = of(tmp_path, text.getvalue().encode())
    rows, rejected = read(path, block, header=False, columns=columns, delimiter=delimiter, quote=quote)
    assert rejected == []
    assert [row for _, row in rows] == table
    strict = csv.reader(io.StringIO(text.getvalue(), newline=""), delimiter=delimiter, quotechar=quote, strict=True)
    assert [row for _, row in rows] == list(strict)


@pytest.mark.parametrize("quoted", [False, True])
def test_a_large_table_is_the_same_through_parser_and_grammar(tmp_path: Path, *, quoted: bool) -> None:
    """Blocks large enough for several threads of the parser give what the reading record by record gives."""
    cell = '"x,""{0}""\n{1}"' if quoted else "x{0}y{1}"
    lines = [
        f"{number},{cell.format(number % 7, 'é' * (number % 5))},{'' if number % 3 else 'z'}"
        for number in range(60_000)
    ]
    text = ("\n".join(lines) + "\n").encode()
    path = of(tmp_path, text)
    found, rejected = _read_all(path, Grammar(3), 1 << 24)
    assert rejected == []
    assert list(found.values()) == [
        record for some in csv_records.read_singly(text, csv_records.Dialect(b",", b'"', 3)) for record in some
    ]


# -- header and encodings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b,a\n", "columns 1 and 3 are both called a"),
        (b"a,,c\n", "column 2 has no name"),
        (b"a,__row\n", "column 2 is called __row"),
        (b'a,"b\n1,2\n', "its header cannot be read: the quote that opens field 2 is not closed"),
        (b"\xff\xfea\0\n\0", "begins with the byte order mark of UTF-16, but is read as utf-8"),
    ],
)
def test_a_header_that_names_no_columns_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """The error names the file and the column."""
    path = of(tmp_path, content)
    with pytest.raises(ConfigError) as error:
        Source(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_a_missing_header_is_noticed_where_columns_are_expected(tmp_path: Path) -> None:
    """A first record that has none of the expected names is taken for data, and the way out is named."""
    path = of(tmp_path, b"1,2\n3,4\n")
    with pytest.raises(ConfigError, match="names none of the expected columns id, amount: say header = false"):
        Source(path, expected={"id": STRING, "amount": STRING})


def test_a_header_other_than_the_columns_said_is_refused(tmp_path: Path) -> None:
    """Columns that are said must be those of the header, if there is one."""
    with pytest.raises(ConfigError, match="its header is 1, 2, not a, b: say header = false"):
        Source(of(tmp_path, b"1,2\n"), TableFormat(columns=("a", "b")))


def test_columns_without_names_are_numbered(tmp_path: Path) -> None:
    """Without header and names the columns are column_1, column_2 …; the first record is data."""
    source = Source(of(tmp_path, b"1,2\n3,4\n"), TableFormat(header=False))
    assert source.columns == ("column_1", "column_2")
    assert sum(len(batch.frame) for batch in source.batches()) == 2


def test_an_empty_file_is_an_error_and_a_header_alone_is_none(tmp_path: Path) -> None:
    """Nothing at all is no table, unless its columns are said; a header alone is a table without records."""
    with pytest.raises(SourceHalt, match="is empty: it has no header"):
        Source(of(tmp_path, b""))
    assert read(of(tmp_path, b""), header=False, columns=("a",)) == ([], [])
    assert read(of(tmp_path, b"a,b\n")) == ([], [])
    assert read(of(tmp_path, b"a,b")) == ([], [])


@pytest.mark.parametrize(
    ("encoding", "codec", "mark"),
    [
        ("utf-8", "utf-8", b"\xef\xbb\xbf"),
        ("utf-8", "utf-8", b""),
        ("latin-1", "latin-1", b""),
        ("windows-1252", "cp1252", b""),
        ("utf-16", "utf-16-le", b"\xff\xfe"),
        ("utf-16", "utf-16-be", b"\xfe\xff"),
        ("utf-16", "utf-16-le", b""),
    ],
)
@pytest.mark.parametrize("batch_bytes", [1, 7, 1 << 20])
def test_encodings_and_byte_order_marks_are_understood(
    tmp_path: Path, encoding: str, codec: str, mark: bytes, batch_bytes: int
) -> None:
    """The same text comes out of every encoding that can hold it, wherever a block cuts its bytes."""
    text = 'é,b\n"ü\nñ",§\n' if codec in ("latin-1", "cp1252") else 'é,b\n"ü\nñ😀",§\n'
    source = Source(of(tmp_path, mark + text.encode(codec)), TableFormat(encoding=encoding), batch_bytes=batch_bytes)
    rows = [row for batch in source.batches() for row in batch.frame.rows()]
    assert source.columns == ("é", "b")
    assert rows == [(1, "ü\nñ" if "😀" not in text else "ü\nñ😀", "§")]


@pytest.mark.parametrize(
    ("encoding", "content", "raw"),
    [
        ("windows-1252", b"a,b\n1,2\n3,\x81\n5,6\n", "3,\\x81"),
        (
            "utf-16",
            "a,b\n1,2\n".encode("utf-16-le") + b"3\0,\0\0\xd8\n\0" + "5,6\n".encode("utf-16-le"),
            "3,\\xed\\xa0\\x80",
        ),
    ],
)
def test_what_an_encoding_does_not_have_is_rejected_alone(
    tmp_path: Path, encoding: str, content: bytes, raw: str
) -> None:
    """A byte without a character rejects its record; the records around it are rows."""
    rows, rejected = read(of(tmp_path, content), encoding=encoding)
    assert rows == [(1, ["1", "2"]), (3, ["5", "6"])]
    assert [(each.row, each.record) for each in rejected] == [(2, raw)]
    assert "after 2 characters of the record" in rejected[0].problem


def test_half_a_character_at_the_end_rejects_the_last_record(tmp_path: Path) -> None:
    """A UTF-16 file that is cut within a character loses no record before it."""
    rows, rejected = read(of(tmp_path, "a\n1\n2".encode("utf-16")[:-1]), encoding="utf-16")
    assert (rows, [each.row for each in rejected]) == ([(1, ["1"])], [2])
