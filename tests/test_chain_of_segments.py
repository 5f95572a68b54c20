"""Which file is which, decided from names, sizes and hashes alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewaiter.core import segment_findings as findings
from tidewaiter.core.chain_of_segments import (
    FileStat,
    Head,
    Label,
    Member,
    Naming,
    Probe,
    Record,
    arrange,
    fits_head,
    grace_over,
    judge,
    long_quiet,
    missing_between,
    naming_of,
    order_chain,
    record_of,
    vanished,
)
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.position import SegmentCursor

LIVE = naming_of("events.jsonl", directory=False)
DIRECTORY = naming_of("segments", directory=True)


def file(name: str, ino: int = 0, size: int = 10, mtime_ns: int = 0, ctime_ns: int = 0) -> FileStat:
    """Return one line of a listing; each name has its own inode unless told otherwise."""
    return FileStat(name=name, dev=1, ino=ino or hash(name), size=size, mtime_ns=mtime_ns, ctime_ns=ctime_ns)


def chain(*names: str, naming: Naming = LIVE) -> tuple[Member, ...]:
    """Return the chain of these names."""
    return order_chain(naming, [file(name) for name in names])


def names(members: tuple[Member, ...]) -> list[str]:
    """Return the names of a chain."""
    return [member.file.name for member in members]


def cursor(data: bytes, ino: int = 7, start: int = 0) -> SegmentCursor:
    """Return a cursor behind `data`."""
    read = SegmentCursor("events.jsonl", 1, ino, start)
    read.advance(data)
    return read


# -- names and order ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], []),
        (["events.jsonl"], ["events.jsonl"]),
        (["events.jsonl", "events.jsonl.1", "events.jsonl.2", "events.jsonl.10"],
         ["events.jsonl.10", "events.jsonl.2", "events.jsonl.1", "events.jsonl"]),
        (["events.jsonl.2.gz", "events.jsonl.1", "events.jsonl.3.zst"],
         ["events.jsonl.3.zst", "events.jsonl.2.gz", "events.jsonl.1"]),
        (["events.jsonl-20240102", "events.jsonl", "events.jsonl-20231231.gz", "events.jsonl-2024010113"],
         ["events.jsonl-20231231.gz", "events.jsonl-2024010113", "events.jsonl-20240102", "events.jsonl"]),
        (["events.jsonl.2024-01-02", "events.jsonl.2024-01-01T10:00Z"],
         ["events.jsonl.2024-01-01T10:00Z", "events.jsonl.2024-01-02"]),
        (["events.jsonl.1", "events.jsonl.1.gz", "events.jsonl.1.zst"], ["events.jsonl.1"]),
        (["events.jsonl.1.zst", "events.jsonl.1.gz"], ["events.jsonl.1.gz"]),
        (["events.jsonl.gz", "events.jsonl.bak", "events.jsonl.1.tmp", "events.jsonl~", "other.jsonl.1",
          "events.jsonl.1.part", "events.jsonlines", "events.jsonl-20240101.bak"], []),
    ],
)  # fmt: skip
def test_rotated_files_are_ordered_by_number_or_date(found: list[str], expected: list[str]) -> None:
    """The oldest first, the live file last, and only what belongs to the stream."""
    assert names(chain(*found)) == expected
    assert names(chain(*reversed(found))) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (["b.jsonl", "a.jsonl.gz", "c.json", "d.ndjson.zst"], ["a.jsonl.gz", "b.jsonl", "c.json", "d.ndjson.zst"]),
        (["10.jsonl", "9.jsonl"], ["10.jsonl", "9.jsonl"]),
        (["a.jsonl", "a.jsonl.gz"], ["a.jsonl"]),
        ([".a.jsonl", "a.jsonl.tmp", "a.jsonl.part", "a.jsonl.gz.part", "a.txt", "a.gz", "jsonl"], []),
    ],
)
def test_directory_is_ordered_by_name(found: list[str], expected: list[str]) -> None:
    """Names as they are; hidden and unfinished files are no segments."""
    assert names(chain(*found, naming=DIRECTORY)) == expected


def test_live_file_may_be_compressed_when_it_was_named_so() -> None:
    """A compressed stream can be read once, by its own name."""
    assert names(chain("events.jsonl.gz", naming=naming_of("events.jsonl.gz", directory=False))) == ["events.jsonl.gz"]
    assert names(chain("events.jsonl.gz")) == []


def test_numbers_and_dates_do_not_mix() -> None:
    """Their order would be a guess."""
    with pytest.raises(ConfigError, match=r"events.jsonl.1 and events.jsonl-20240101"):
        chain("events.jsonl.1", "events.jsonl-20240101")


def test_file_with_two_names_counts_once_at_its_newest_place() -> None:
    """A rename during the listing, or a rotation by hard link."""
    found = [file("events.jsonl", ino=5), file("events.jsonl.1", ino=5), file("events.jsonl.2", ino=6)]
    assert names(order_chain(LIVE, found)) == ["events.jsonl.2", "events.jsonl"]


@given(st.permutations([f"events.jsonl.{n}" for n in range(12)] + ["events.jsonl"]))
def test_order_does_not_depend_on_the_listing(found: list[str]) -> None:
    """Directories are listed in no order."""
    assert names(chain(*found)) == [f"events.jsonl.{n}" for n in range(11, -1, -1)] + ["events.jsonl"]


# -- identity ----------------------------------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 40


def probed(data: bytes, record: Record) -> Probe:
    """Return what would be found in a file with this content."""
    return Probe(length=len(data), tails={record.length: data[record.length - record.tail_len : record.length]})


@pytest.mark.parametrize(
    ("data", "position", "closed"),
    [
        (CONTENT, "ours", "ours"),
        (CONTENT + b"more", "ours", "long"),
        (CONTENT[:-1], "short", "short"),
        (CONTENT[:-1] + b"\xfe", "other", "other"),
        (CONTENT[:-4097] + b"\x00" + CONTENT[-4096:], "ours", "ours"),
        (b"", "short", "short"),
    ],
)
def test_content_decides_by_length_and_tail(data: bytes, position: str, closed: str) -> None:
    """A closed segment must end where it ended; one being read may have grown."""
    read = cursor(CONTENT)
    assert judge(record_of(read.position), probed(data, record_of(read.position))) == position
    assert judge(record_of(read.closed), probed(data, record_of(read.closed))) == closed


def test_place_that_was_not_looked_at_decides_nothing() -> None:
    """Of a compressed closed segment only the length is known."""
    record = record_of(cursor(CONTENT).closed)
    assert judge(record, Probe(length=len(CONTENT), tails={})) == "ours"


@pytest.mark.parametrize("length", [1, 1023, 1024, 1025, 5000])
def test_head_decides_over_inode(length: int) -> None:
    """Up to 1 KiB, as far as it was read; device and inode are hints only."""
    record = record_of(cursor(CONTENT[:length]).position)
    stranger = Member(name=LIVE.parse("events.jsonl.1"), file=file("events.jsonl.1"))  # type: ignore[arg-type]
    ours = Member(name=LIVE.parse("events.jsonl"), file=file("events.jsonl", ino=7))  # type: ignore[arg-type]
    same, other = Head(CONTENT[:1024]), Head(b"x" + CONTENT[1:1024])
    assert fits_head(record, stranger, same)
    assert fits_head(record, ours, same)
    assert not fits_head(record, ours, other)
    assert not fits_head(record, ours, Head(CONTENT[: min(length, 1024) - 1]))


def test_empty_segment_is_known_by_its_inode() -> None:
    """Nothing was read: there is no content to compare."""
    record = record_of(cursor(b"").position)
    ours = Member(name=LIVE.parse("events.jsonl"), file=file("events.jsonl", ino=7))  # type: ignore[arg-type]
    other = Member(name=LIVE.parse("events.jsonl"), file=file("events.jsonl", ino=8))  # type: ignore[arg-type]
    assert fits_head(record, ours, Head(b"anything"))
    assert not fits_head(record, other, Head(b""))


# -- the chain around the place ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "strangers", "current", "later"),
    [
        ("new new new", "", "", "3 2 live"),
        ("current new new", "", "3", "2 live"),
        ("closed current new", "", "2", "live"),
        ("closed closed closed", "", "", ""),
        ("closed closed new", "", "", "live"),
        ("closed waiting new", "", "", "2 live"),
        ("new current new", "3", "2", "live"),
        ("new closed new", "3", "", "live"),
        ("waiting current new", "", "2", "live"),
        ("copy copy current", "", "live", ""),
        ("current closed new", "", "3", "live"),
    ],
)
def test_chain_around_the_place(labels: str, strangers: str, current: str, later: str) -> None:
    """What was never read is later if it sorts after the place, and a stranger if it sorts before."""
    members = order_chain(LIVE, [file("events.jsonl.3"), file("events.jsonl.2"), file("events.jsonl")])
    short = {"events.jsonl.3": "3", "events.jsonl.2": "2", "events.jsonl": "live"}
    given_labels: list[Label] = list(labels.split())  # type: ignore[arg-type]
    layout = arrange(members, given_labels)
    assert " ".join(short[name] for name in names(layout.strangers)) == strangers
    assert (short[layout.current.file.name] if layout.current else "") == current
    assert " ".join(short[name] for name in names(layout.later)) == later


def test_empty_stranger_holds_nothing_to_miss() -> None:
    """An empty file before the place is passed over until it gets bytes."""
    members = order_chain(LIVE, [file("events.jsonl.1", size=0), file("events.jsonl")])
    assert arrange(members, ["new", "current"]).strangers == ()


@pytest.mark.parametrize(
    ("before", "after", "missing"),
    [
        ("events.jsonl.3", "events.jsonl.2", []),
        ("events.jsonl.1", "events.jsonl", []),
        ("events.jsonl.0", "events.jsonl", []),
        ("events.jsonl.4", "events.jsonl.1.gz", ["events.jsonl.3", "events.jsonl.2"]),
        ("events.jsonl.2", "events.jsonl", ["events.jsonl.1"]),
        ("events.jsonl-20240101", "events.jsonl-20240105", []),
        ("events.jsonl", "events.jsonl", []),
    ],
)
def test_holes_in_the_numbers(before: str, after: str, missing: list[str]) -> None:
    """Neighbours have neighbouring numbers; dates say nothing."""
    (first,), (second,) = chain(before), chain(after)
    assert list(missing_between(first, second, "events.jsonl")) == missing
    assert missing_between(None, second, "events.jsonl") == ()


def test_unread_segment_is_gone_only_if_its_content_is() -> None:
    """Compressed, renamed or replaced by a copy it is still there, even if its inode now is another file's."""
    (old,) = chain("events.jsonl.1")
    (new,) = chain("events.jsonl.2.gz")
    seen = {old.file.key: (old, b"abc")}
    assert vanished(seen, [old], {old.file.key: Head(b"abcd")}) == ([], [])
    assert vanished(seen, [new], {new.file.key: Head(b"abcd")}) == ([], [])
    assert vanished(seen, [new], {new.file.key: Head(b"xyz")}) == ([old.file.key], [])
    assert vanished(seen, [new], {new.file.key: Head(b"", certain=False)}) == ([], [old.file.key])
    assert vanished(seen, [old], {old.file.key: Head(b"xyz")}) == ([old.file.key], [])
    both = {old.file.key: Head(b"xyz"), new.file.key: Head(b"abc")}
    assert vanished(seen, [old, new], both) == ([], [])


