"""The file a pipeline writes: the same bytes whatever the batches, there as a whole or not at all."""

from __future__ import annotations

import datetime as dt
import errno
import gzip
import hashlib
import io
import itertools
import json
import os
import random
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import zstandard

from rigs.faulty_disk import Fault, FaultyDisk
from rigs.kill import Launcher, environment, every_point
from rigs.tmpfs import quick_directory
from support import PATIENCE
from tidewaiter.core.errors import ConfigError, DurabilityError, SourceHalt
from tidewaiter.core.pipelines.columns import Schema, schema_of
from tidewaiter.core.pipelines.table_format import KnownFormat, TableFormat, known_format
from tidewaiter.edges.durable import Disk, NoSpace
from tidewaiter.edges.tables import output
from tidewaiter.edges.tables.output import Output, Replacement, Written
from tidewaiter.edges.tables.writers import GROUP_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator

AS_NAMED = TableFormat()
NAMES = ("t.csv", "t.tsv", "t.jsonl", "t.csv.gz", "t.jsonl.zst", "t.parquet", "t.arrow")


@pytest.fixture
def place() -> Iterator[Path]:
    """A quick directory of the test's own."""
    with quick_directory() as path:
        yield path


def sample(rows: int, seed: int = 0) -> pl.DataFrame:
    """Return rows of every type, nulls among them."""
    rng = random.Random(seed)
    number = pl.int_range(1, rows + 1, dtype=pl.UInt64, eager=True).alias("__row")
    plain = number.cast(pl.Int64)
    found = pl.DataFrame([number]).with_columns(
        id=pl.format("ev-{}", number),
        text=pl.Series(
            [rng.choice(("", None, "a,b", 'q"', "two\nlines", "plain", "é")) for _ in range(rows)], dtype=pl.String
        ),
        count=pl.when(plain % 7 != 0).then(plain * 31),
        amount=(plain * 7919 % 100_003).cast(pl.Decimal(38, 2)),
        rate=plain / 7,
        yes=plain % 3 == 0,
        day=(plain % 20_000).cast(pl.Date),
        at=(plain * 1_000_000 + 1_700_000_000_000_000).cast(pl.Datetime("us", "UTC")),
    )
    return found.rechunk()


def write(
    path: Path,
    frames: list[pl.DataFrame],
    disk: Disk | None = None,
    said: TableFormat = AS_NAMED,
    schema: Schema | None = None,
) -> Written:
    """Write these frames, all the way."""
    columns = schema or schema_of(frames[0])
    with Output(path, known_format(path.name, said), columns, disk or Disk()) as output:
        for frame in frames:
            output.write(frame)
        written = output.finish()
        output.publish()
    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert written.length == path.stat().st_size
    assert written.records == sum(len(frame) for frame in frames)
    return written


def names_in(place: Path) -> list[str]:
    """Return what lies in the directory."""
    return sorted(each.name for each in place.iterdir())


def rows(values: dict[str, list[Any]], **types: pl.DataType) -> pl.DataFrame:
    """Return a frame of these columns."""
    return pl.DataFrame(values, schema_overrides=types).with_row_index("__row", 1).cast({"__row": pl.UInt64})


# -- the bytes ---------------------------------------------------------------------------------------------------------


def few() -> pl.DataFrame:
    """Return three rows with a value of each type at its edges."""
    return rows(
        {
            "id": ["a", "", None],
            "note": ['quo"te', "two\nlines", "=1+1, x"],
            "n": [1, None, -(2**63)],
            "amount": [Decimal("12.30"), Decimal("-0.05"), None],
            "rate": [0.1, 1e300, None],
            "ok": [True, None, False],
            "day": [dt.date(2026, 1, 31), None, dt.date(1, 1, 1)],
            "at": [
                dt.datetime(2026, 1, 31, 10, tzinfo=dt.UTC), dt.datetime(2026, 1, 31, 10, 0, 0, 500_000, dt.UTC), None,
            ],
        },
        amount=pl.Decimal(38, 2),
    )  # fmt: skip


def test_csv_is_written_as_described(place: Path) -> None:
    """Quotes only where needed, null and empty text told apart, decimals in full, RFC 3339 with Z."""
    write(place / "t.csv", [few()])
    assert (place / "t.csv").read_bytes().decode() == (
        "id,note,n,amount,rate,ok,day,at\n"
        'a,"quo""te",1,12.30,0.1,true,2026-01-31,2026-01-31T10:00:00Z\n'
        '"","two\nlines",,-0.05,1e+300,,,2026-01-31T10:00:00.500Z\n'
        ',"=1+1, x",-9223372036854775808,,,false,0001-01-01,\n'
    )


