"""What the name of a file and a person say about how a table lies in it."""

from __future__ import annotations

import pytest

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.pipelines.table_format import KnownFormat, TableFormat, known_format


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("a.csv", KnownFormat("csv", "none")),
        ("folder.d/A.CSV.GZ", KnownFormat("csv", "gzip")),
        ("a.tsv.zst", KnownFormat("tsv", "zstd", delimiter="\t")),
        ("a.ndjson", KnownFormat("jsonl", "none")),
        ("a.pq", KnownFormat("parquet", "none")),
        ("a.feather", KnownFormat("arrow", "none")),
    ],
)
def test_a_name_tells_format_and_compression(name: str, known: KnownFormat) -> None:
    """By the ends of the name, whatever their case."""
    assert known_format(name) == known


def test_what_was_said_goes_before_the_name() -> None:
    """A person knows better than a name."""
    said = TableFormat(format="tsv", compression="none", delimiter="|", header=False, encoding="latin-1")
    assert known_format("a.csv.gz", said) == KnownFormat("tsv", "none", "|", '"', header=False, encoding="latin-1")


@pytest.mark.parametrize(
    ("name", "said", "problem"),
    [
        ("a.dat", TableFormat(), "does not tell"),
        ("csv", TableFormat(), "does not tell"),
        ("a.csv", TableFormat(format="excel"), "format 'excel' is not known: one of csv, tsv"),
        ("a.csv", TableFormat(compression="bz2"), "compression 'bz2' is not known: one of none, gzip"),
        ("a.csv", TableFormat(encoding="ebcdic"), "encoding 'ebcdic' is not known: one of utf-8"),
        ("a.csv.gz", TableFormat(max_ratio=0), "max_ratio 0 cannot be used: max_ratio is a whole number from 1"),
        ("a.parquet.gz", TableFormat(), "not compressed as a whole"),
        ("a.jsonl", TableFormat(delimiter=";"), "delimiter means nothing for jsonl"),
        ("a.csv", TableFormat(delimiter="::"), "delimiter '::' cannot be used"),
        ("a.csv", TableFormat(delimiter='"'), "are both"),
    ],
)
def test_what_cannot_be_read_is_refused(name: str, said: TableFormat, problem: str) -> None:
    """Before any file is opened, naming the word and what is allowed."""
    with pytest.raises(ConfigError, match=problem):
        known_format(name, said)


@pytest.mark.parametrize(
    ("word", "encoding"),
    [
        ("UTF8", "utf-8"), ("utf_8", "utf-8"), ("Latin1", "latin-1"), ("ISO-8859-1", "latin-1"),
        ("iso_8859_1", "latin-1"), ("cp1252", "windows-1252"), ("Windows-1252", "windows-1252"), ("utf16", "utf-16"),
    ],
)  # fmt: skip
def test_an_encoding_has_its_usual_other_names(word: str, encoding: str) -> None:
    """Whatever the case, and with _ or -."""
    assert known_format("a.csv", TableFormat(encoding=word)).encoding == encoding