# -- when a segment ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "grew", "since", "over"),
    [(14.9, 10, 10, False), (15, 10, 10, True), (15, 10, 11, False), (15, 11, 10, False), (16, 11, 11, True)],
)
def test_grace_runs_from_growth_and_from_the_successor(now: float, grew: float, since: float, over: bool) -> None:
    """Whichever was last."""
    assert grace_over(now, grew, since, 5_000_000) is over


@pytest.mark.parametrize(
    ("current", "later", "quiet"),
    [
        ((0, 0), [(0, 0)], True),
        ((0, 0), [], False),
        ((6, 0), [(0, 0)], False),
        ((0, 6), [(0, 0)], False),
        ((0, 0), [(6, 6)], False),
        ((0, 0), [(6, 6), (6, 6)], True),
        ((20, 0), [(0, 0)], False),
    ],
)
def test_old_times_stand_in_for_the_grace(current: tuple[int, int], later: list[tuple[int, int]], quiet: bool) -> None:
    """Ten seconds on the clock, five of grace: the segment must be old, its successor old or succeeded itself."""
    second = 1_000_000_000
    read = file("events.jsonl.9", mtime_ns=current[0] * second, ctime_ns=current[1] * second)
    members = order_chain(
        LIVE,
        [
            file(f"events.jsonl.{9 - at}", mtime_ns=mtime * second, ctime_ns=ctime * second)
            for at, (mtime, ctime) in enumerate(later, 1)
        ],
    )
    assert long_quiet(10 * second, read, members, 5_000_000) is quiet