def test_json_lines_are_written_as_described(place: Path) -> None:
    """Keys in the order of the columns, decimals as exact numbers, null as null."""
    write(place / "t.jsonl", [few()])
    assert (place / "t.jsonl").read_bytes().decode() == (
        '{"id":"a","note":"quo\\"te","n":1,"amount":12.30,"rate":0.1,"ok":true,"day":"2026-01-31",'
        '"at":"2026-01-31T10:00:00Z"}\n'
        '{"id":"","note":"two\\nlines","n":null,"amount":-0.05,"rate":1e+300,"ok":null,"day":null,'
        '"at":"2026-01-31T10:00:00.500Z"}\n'
        '{"id":null,"note":"=1+1, x","n":-9223372036854775808,"amount":null,"rate":null,"ok":false,'
        '"day":"0001-01-01","at":null}\n'
    )


@pytest.mark.parametrize(
    "columns", [["amount"], ["id", "amount"], ["amount", "id"], ["id"], ["amount", "n", "amount2"]]
)
def test_json_lines_hold_decimals_at_any_place(place: Path, columns: list[str]) -> None:
    """First, last, alone or in a row: each line is JSON with these keys, in this order."""
    frame = few().with_columns(amount2=pl.col("amount")).select("__row", *columns)
    write(place / "t.jsonl", [frame])
    lines = (place / "t.jsonl").read_text().splitlines()
    found = [json.loads(line, parse_float=Decimal) for line in lines]
    assert [list(each) for each in found] == [columns] * 3
    assert [list(each.values()) for each in found] == [list(row[1:]) for row in frame.rows()]


def test_a_dialect_is_kept_to(place: Path) -> None:
    """Delimiter and quote of the output, and no header where none is wanted."""
    frame = rows({"a;b": ["x;y", "it's", "", None], "c": ["1", "2", "3", "4"]})
    said = TableFormat(delimiter=";", quote="'")
    write(place / "t.csv", [frame], said=said)
    assert (place / "t.csv").read_text() == "'a;b';c\n'x;y';1\n'it''s';2\n'';3\n;4\n"
    write(place / "n.csv", [frame], said=TableFormat(header=False))
    assert (place / "n.csv").read_text() == 'x;y,1\nit\'s,2\n"",3\n,4\n'
    write(place / "t.tsv", [frame])
    assert (place / "t.tsv").read_text() == 'a;b\tc\nx;y\t1\nit\'s\t2\n""\t3\n\t4\n'


def test_a_null_alone_in_its_row_is_an_empty_line(place: Path) -> None:
    """As a pair of quotes it would be read as an empty text."""
    write(place / "t.csv", [rows({"a": [None, "x", ""]}, a=pl.String())])
    assert (place / "t.csv").read_text() == 'a\n\nx\n""\n'


def test_no_rows_make_a_file_all_the_same(place: Path) -> None:
    """A header, an empty file, or a table of the right columns without rows."""
    nothing = few()[:0]
    for name in NAMES:
        write(place / name, [nothing])
    assert (place / "t.csv").read_text() == "id,note,n,amount,rate,ok,day,at\n"
    assert (
        (place / "t.jsonl").read_bytes()
        == zstandard.ZstdDecompressor().decompressobj().decompress((place / "t.jsonl.zst").read_bytes())
        == b""
    )
    assert gzip.decompress((place / "t.csv.gz").read_bytes()) == (place / "t.csv").read_bytes()
    for read, name in ((pl.read_parquet, "t.parquet"), (pl.read_ipc, "t.arrow")):
        assert read(io.BytesIO((place / name).read_bytes())).schema == nothing.drop("__row").schema


