"""Inputs of a pipeline: which files they are, how they go together, and what is wrong with one that is not whole."""

from __future__ import annotations

import gzip
import hashlib
import io
import threading
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from tidewaiter.core.errors import ConfigError, DurabilityError, SourceHalt
from tidewaiter.core.pipelines.columns import ROW
from tidewaiter.core.pipelines.table_format import TableFormat
from tidewaiter.edges.tables import decompressing
from tidewaiter.edges.tables.prefetching import prefetched
from tidewaiter.edges.tables.sources import Source, read_reference

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


def of(path: Path, content: bytes) -> Path:
    """Write a file."""
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content)
    return path


def rows_of(source: Source) -> list[tuple[Any, ...]]:
    """Return all rows, numbers first."""
    return [row for batch in source.batches() for row in batch.frame.rows()]


# -- which files -------------------------------------------------------------------------------------------------------


def test_a_directory_is_its_files_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    """Records are numbered through all files, and each is found again in its file."""
    for name, content in {"b.csv": b"x\n3\n", "B.csv": b"x\n1\n2\n", "é.csv": b"x\n4\n", ".hidden": b"?"}.items():
        of(tmp_path / name, content)
    source = Source(tmp_path)
    assert rows_of(source) == [(1, "1"), (2, "2"), (3, "3"), (4, "4")]
    assert [file.path.name for file in source.files] == ["B.csv", "b.csv", "é.csv"]
    assert [file.records for file in source.files] == [2, 1, 1]
    assert [source.locate(row) for row in (1, 2, 3, 4)] == [
        (tmp_path / "B.csv", 1),
        (tmp_path / "B.csv", 2),
        (tmp_path / "b.csv", 1),
        (tmp_path / "é.csv", 1),
    ]
    assert source.bytes_read == source.bytes_total == 14


def test_rejected_records_count_in_the_numbers(tmp_path: Path) -> None:
    """A record that is none keeps its number, and is found in its file by it."""
    of(tmp_path / "1.csv", b"x,y\n1\n2,2\n")
    of(tmp_path / "2.csv", b"x,y\n3,3\n4\n")
    source = Source(tmp_path)
    batches = list(source.batches())
    assert [row[0] for batch in batches for row in batch.frame.rows()] == [2, 3]
    assert [each.row for batch in batches for each in batch.rejected] == [1, 4]
    assert source.locate(4) == (tmp_path / "2.csv", 2)


def test_a_pattern_is_the_files_that_match(tmp_path: Path) -> None:
    """A glob takes files of several directories in name order; a file with such a name is that file."""
    of(tmp_path / "a" / "1.csv", b"x\n1\n")
    of(tmp_path / "b" / "2.csv.gz", gzip.compress(b"x\n2\n"))
    of(tmp_path / "b" / "3.txt", b"?")
    assert [row[1] for row in rows_of(Source(tmp_path / "*" / "*.csv*"))] == ["1", "2"]
    assert [row[1] for row in rows_of(Source(of(tmp_path / "[1].csv", b"x\n9\n")))] == ["9"]
    with pytest.raises(ConfigError, match="no file matches"):
        Source(tmp_path / "*.parquet")


