"""Where the records of delimited text begin and end, which of them are records at all, and what is in their cells.

Owns: the grammar (RFC 4180 with any delimiter and quote), cutting a text that arrives in parts into blocks of whole
records, and the reasons of what is no record. Leaves to `csv_source` making frames, and to `transcoding` encodings.

The grammar: a record ends with a line feed, before which one carriage return is dropped; the last one may lack it.
A field that begins with a quote is quoted: it runs to the next quote that is not doubled, and a delimiter or the end
of the record follows. An empty field is null, a quoted empty one an empty text; nothing is trimmed, and nothing is a
comment. What is no record: another number of fields than expected (a blank line has one), a quote inside an unquoted
field, text after a closing quote, a NUL byte, bytes that are no UTF-8, a carriage return outside quotes that no line
feed follows, and a record of more than `limit` bytes, its line end included.

Where the quotes are broken, or no end is found within `limit` bytes, nobody knows where the record was meant to end:
then **it is its first line**, and reading goes on with the next line. So one lost quote costs few records, never the
file, and memory stays bounded.

Two ways lead through. A block is `Proven` when a few counts at C speed show that each of its records is sound; anything
else goes record by record. The proof: all that stands outside quotes begins and ends as the grammar wants it, there are
as many delimiters outside quotes as `fields` and the line ends ask for, and there is nothing of the list above. What is
left to the parser behind is to refuse a record that is too long and to count the records: then one that is too short
cannot hide behind one that is too long by as much. Where there are no quotes at all, counting is left to the parser as
well: a record that is too short lacks its last cell, and cells, delimiters and line ends must come to all of the text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import Struct

from tidewaiter.edges.tables.line_blocks import (
    RECORD_LIMIT,
    SINGLY_RECORDS,
    Fault,
    LongLine,
    gathered,
    lines_within,
    too_long,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

PIECE_BYTES: Final = 1 << 19
"""So much text is proven at once where there are quotes: the proof takes many times its memory."""
_DOUBTFUL_PART: Final = 8
"""Where the proof fails, such a part of a piece is read record by record before it is tried again."""
_CR, _LF, _CRLF, _NUL = b"\r", b"\n", b"\r\n", b"\0"


class Dialect(NamedTuple):
    """Delimiter and quote (one ASCII character each), and the number of fields that a record has (0: not known)."""

    delimiter: bytes
    quote: bytes
    fields: int
    limit: int = RECORD_LIMIT


class Proven(Struct, frozen=True):
    """Whole records, `count` of them if all are sound; the last byte is a line feed.

    Without quotes, and with more than one field, they are not counted: they are sound if what the parser makes of them
    accounts for each byte. `returns` of them are carriage returns before line feeds then, and `count` is None.
    """

    text: bytes
    count: int | None
    returns: int = 0


Records = list[list[str | None] | Fault]
"""Records in order: the cells of each, or why it is none."""


class Singly(Struct, frozen=True):
    """Records that were looked at one by one, at most SINGLY_RECORDS."""

    records: Records


Block = Proven | Singly


def cut_records(parts: Iterator[bytes], dialect: Dialect, block_bytes: int) -> Generator[list[Block]]:
    """Return the records of a UTF-8 text that arrives in parts, about `block_bytes` at a time.

    Each list holds the next records in order, and ends where it has many of those that were looked at one by one; the
    same ones come out however the text is cut.
    """
    rest = b""
    long: LongLine | None = None
    for part in gathered(parts, block_bytes):
        text = rest + part
        if long is not None:
            if (begin := long.take(text)) < 0:
                continue
            yield [Singly([long.end()])]
            long, text = None, text[begin:]
        used = yield from _in_lists(cut_block(text, dialect))
        rest = text[used:]
        if len(rest) >= dialect.limit and _LF not in rest:
            long, rest = LongLine(rest, dialect.limit), b""
    if long is not None:
        yield [Singly([long.end()])]
    elif rest:
        yield from _in_lists(cut_block(rest if rest.endswith(_LF) else rest + _LF, dialect, final=True))


def _in_lists(blocks: Generator[Block, None, int]) -> Generator[list[Block], None, int]:
    """Return `blocks` in lists, each of which ends once it has SINGLY_RECORDS that were looked at one by one."""
    held: list[Block] = []
    count = 0
    while True:
        try:
            block = next(blocks)
        except StopIteration as end:
            if held:
                yield held
            used: int = end.value
            return used
        held.append(block)
        count += len(block.records) if isinstance(block, Singly) else 0
        if count >= SINGLY_RECORDS:
            yield held
            held, count = [], 0


def cut_block(
    text: bytes, dialect: Dialect, *, final: bool = False, in_pieces: bool = False
) -> Generator[Block, None, int]:
    """Yield the whole records at the beginning of `text`, and return how many bytes they take.

    `final` says that nothing follows; `text` ends with a line feed then. `in_pieces` proves piece by piece only, for
    a block that the parser refused as a whole.
    """
    if not in_pieces and dialect.quote not in text:
        end = text.rfind(_LF) + 1
        whole = text if end == len(text) else text[:end]
        if (proven := _proven_without_quotes(whole, dialect)) is not None:
            if whole:
                yield proven
            return end
    at = begin = records = 0
    piece = min(PIECE_BYTES, dialect.limit)
    while at < len(text):
        proof = _proof(text, at, min(at + piece, len(text)), dialect)
        if proof is not None:
            at, records = proof[0], records + proof[1]
            if not in_pieces:
                continue
        if records:
            yield Proven(text[begin:at], records)
        if proof is None:
            until = min(at + max(piece // _DOUBTFUL_PART, 1), len(text))
            singly, at, stuck = _one_by_one(text, at, until, dialect, final=final)
            if singly.records:
                yield singly
            if stuck:
                return at
        begin, records = at, 0
    if records:
        yield Proven(text[begin:at], records)
    return at


def end_of_records(text: bytes, dialect: Dialect) -> int:
    """Return how many bytes the whole records at the beginning of `text` take, of which more may follow."""
    blocks = cut_block(text, dialect)
    while True:
        try:
            next(blocks)
        except StopIteration as end:
            used: int = end.value
            return used


# -- the proof ---------------------------------------------------------------------------------------------------------


def _proven_without_quotes(text: bytes, dialect: Dialect) -> Proven | None:
    """Return the records that `text` holds; None if in doubt. It has no quotes, and whole lines."""
    returns = text.count(_CR) if _CR in text else 0
    if not _is_text(text) or returns != (text.count(_CRLF) if returns else 0) or not lines_within(text, dialect.limit):
        return None
    return Proven(text, None, returns) if dialect.fields > 1 else Proven(text, text.count(_LF))


def _is_text(text: bytes) -> bool:
    if _NUL in text:
        return False
    if text.isascii():
        return True
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _proof(text: bytes, at: int, stop: int, dialect: Dialect) -> tuple[int, int] | None:
    """Return where the last record ends that does so up to `stop`, and the number of records up to there, all sound.

    None if there is none, or if in doubt. A record begins at `at`.
    """
    pieces = text[at:stop].split(dialect.quote)  # outside of quotes and inside in turn
    last = (len(pieces) - 1) // 2 * 2
    while last >= 0 and _LF not in pieces[last]:
        last -= 2
    if last < 0:
        return None
    tail = pieces[last].rfind(_LF) + 1
    left = len(pieces[last]) - tail + sum(len(each) + 1 for each in pieces[last + 1 :])
    end = stop - left
    outside = pieces[: last + 1 : 2]
    outside[-1] = pieces[last][:tail]
    skeleton = dialect.quote.join(outside)  # one quote stands for all that was quoted, two for a doubled one in it
    if not _quotes_are_sound(skeleton, dialect):
        return None
    count = skeleton.count(_LF)
    if skeleton.count(dialect.delimiter) != (dialect.fields - 1) * count:
        return None
    if (_CR in skeleton and skeleton.count(_CR) != skeleton.count(_CRLF)) or not _is_text(text[at:end]):
        return None
    return end, count


def _quotes_are_sound(skeleton: bytes, dialect: Dialect) -> bool:
    """Return whether each quote of `skeleton` is all that its field has."""
    quote, delimiter = dialect.quote, dialect.delimiter
    doubled = quote * 2
    while doubled in skeleton:
        skeleton = skeleton.replace(doubled, quote)
    quotes = skeleton.count(quote)
    opened = skeleton.count(delimiter + quote) + skeleton.count(_LF + quote) + skeleton.startswith(quote)
    closed = skeleton.count(quote + delimiter) + skeleton.count(quote + _LF) + skeleton.count(quote + _CR)
    return quotes == opened == closed


# -- record by record --------------------------------------------------------------------------------------------------


def _one_by_one(text: bytes, at: int, until: int, dialect: Dialect, *, final: bool) -> tuple[Singly, int, bool]:
    """Return the records from `at` on that begin before `until`, where they end, and whether more text is needed.

    At most SINGLY_RECORDS.
    """
    records: Records = []
    while at < until and len(records) < SINGLY_RECORDS:
        record = read_record(text, at, dialect, final=final)
        if record is None:
            return Singly(records), at, True
        found, at = record
        records.append(found)
    return Singly(records), at, False


def read_singly(text: bytes, dialect: Dialect) -> Generator[Records]:
    """Return the records of `text`, which ends with the end of one, without any proof, some at a time."""
    at = 0
    while at < len(text):
        singly, at, _ = _one_by_one(text, at, len(text), dialect, final=True)
        yield singly.records


def read_record(text: bytes, at: int, dialect: Dialect, *, final: bool) -> tuple[list[str | None] | Fault, int] | None:
    """Return the record that begins at `at` and where it ends; None if more text is needed to tell."""
    stop = at + dialect.limit
    line_end = text.find(_LF, at, stop)
    if line_end < 0:
        if len(text) < stop or (line_end := text.find(_LF, stop)) < 0:
            return None
        return too_long(text[at:stop], line_end - at, dialect.limit), line_end + 1
    line = text[at:line_end]
    if dialect.quote not in line:
        return _checked(line, None, dialect), line_end + 1
    walked = _walk(text, at, stop, dialect, final=final)
    if walked is None:
        return None
    if isinstance(walked, str):
        return Fault(walked, line.removesuffix(_CR)), line_end + 1
    cells, end = walked
    return _checked(text[at : end - 1], cells, dialect), end


class _Cell(NamedTuple):
    content: bytes
    quoted: bool


def _walk(text: bytes, at: int, stop: int, dialect: Dialect, *, final: bool) -> tuple[list[_Cell], int] | str | None:
    """Return the cells of a record with quotes and its end, what is wrong with its quotes, or None for more text."""
    known = min(len(text), stop)
    cells: list[_Cell] = []
    too_long = f"no end of the record within {dialect.limit} bytes: a quote is not closed, or it is too long"
    beyond = too_long if final or len(text) >= stop else None
    while True:
        number = len(cells) + 1
        if text.startswith(dialect.quote, at, known):
            close = _closing_quote(text, at + 1, known, dialect.quote)
            if close is None:
                return f"the quote that opens field {number} is not closed" if final and len(text) < stop else beyond
            cells.append(_Cell(text[at + 1 : close].replace(dialect.quote * 2, dialect.quote), quoted=True))
            at = close + 1
            if text.startswith(_CRLF, at, known):
                at += 1
            if at >= known or (at + 1 == known and text.startswith(_CR, at)):
                return beyond
            if text.startswith(_LF, at):
                return cells, at + 1
            if not text.startswith(dialect.delimiter, at):
                return f"text after the closing quote of field {number}"
            at += 1
            continue
        line_end = text.find(_LF, at, known)
        delimiter = text.find(dialect.delimiter, at, known if line_end < 0 else line_end)
        end = delimiter if delimiter >= 0 else line_end
        if dialect.quote in text[at : known if end < 0 else end]:
            return f"a quote inside field {number}, which does not begin with one"
        if end < 0:
            return beyond
        if delimiter >= 0:
            cells.append(_Cell(text[at:end], quoted=False))
            at = end + 1
            continue
        cells.append(_Cell(text[at:end].removesuffix(_CR), quoted=False))
        return cells, end + 1


def _closing_quote(text: bytes, at: int, known: int, quote: bytes) -> int | None:
    """Return where the quoted field whose content begins at `at` closes; None if not before `known`."""
    while True:
        at = text.find(quote, at, known)
        if at < 0 or at + 1 >= known:  # the next byte tells whether it is doubled
            return None
        if not text.startswith(quote, at + 1):
            return at
        at += 2


def _checked(raw: bytes, cells: list[_Cell] | None, dialect: Dialect) -> list[str | None] | Fault:
    """Return the cells of the record `raw` (without its line feed), or why it is none; None stands for no quotes."""
    raw = raw.removesuffix(_CR)
    if _NUL in raw:
        return Fault(f"a NUL byte after {raw.index(_NUL)} bytes of the record", raw)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        where = f"after {len(before.decode())} characters of the record ({len(before)} bytes in UTF-8)"
        return Fault(f"byte 0x{raw[error.start]:02x} {where} cannot be decoded", raw)
    bare = raw if cells is None else b"".join(cell.content for cell in cells if not cell.quoted)
    if _CR in bare:
        return Fault("a carriage return outside quotes that no line feed follows", raw)
    number = text.count(dialect.delimiter.decode()) + 1 if cells is None else len(cells)
    if dialect.fields and number != dialect.fields:
        blank = "a blank line: " if not raw else ""
        return Fault(f"{blank}{dialect.fields} fields expected, {number} found", raw)
    if cells is None:
        return [cell or None for cell in text.split(dialect.delimiter.decode())]
    return [cell.content.decode() if cell.content or cell.quoted else None for cell in cells]