@pytest.mark.parametrize("name", NAMES)
def test_where_batches_end_changes_no_byte(place: Path, name: str) -> None:
    """One batch, many, of random lengths, empty ones between: the same file."""
    whole = sample(GROUP_ROWS + 5000)
    expected = write(place / name, [whole])
    rng = random.Random(1)
    for most in (4000, 30_000, len(whole)):
        cuts = [0, *itertools.accumulate(rng.randrange(most + 1) for _ in range(2 * len(whole) // most))]
        inside = sorted(cut for cut in {*cuts, len(whole)} if cut <= len(whole))
        batches = [whole[start:end] for start, end in itertools.pairwise(inside)]
        assert write(place / name, [whole[:0], *batches]) == expected
        assert write(place / name, [pl.concat(batches, rechunk=False)]) == expected


def write_samples(place: str) -> None:
    """Write a sample in each format; for a process of its own."""
    for name in NAMES:
        write(Path(place) / name, [sample(GROUP_ROWS + 999)])


def test_threads_and_locale_change_no_byte(place: Path) -> None:
    """One thread or five, another locale, time zone and hash seed: the same files."""
    code = f"import test_pipeline_output as t; t.write_samples({str(place)!r})"
    found = []
    for threads, locale, zone, seed in (("1", "C", "UTC", "0"), ("5", "de_DE.UTF-8", "Asia/Tokyo", "7")):
        env = environment(POLARS_MAX_THREADS=threads, LC_ALL=locale, TZ=zone, PYTHONHASHSEED=seed)
        subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=PATIENCE)
        found.append([(place / name).read_bytes() for name in NAMES])
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_columnar_files_hold_the_rows_in_order(place: Path, name: str) -> None:
    """What is read back is what was written: types, order, nulls."""
    frame = sample(2 * GROUP_ROWS + 10)
    write(place / name, [frame])
    read = pl.read_parquet if name == "t.parquet" else pl.read_ipc
    assert read(io.BytesIO((place / name).read_bytes())).equals(frame.drop("__row"))


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_compression_changes_nothing_but_the_size(place: Path, suffix: str) -> None:
    """The content is that of the plain file, and a gzip header has no time and no name."""
    frame = sample(30_000)
    write(place / "t.csv", [frame])
    write(place / f"c.csv{suffix}", [frame])
    data = (place / f"c.csv{suffix}").read_bytes()
    if suffix == ".gz":
        assert data[:8] == b"\x1f\x8b\x08\x00\0\0\0\0"
        data = gzip.decompress(data)
    elif suffix == ".zst":
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    assert data == (place / "t.csv").read_bytes()


# -- what cannot be written --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "column", "dtype", "value", "shown"),
    [
        ("t.csv", "day", pl.Date(), 2_932_897, "10000-01-01"),
        ("t.jsonl", "at", pl.Datetime("us", "UTC"), -719_163 * 86_400_000_000, "0000-12-31"),
        ("t.jsonl", "rate", pl.Float64(), float("nan"), "NaN"),
        ("t.jsonl.zst", "rate", pl.Float64(), float("inf"), "inf"),
    ],
)
def test_a_value_that_text_cannot_hold_is_named(
    place: Path, name: str, column: str, dtype: pl.DataType, value: float, shown: str
) -> None:
    """A year beyond 9999, and in JSON a float that is no number: row and column are named, nothing is written."""
    frame = pl.DataFrame({"__row": [41, 42], column: pl.Series([None, value]).cast(dtype)}).cast({"__row": pl.UInt64})
    with pytest.raises(SourceHalt, match=f"row 42: {column}: .*{shown}"):
        write(place / name, [frame])
    assert names_in(place) == []


@pytest.mark.parametrize(("nul", "late", "named"), [(0, 1, "row 1: text: a NUL"), (1, 0, "row 1: day: .*10000-01-01")])
def test_the_first_row_that_cannot_be_written_is_named(place: Path, nul: int, late: int, named: str) -> None:
    """Whatever is wrong with it: another row may be wrong in another way."""
    frame = pl.DataFrame(
        {"__row": [1, 2], "text": ["\0" if row == nul else "x" for row in (0, 1)]},
        schema_overrides={"__row": pl.UInt64},
    ).with_columns(day=pl.Series([2_932_897 if row == late else 0 for row in (0, 1)]).cast(pl.Date))
    with pytest.raises(SourceHalt, match=named):
        write(place / "t.csv", [frame])


@pytest.mark.parametrize(
    ("known", "part"),
    [
        (KnownFormat("csv", "none", delimiter="."), "delimiter '.'"),
        (KnownFormat("csv", "none", delimiter="e"), "delimiter 'e'"),
        (KnownFormat("csv", "none", quote="-"), "quote '-'"),
        (KnownFormat("csv", "none", encoding="latin-1"), "latin-1"),
        (KnownFormat("csv", "none", columns=("a",)), "columns"),
    ],
)
def test_a_dialect_that_would_garble_is_refused(place: Path, known: KnownFormat, part: str) -> None:
    """A delimiter out of numbers, another encoding: refused before anything is made."""
    with pytest.raises(ConfigError, match=part):
        Output(place / "t.csv", known, schema_of(few()), Disk())
    assert names_in(place) == []


# -- all or nothing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_nothing_is_visible_before_it_is_published(place: Path, name: str) -> None:
    """While it is written and after `finish` the previous file stands; then the new one, and no leftover."""
    path = place / "new" / name
    path.parent.mkdir()
    path.write_bytes(b"previous")
    (path.parent / f".{name}.tmp").write_bytes(b"left by a run that died" * 100_000)
    with Output(path, known_format(name), schema_of(few()), Disk()) as output:
        output.write(few())
        assert path.read_bytes() == b"previous"
        written = output.finish()
        assert path.read_bytes() == b"previous"
        output.publish()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == written.sha256
    assert names_in(path.parent) == [name]


def test_an_abandoned_output_leaves_the_previous_file(place: Path) -> None:
    """Whether before the end or after `finish`, again, or by an error of the caller."""
    path = place / "t.parquet"
    path.write_bytes(b"previous")
    for finished in (False, True):
        output = Output(path, known_format(path.name), schema_of(few()), Disk())
        output.write(few())
        if finished:
            output.finish()
        output.abandon()
        output.abandon()
        assert (path.read_bytes(), names_in(place)) == (b"previous", ["t.parquet"])
    with pytest.raises(ZeroDivisionError), Output(path, known_format(path.name), schema_of(few()), Disk()):
        raise ZeroDivisionError
    assert (path.read_bytes(), names_in(place)) == (b"previous", ["t.parquet"])


def test_a_missing_directory_is_made(place: Path) -> None:
    """An output in a directory that is not there yet."""
    write(place / "a" / "b" / "t.csv", [few()])
    assert names_in(place / "a" / "b") == ["t.csv"]


def test_a_link_is_followed(place: Path) -> None:
    """The file a link leads to is replaced; the link stays."""
    (place / "real").mkdir()
    (place / "t.csv").symlink_to(place / "real" / "data.csv")
    write(place / "t.csv", [few()])
    assert (place / "t.csv").is_symlink()
    assert names_in(place / "real") == ["data.csv"]


def test_what_is_no_file_is_not_replaced(place: Path) -> None:
    """A directory, a device and a pipe are refused, and so is any file where overwriting is not allowed."""
    os.mkfifo(place / "pipe")
    for path in (place, Path("/dev/null"), place / "pipe"):
        with pytest.raises(ConfigError, match="is not a regular file"):
            Output(path, KnownFormat("csv", "none"), schema_of(few()), Disk())
    (place / "t.csv").write_bytes(b"previous")
    with pytest.raises(ConfigError, match="is there already"):
        Output(place / "t.csv", KnownFormat("csv", "none"), schema_of(few()), Disk(), overwrite=False)
    assert names_in(place) == ["pipe", "t.csv"]


def test_one_run_at_a_time_writes_a_file(place: Path) -> None:
    """A second one is refused and disturbs nothing; when the first is done, it may."""
    first = Replacement(place / "t.csv", Disk())
    first.write(b"first")
    with pytest.raises(ConfigError, match="another run"):
        Replacement(place / "t.csv", Disk())
    first.finish()
    first.publish()
    second = Replacement(place / "t.csv", Disk())
    assert (place / "t.csv").read_bytes() == b"first"
    second.abandon()
    assert (place / "t.csv").read_bytes() == b"first"


class CountsSyncs(Disk):
    """A disk that tells how long a file was at each sync of its bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.synced: list[tuple[str, int]] = []

    def datasync(self, fd: int, path: Path) -> None:
        self.synced.append(("on the way", os.fstat(fd).st_size))
        super().datasync(fd, path)

    def sync(self, fd: int, path: Path) -> None:
        self.synced.append(("at the end", os.fstat(fd).st_size))
        super().sync(fd, path)


def test_a_long_output_goes_to_the_disk_on_the_way(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that its end has little to wait for; there, all of it is synced whatever was before."""
    monkeypatch.setattr(output, "SYNC_BYTES", 10)
    disk = CountsSyncs()
    replacement = Replacement(place / "t.csv", disk)
    for _ in range(5):
        replacement.write(b"123456")
    replacement.finish()
    replacement.abandon()
    assert disk.synced == [("on the way", 12), ("on the way", 24), ("at the end", 30)]


class PublishesMeanwhile(Disk):
    """A disk on which, between the opening of a temporary file and its lock, the run that had it publishes it."""

    def __init__(self, other: Replacement, begun: bytes | None) -> None:
        super().__init__()
        self.other: Replacement | None = other
        self.begun = begun

    def _open(self, path: Path, flags: int) -> int:
        fd = super()._open(path, flags)
        if self.other is not None:
            self.other.publish()
            self.other = None
            if self.begun is not None:
                path.write_bytes(self.begun)
        return fd


@pytest.mark.parametrize("begun", [None, b"left by a third"])
def test_a_file_that_was_just_published_is_not_written_to(place: Path, begun: bytes | None) -> None:
    """A temporary file that became the output between opening and locking it is let go; another is begun."""
    first = Replacement(place / "t.csv", Disk())
    first.write(b"first")
    first.finish()
    second = Replacement(place / "t.csv", PublishesMeanwhile(first, begun))
    second.write(b"2")
    assert (place / "t.csv").read_bytes() == b"first"
    second.abandon()


# -- failing disks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet", "t.arrow"])
@pytest.mark.parametrize("batches", [1, 40])
def test_a_full_disk_is_said_with_the_path(place: Path, name: str, batches: int) -> None:
    """NoSpace names the output; the temporary file is removed, the previous output untouched, nobody hangs."""
    path = place / name
    path.write_bytes(b"previous")
    whole = sample(60_000)
    frames = [whole] * batches
    disk = FaultyDisk([Fault("pwrite", errno=errno.ENOSPC, times=1 << 30)])
    with pytest.raises(NoSpace, match=str(path)):
        write(path, frames, disk)
    assert (path.read_bytes(), names_in(place)) == (b"previous", [name])


@pytest.mark.parametrize("primitive", ["open", "ftruncate", "pwrite", "fsync", "replace", "fsync_directory"])
@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_call_that_fails_leaves_one_whole_file(place: Path, name: str, primitive: Any) -> None:
    """Whichever call fails, the run fails, and the previous file or the new one is there, alone."""
    path = place / name
    write(path, [sample(10)])
    previous = path.read_bytes()
    new = write(place / f"other-{name}", [sample(5000)])
    with pytest.raises((ConfigError, DurabilityError)):
        write(path, [sample(5000)], FaultyDisk([Fault(primitive)]))
    held = path.read_bytes()
    assert held == previous or (primitive == "fsync_directory" and hashlib.sha256(held).hexdigest() == new.sha256)
    assert names_in(place) == sorted([f"other-{name}", name])


def test_an_error_of_the_thread_reaches_the_next_call(place: Path) -> None:
    """What failed in the background is raised by a later write or by `finish`, never lost."""
    disk = FaultyDisk([Fault("pwrite", nth=2)])
    output = Output(place / "t.csv", known_format("t.csv"), schema_of(few()), disk)

    def go_on() -> None:
        while True:
            output.write(few())

    with pytest.raises(DurabilityError, match="write failed"):
        go_on()
    with pytest.raises(DurabilityError, match="write failed"):
        output.finish()
    assert names_in(place) == []


# -- kill -9 -----------------------------------------------------------------------------------------------------------


def killed(disk: Disk, path: str, rows: int) -> None:
    """Write a sample; for a process that is killed."""
    write(Path(path), [sample(rows)], disk)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_kill_leaves_the_previous_file_or_the_new_one(place: Path, name: str) -> None:
    """Killed at each write-like call and in the middle of each write; what is left does not disturb the next run."""
    path = place / name
    write(path, [sample(3000)])
    new = path.read_bytes()
    write(path, [sample(100)])
    previous = path.read_bytes()
    with Launcher([__name__]) as launcher:
        target, arguments = f"{__name__}:killed", {"path": str(path), "rows": 3000}
        calls = place / "calls"
        assert launcher.run(target, arguments, calls=calls).status == 0
        points = every_point(calls.read_text().splitlines())
        assert len(points) > 8
        found = set()
        for point in points:
            path.write_bytes(previous)
            assert launcher.run(target, arguments, point).killed
            found.add(path.read_bytes())
            assert launcher.run(target, arguments).status == 0
            assert path.read_bytes() == new
            assert names_in(place) == sorted(["calls", name])
        assert found == {previous, new}


# -- standard output ---------------------------------------------------------------------------------------------------


def test_standard_output_gets_all_or_nothing(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Not a byte before the run has succeeded; then all of them."""
    for wanted in (False, True):
        output = Output("-", KnownFormat("csv", "none"), schema_of(few()), Disk())
        output.write(few())
        written = output.finish()
        assert capfdbinary.readouterr().out == b""
        if wanted:
            output.publish()
        else:
            output.abandon()
        out = capfdbinary.readouterr().out
        assert (hashlib.sha256(out).hexdigest() == written.sha256) is wanted
        assert bool(out) is wanted