def test_standard_input_is_copied_once_and_read_like_a_file(tmp_path: Path) -> None:
    """What comes on standard input needs a format and a directory; messages call it by its name."""
    said = TableFormat(format="csv")
    source = Source("-", said, spill=tmp_path, stdin=io.BytesIO(b"x\n1\n"))
    assert rows_of(source) == [(1, "1")]
    assert source.files[0].sha256 == hashlib.sha256(b"x\n1\n").hexdigest()
    with pytest.raises(ConfigError, match="standard input: its name does not tell"):
        Source("-", spill=tmp_path, stdin=io.BytesIO(b""))
    with pytest.raises(DurabilityError, match="standard input cannot be copied"):
        Source("-", said, spill=tmp_path / "none", stdin=io.BytesIO(b"x\n"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"a.csv": b"x,y\n", "b.csv": b"x,z\n"},
            r"b\.csv: its columns are not those of .*a\.csv \(only in .*: y; only in .*: z\)",
        ),
        ({"a.csv": b"x,y\n", "b.csv": b"y,x\n"}, "in another order .*: column 1 is y there, and x here"),
        ({"a.csv": b"x\n", "b.jsonl": b'{"x":1}\n'}, r"b\.jsonl: is jsonl, but .*a\.csv is csv"),
        ({"a.csv": b"x\n", "b.csv": b""}, r"b\.csv: is empty"),
        ({"a.csv": b"x\n", "README": b""}, "README: its name does not tell"),
        ({"a.csv": b"x\n", "c/b.csv": b"x\n"}, "a directory within the input's directory"),
        ({}, "the directory holds no files"),
    ],
)
def test_files_that_do_not_go_together_are_refused(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    """Nothing in a directory is passed over: the error names the file and the difference."""
    for name, content in files.items():
        of(tmp_path / name, content)
    with pytest.raises((ConfigError, SourceHalt), match=message):
        Source(tmp_path)


def test_what_is_no_readable_file_is_refused(tmp_path: Path) -> None:
    """A missing file, the same file twice, and no file at all are errors of the configuration."""
    path = of(tmp_path / "a.csv", b"x\n")
    with pytest.raises(ConfigError, match=r"b\.csv: cannot be read: No such file"):
        Source(tmp_path / "b.csv")
    with pytest.raises(ConfigError, match="is the same file as"):
        Source([path, tmp_path / "." / ".." / tmp_path.name / "a.csv"])
    with pytest.raises(ConfigError, match="names no file"):
        Source([])


def test_a_source_can_be_read_again(tmp_path: Path) -> None:
    """A second reading gives the same rows under the same numbers."""
    source = Source(of(tmp_path / "a.csv", b"x\n1\n2\n"))
    assert rows_of(source) == rows_of(source)
    assert [file.records for file in source.files] == [2]


# -- compression -------------------------------------------------------------------------------------------------------

TEXT = b"x,y\n" + b"".join(b"%d,%d\n" % (number, number * 7919 % 10_007) for number in range(50_000))


def test_compressed_files_are_read_and_hashed_as_they_lie_there(tmp_path: Path) -> None:
    """Gzip in several members and zstd give the plain rows; the digest is that of the compressed bytes."""
    plain = rows_of(Source(of(tmp_path / "a.csv", TEXT)))
    for name, content in {
        "a.csv.gz": gzip.compress(TEXT[:1000]) + gzip.compress(TEXT[1000:]) + bytes(512),
        "a.csv.zst": zstandard.compress(TEXT[:1000]) + zstandard.compress(TEXT[1000:]),
    }.items():
        source = Source(of(tmp_path / name, content))
        assert rows_of(source) == plain
        assert source.files[0].sha256 == hashlib.sha256(content).hexdigest()
        assert source.files[0].length == len(content) == source.bytes_read


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv.gz", gzip.compress(TEXT)[:-40_000], "the gzip file is cut short: it ends at compressed byte"),
        ("a.csv.gz", gzip.compress(TEXT)[:-1], "the gzip file is cut short"),
        ("a.csv.gz", gzip.compress(TEXT)[:-8] + bytes(8), "the gzip file is damaged at compressed byte"),
        ("a.csv.gz", TEXT, "the gzip file is damaged"),
        ("a.csv.gz", b"", "the gzip file is cut short: it ends at compressed byte 0"),
        ("a.csv.zst", zstandard.compress(TEXT)[:-4], "the zstd file is cut short"),
        ("a.csv.zst", TEXT, "the zstd file is damaged at compressed byte 0"),
    ],
)
def test_a_damaged_file_halts_with_its_name_and_place(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """What a cut or flipped compressed file still gives is never taken for the whole."""
    path = of(tmp_path / name, content)
    with pytest.raises(SourceHalt, match=message) as error:
        rows_of(Source(path))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.zst"])
def test_a_decompression_bomb_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that gives far more than went in is left alone, unless its ratio is allowed."""
    monkeypatch.setattr(decompressing, "BOMB_BYTES", 1 << 20)
    content = b"x\n" + b"1\n" * (4 << 20)
    path = of(tmp_path / name, gzip.compress(content) if name.endswith("gz") else zstandard.compress(content))
    with pytest.raises(
        SourceHalt, match=r"compressed bytes gave \d+ bytes, more than 200:1: .* max_ratio in \[input\]"
    ):
        rows_of(Source(path))
    with pytest.raises(SourceHalt, match="more than 150:1"):
        rows_of(Source(path, TableFormat(max_ratio=150)))
    source = Source(path, TableFormat(max_ratio=100_000))
    assert sum(len(batch.frame) for batch in source.batches()) == 4 << 20


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
@pytest.mark.parametrize("order", ["le", "be"])
def test_utf_32_is_named_as_such(tmp_path: Path, encoding: str, order: str) -> None:
    """Its mark begins with that of UTF-16, and is not taken for it."""
    path = of(tmp_path / "a.csv", f"\ufeffa\n{'1' * 9}\n".encode(f"utf-32-{order}"))
    with pytest.raises(ConfigError, match="mark of UTF-32, which is not supported: convert it: iconv -f UTF-32"):
        Source(path, TableFormat(encoding=encoding))


# -- what happens meanwhile --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(TEXT + b"9\n"), r"was written to \(.* bytes before, .* now\) while it was read"),
        (lambda path: path.unlink(), "was removed while it was read"),
        (lambda path: path.with_name("new").replace(path), "was replaced while it was read"),
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_a_file_that_changes_while_it_is_read_halts(tmp_path: Path, change: Any, message: str, *, begun: bool) -> None:
    """Between opening and the last byte a file stays as it is, or nothing comes of it."""
    path = of(tmp_path / "a.csv", TEXT)
    of(tmp_path / "new", TEXT)
    source = Source(path, batch_bytes=1 << 12)
    batches = source.batches()
    if begun:
        next(batches)
    change(path)
    with pytest.raises(SourceHalt, match=message):
        list(batches)


def test_reading_ahead_passes_items_errors_and_early_ends_on() -> None:
    """Items come in order; an error comes in its place; closing ends the thread and what it reads."""
    closed = threading.Event()

    def numbers() -> Generator[int]:
        try:
            yield from range(10)
            raise SourceHalt("the eleventh")
        finally:
            closed.set()

    items = prefetched(numbers())
    assert [next(items) for _ in range(10)] == list(range(10))
    with pytest.raises(SourceHalt, match="the eleventh"):
        next(items)
    assert closed.is_set()
    before = threading.active_count()
    made: list[int] = []

    def many() -> Generator[int]:
        for number in range(1_000_000):
            made.append(number)
            yield number

    items = prefetched(many())
    assert next(items) == 0
    items.close()
    assert len(made) < 10
    assert threading.active_count() == before


def test_a_reference_table_comes_whole_as_texts(tmp_path: Path) -> None:
    """A small table is one frame of texts; a record of it that is none is an error of the configuration."""
    frame = read_reference(of(tmp_path / "codes.tsv", b"code\trisk\nGB\t1\nFR\t\n"))
    assert frame.columns == [ROW, "code", "risk"]
    assert frame.rows() == [(1, "GB", "1"), (2, "FR", None)]
    numbers = read_reference(of(tmp_path / "codes.jsonl", b'{"code":"GB","risk":1.50}\n{"code":"FR","risk":2}\n'))
    assert numbers.rows() == [(1, "GB", "1.5"), (2, "FR", "2.0")]
    assert read_reference(of(tmp_path / "none.csv", b"code\n")).rows() == []
    with pytest.raises(ConfigError, match=r"bad\.csv: record 2: 2 fields expected, 1 found"):
        read_reference(of(tmp_path / "bad.csv", b"a,b\n1,2\n3\n"))
