"""List files: what their bytes say, and what is refused with file and line."""

from __future__ import annotations

import csv
import hashlib
import io
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.scenarios import lists
from tidewaiter.core.scenarios.lists import read_list
from tidewaiter.core.scenarios.syntax import ListDecl

UNSEEN = "remove it: nobody sees it, and the entry would never match"
TXT = ListDecl("watch", "lists/watch.txt", prefix=False, column=None)
CSV = ListDecl("codes", "lists/codes.csv", prefix=True, column="code")


def entries(decl: ListDecl, content: bytes | str) -> set[str]:
    """Return the entries of a file."""
    return set(read_list(decl, content.encode() if isinstance(content, str) else content, "rules/x").entries)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("NO\nSE\n", {"NO", "SE"}),
        ("NO", {"NO"}),
        ("  NO \r\n\r\n# none\n\t#none\nNO\n", {"NO"}),
        ("\ufeffNO\n", {"NO"}),
        ("a b\nc#d\n", {"a b", "c#d"}),
        ("\x0ba\u2028\n", {"a"}),
        ("a\u200db\u200cc\n", {"a\u200db\u200cc"}),  # joiners, which words need
    ],
)
def test_a_text_file_has_one_entry_a_line(content: str, expected: set[str]) -> None:
    """White space around it, blank lines, remarks and a byte order mark are left out."""
    assert entries(TXT, content) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("code,name\nA,x\nB,y\n", {"A", "B"}),
        ("name,code\r\nx,A\r\n", {"A"}),
        ("code\nA", {"A"}),
        ('name,code\n"x, y\nz","A ""b"""\n', {'A "b"'}),
        ("\ufeffcode,name\nA,x\nA,y\n", {"A"}),
        ("#code,code\nx,#1\n", {"#1"}),
    ],
)
def test_a_csv_file_has_its_entries_in_one_column(content: str, expected: set[str]) -> None:
    """The header says which; quotes, line ends inside quotes and doubled quotes are those of RFC 4180."""
    assert entries(CSV, content) == expected


@pytest.mark.parametrize(
    ("decl", "content", "message"),
    [
        (TXT, b"", "rules/x:1: the list is empty: write one entry a line"),
        (TXT, b"# none\n\n", "rules/x:1: the list is empty: write one entry a line"),
        (TXT, b"a\nb\xff\n", "rules/x:2: byte 3 is not UTF-8: save the file as UTF-8"),
        (CSV, b"", "rules/x:1: has no header: the first row names the columns"),
        (CSV, b"code,name\n", "rules/x:1: the list is empty: write one row for each entry below the header"),
        (CSV, b"coed,name\nA,x\n", "rules/x:1: there is no column 'code': did you mean 'coed'? allowed: coed, name"),
        (
            CSV,
            b"code;name\nA;x\n",
            "rules/x:1: there is no column 'code': its columns stand apart by ';': write commas",
        ),
        (CSV, b"code,code\nA,x\n", "rules/x:1: the column 'code' stands twice: rename one of them"),
        (CSV, b"code,x,x\nA,x,y\n", "rules/x:1: the column 'x' stands twice: rename one of them"),
        (CSV, b"code,name\nA,x\n,y\n", "rules/x:3: code is empty: give an entry, or remove the row"),
        (CSV, b"code,name\nA,x\n\nB,y\n", "rules/x:3: the row is empty: the header has 2"),
        (CSV, b'code,name\nA,"x\ny"\nB\n', "rules/x:4: has 1 fields: the header has 2"),
        (CSV, b"code,name\nA ,x\n", "rules/x:2: code has white space around 'A': remove it: it would never match"),
        (
            CSV,
            b'code,name\nA,"x" y\n',
            "rules/x:2: is not CSV: ',' expected after '\"': quotes are doubled inside quotes",
        ),
        (TXT, b"NO\nRU\rKP\n", "rules/x:2: has U+000D in it: end each line with a line feed"),
        (TXT, b"# all of them\rRU\nKP\n", "rules/x:1: has U+000D in it: end each line with a line feed"),
        (TXT, "NO\nR\u200bU\n".encode(), f"rules/x:2: has U+200B in it, behind 1 characters: {UNSEEN}"),
        (TXT, "NO\n\ufeffRU\n".encode(), f"rules/x:2: has U+FEFF in it, behind 0 characters: {UNSEEN}"),
        (TXT, "R\u2028U\n".encode(), f"rules/x:1: has U+2028 in it, behind 1 characters: {UNSEEN}"),
        (TXT, b"R\x00U\n", f"rules/x:1: has U+0000 in it, behind 1 characters: {UNSEEN}"),
        (CSV, "code,name\nA\u202e,x\n".encode(), f"rules/x:2: has U+202E in it, behind 1 characters: {UNSEEN}"),
        (CSV, b'code,name\n"A\nB",x\n', f"rules/x:2: has U+000A in it, behind 1 characters: {UNSEEN}"),
        (CSV, b'code,name\nA,"x\n', "rules/x:2: is not CSV: unexpected end of data: quotes are doubled inside quotes"),
    ],
)
def test_a_bad_list_is_refused_with_its_line(decl: ListDecl, content: bytes, message: str) -> None:
    """An entry that could never match is refused, not ignored."""
    with pytest.raises(ConfigError) as caught:
        read_list(decl, content, "rules/x")
    assert str(caught.value) == message


def test_a_list_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes and in entries."""
    with pytest.raises(ConfigError, match=r"^x: is 8388609 bytes long: a list has at most 8388608$"):
        read_list(TXT, b"a" * (8 << 20) + b"b", "x")
    monkeypatch.setattr(lists, "MAX_ENTRIES", 3)
    with pytest.raises(ConfigError, match=r"^x: has 4 entries: a list has at most 3$"):
        read_list(TXT, b"a\nb\nc\nd\n", "x")


def test_a_header_of_any_width_is_read_in_one_pass() -> None:
    """A hundred thousand columns take no longer than as many entries."""
    header = ",".join(["code", *(f"c{number}" for number in range(100_000))])
    began = time.process_time()
    assert entries(CSV, f"{header}\nA{',' * 100_000}\n") == {"A"}
    assert time.process_time() - began < 5


def test_a_list_carries_the_digest_of_its_bytes() -> None:
    """So that a flag can say which version of the list it was made with."""
    found = read_list(CSV, b"code\nA\n", "rules/x")
    assert (found.name, found.file, found.prefix) == ("codes", "lists/codes.csv", True)
    assert found.digest == hashlib.sha256(b"code\nA\n").hexdigest()


CELL = st.text(st.sampled_from("ab ,\"'\r\n;#é"), min_size=1, max_size=5).map(lambda text: f"x{text}x")
CODE = CELL.map(lambda text: text.translate({10: "", 13: ""}))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(CELL, CODE), min_size=1, max_size=6))
def test_what_a_csv_writer_writes_is_read(rows: list[tuple[str, str]]) -> None:
    """Every text survives, whatever stands in it."""
    out = io.StringIO(newline="")
    csv.writer(out).writerows([("name", "code"), *rows])
    assert entries(CSV, out.getvalue()) == {code for _, code in rows}


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text("code,\"\r\n #\x00'é", max_size=60).map(str.encode)), st.booleans())
def test_any_bytes_are_a_list_or_refused(content: bytes, plain: bool) -> None:
    """No traceback, and no entry that is empty."""
    refusal, found = "", frozenset[str]()
    try:
        found = read_list(TXT if plain else CSV, content, "x").entries
    except ConfigError as error:
        refusal = str(error)
    assert refusal.startswith("x:") or (found and all(found))
