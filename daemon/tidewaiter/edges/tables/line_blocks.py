"""Text that arrives in parts, as blocks of whole lines, in bounded memory.

Owns: where lines end, and lines that are longer than any record may be: of those only the beginning is kept. Leaves to
`csv_records` records of several lines, and to `json_lines_source` what is in a line.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from tidewaiter.core.pipelines.batches import Rejected, quoted

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

RECORD_LIMIT: Final = 1 << 20
"""The longest record, in bytes of UTF-8, its line end included."""
READ_STEP: Final = "read"
"""The step of rejections on the way from text to rows."""
SINGLY_RECORDS: Final = 1 << 14
"""At most so many records that were looked at one by one are held at once: each takes hundreds of bytes."""
_LF: Final = b"\n"


class Fault(Struct, frozen=True, gc=False):
    """Why a piece of text is no record, and the text; a line over the limit is cut to it.

    `column` and `value` say more where one value of it is to blame. `length` counts the bytes of what was cut, its line
    end left out; None where `text` is all of it.
    """

    problem: str
    text: bytes
    column: str | None = None
    value: str | None = None
    length: int | None = None


class RejectedText(Rejected, frozen=True):
    """A rejected piece of text that is no record: `raw` are its bytes, in UTF-8 if they are text, without line end.

    `length` counts all of them; more than `raw` holds where it was cut.
    """

    raw: bytes = b""
    length: int = 0

    @property
    def is_text(self) -> bool:
        """Whether `raw` is UTF-8; a character that the cut went through does not count."""
        try:
            codecs.getincrementaldecoder("utf-8")().decode(self.raw, final=self.length <= len(self.raw))
        except UnicodeDecodeError:
            return False
        return True


def rejected_record(fault: Fault, row: int) -> RejectedText:
    """Return `fault` as the rejection of record number `row`."""
    text = fault.text.decode("utf-8", "backslashreplace")
    value = fault.value if fault.column is not None else quoted(text)
    length = len(fault.text) if fault.length is None else fault.length
    return RejectedText(
        row=row, column=fault.column, problem=fault.problem, value=value, record=text, step=READ_STEP,
        raw=fault.text, length=length,
    )  # fmt: skip


class LongLine:
    """A line that is over the limit before its end is known. `length` counts its bytes so far, without the line end."""

    def __init__(self, beginning: bytes, limit: int) -> None:
        """Keep `limit` bytes of it."""
        self.beginning = beginning[:limit]
        self.length = len(beginning)
        self.limit = limit

    def take(self, text: bytes) -> int:
        """Take what of `text` belongs to it, and return where the next line begins; -1 while it goes on."""
        end = text.find(_LF)
        self.length += len(text) if end < 0 else end
        return end if end < 0 else end + 1

    def end(self) -> Fault:
        """Return it as the record that it is not."""
        return too_long(self.beginning, self.length, self.limit)


def too_long(beginning: bytes, length: int, limit: int) -> Fault:
    """Return the fault of a line of `length` bytes without its line end."""
    return Fault(f"a record of {length} bytes: more than {limit} are not read", beginning, length=length)


def gathered(parts: Iterator[bytes], size: int) -> Generator[bytes]:
    """Return the same bytes in parts of about `size` and more, cut at line ends where there are any.

    A block of whole lines need not be copied once more to be cut.
    """
    held: list[bytes] = []
    have = 0
    for part in parts:
        have += len(part)
        if have < size:
            held.append(part)
            continue
        end = part.rfind(_LF) + 1 or len(part)
        held.append(part[:end])
        whole = b"".join(held)
        held, have = [part[end:]], len(part) - end
        yield whole
        del whole
    if have:
        yield b"".join(held)


def lines_within(text: bytes, limit: int) -> bool:
    """Return whether no line of `text`, which ends with the end of one, is longer than `limit`, line end included."""
    at = 0
    while at < len(text):  # far from looking at each: one must end within each limit after the end of another
        at = text.rfind(_LF, at, at + limit) + 1
        if not at:
            return False
    return True


def lines_in_pieces(text: bytes, most: int) -> Generator[bytes]:
    """Return the same whole lines in pieces of at most `most` lines."""
    at = lines = 0
    for end in re.finditer(b"\n", text):
        lines += 1
        if lines == most:
            yield text[at : end.end()]
            at, lines = end.end(), 0
    if lines:
        yield text[at:]


def line_blocks(parts: Iterator[bytes], size: int, limit: int = RECORD_LIMIT) -> Generator[bytes | Fault]:
    """Return the lines of a text in order, in blocks of about `size`, each of whole lines; a Fault for one too long.

    The last line gets its line end where it lacks it.
    """
    rest = b""
    long: LongLine | None = None
    for part in gathered(parts, size):
        text = rest + part
        if long is not None:
            if (begin := long.take(text)) < 0:
                continue
            yield long.end()
            long, text = None, text[begin:]
        end = text.rfind(_LF) + 1
        if end:
            yield from _without_long(text[:end], limit)
        rest = text[end:]
        if len(rest) >= limit:
            long, rest = LongLine(rest, limit), b""
    if long is not None:
        yield long.end()
    elif rest:
        yield rest + _LF


def _without_long(text: bytes, limit: int) -> Generator[bytes | Fault]:
    """Return whole lines as one block, or in several, with those too long between them."""
    if lines_within(text, limit):
        yield text
        return
    begin = at = 0
    while at < len(text):
        end = text.index(_LF, at) + 1
        if end - at > limit:
            if begin < at:
                yield text[begin:at]
            yield too_long(text[at : at + limit], end - 1 - at, limit)
            begin = end
        at = end
    if begin < at:
        yield text[begin:at]