# -- findings ----------------------------------------------------------------------------------------------------------


def test_every_finding_says_file_offset_and_what_to_do() -> None:
    """One line for the operator, the same facts for the audit log."""
    record = record_of(cursor(CONTENT, start=100).position)
    (live,), (rotated,) = chain("events.jsonl"), chain("events.jsonl.1")
    found: list[findings.StreamHalt | findings.StreamRefusal] = [
        findings.segment_before(rotated, "events.jsonl", None),
        findings.late_bytes(rotated, record, 20_000, None),
        findings.position_gone(record, [rotated, live]),
        findings.segments_missing(["events.jsonl.2"], "events.jsonl.3", "events.jsonl.1", 5),
        findings.truncated("events.jsonl", record, 3),
        findings.rewritten("events.jsonl", record, b"x" * 4096, 20_000),
        findings.replaced(live, record, Head(b"x" * 1024)),
        findings.copied_and_truncated(rotated, live, record),
        findings.corrupt("events.jsonl.1.gz", "bad checksum", 77),
        findings.input_gone("events.jsonl.1", 0, 10, 20, "it is not there"),
    ]
    for finding in found:
        assert finding.hint
        assert "\n" not in str(finding)
        assert finding.evidence["kind"] == finding.kind
        assert str(finding.evidence["file"]).startswith("events.jsonl")
        assert finding.exit_code == (3 if isinstance(finding, findings.StreamHalt) else 4)
        if isinstance(finding, findings.StreamHalt):
            finding.at(48213)
            assert finding.hint.endswith(": tidewaiter skip --position 48213 --reason … --actor …")
    assert found[2].evidence["global_offset"] == 100 + len(CONTENT)
