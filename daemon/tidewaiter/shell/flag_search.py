"""Finding a flag and its neighbours in a state directory, and what governed when it was made.

Owns: looking through the projections (sealed parts too) and the audit log without reading them line by line, beside a
running daemon. Leaves to `edges.projections` the names of parts, and to `shell.governing` what the digests stand for.
"""

from __future__ import annotations

import json
import mmap
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tidewaiter.core.audit import BATCH_COMMITTED, UNREADABLE, BatchCommitted
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.toml_source import DecimalText
from tidewaiter.edges.projections import open_part, sealed_bases, sealed_part

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


KINDS: Final = ("flags", "suppressed", "shadow_flags")
"""The projections that hold flags."""
_BATCH: Final = f'"action":"{BATCH_COMMITTED}"'.encode()
_NARROW: Final = 1 << 16
_batch: Final = msgspec.json.Decoder(BatchCommitted)
_encode: Final = msgspec.json.encode


@dataclass(frozen=True)
class Found:
    """A line of a projection that holds flags, parsed."""

    kind: str
    flag: dict[str, Any]

    @property
    def offset(self) -> int:
        """Where its event stands in the stream."""
        return int(self.flag["offset"])


def the_flag(state: Path, flag_id: str) -> Found:
    """Return the line with that flag id, the last one where it came again. Raises ConfigError where there is none."""
    try:
        flag_id.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{flag_id} is not UTF-8, so no flag_id", hint="copy it from flags.jsonl") from None
    found = find_flags(state, flag_id)
    if found:
        return found[-1]
    others = flag_ids_of(state, flag_id)
    hint = "a flag_id is EVENT_ID:SCENARIO, as in flags.jsonl"
    if others:
        hint = f"flags of this event: {', '.join(others)}"
    raise ConfigError(f"{state}: there is no flag {flag_id}", hint=hint)


def find_flags(state: Path, flag_id: str) -> list[Found]:
    """Return the lines with that flag id, in stream order; usually one. Ids come again beyond the duplicate horizon."""
    return _search(state, KINDS, b'{"flag_id":' + _encode(flag_id) + b",", at_line_start=True)


def flag_ids_of(state: Path, event_id: str) -> list[str]:
    """Return the ids of the flags of an event."""
    found = _search(state, KINDS, b'{"flag_id":' + _encode(event_id)[:-1] + b":", at_line_start=True)
    return list(dict.fromkeys(each.flag["flag_id"] for each in found if each.flag["event_id"] == event_id))


def neighbours(state: Path, found: Found) -> tuple[Found | None, list[Found], Found | None]:
    """Return the flag that began the cooldown, the hits it suppressed (without `found`), and the flag behind them.

    All are of the same scenario and subject; the first is None where `found` is that flag, or none is there any more.
    """
    flag = found.flag
    needle = b',"user_id":%b,"rule_name":%b,' % (_encode(flag["user_id"]), _encode(flag["rule_name"]))
    emitted = _search(state, ("flags",), needle)
    reach = found.offset + (found.kind == "flags")  # a flag begins its own cooldown
    begins = [each for each in emitted if each.offset < reach]
    ends = [each for each in emitted if each.offset > found.offset]
    first, last = (begins[-1] if begins else None), (ends[0] if ends else None)
    held_back = [
        each
        for each in _search(state, ("suppressed",), needle)
        if (first is None or each.offset > first.offset) and (last is None or each.offset < last.offset)
        and each.flag != found.flag
    ]  # fmt: skip
    return (None if first is None or first.flag == found.flag else first), held_back, last


def batch_at(state: Path, offset: int) -> BatchCommitted | None:
    """Return the batch of the line at the global `offset`; None where the audit log does not reach back so far."""
    located = locate_batch(state, offset)
    return None if located is None else located[2]


def locate_batch(state: Path, offset: int) -> tuple[Path, int, BatchCommitted] | None:
    """Return the batch of the line at the global `offset`, after the audit segment and the byte its entry begins at.

    None where the audit log does not reach back so far.
    """
    best: tuple[Path, int, BatchCommitted] | None = None
    for path in sorted((state / "audit").glob("audit-*.jsonl"), reverse=True):
        with _mapped(path) as text:
            found = _first_beyond(text, offset) if text is not None else None
        if found is None:
            if best is not None:
                break
            continue
        begin, batch = found
        best = path, begin, batch
        if batch.position.start + batch.first <= offset:
            break
    if best is None or best[2].position.start + best[2].first > offset:
        return None
    return best


def _first_beyond(text: mmap.mmap, offset: int) -> tuple[int, BatchCommitted] | None:
    """Return the first batch.committed of an audit segment that ends behind `offset`, after where its line begins.

    They lie in rising order.
    """
    low, high = 0, len(text)
    found: tuple[int, BatchCommitted] | None = None
    while high - low > _NARROW:
        middle = (low + high) // 2
        begin, batch, end = _next_batch(text, middle, high)
        if batch is None:
            high = middle
        elif batch.offset > offset:
            found, high = (begin, batch), middle
        else:
            low = end
    while True:
        begin, batch, end = _next_batch(text, low, high)
        if batch is None:
            return found
        if batch.offset > offset:
            return begin, batch
        low = end


def _next_batch(text: mmap.mmap, low: int, high: int) -> tuple[int, BatchCommitted | None, int]:
    """Return the first batch.committed whose action stands from `low` on and before `high`, between its line's ends."""
    while True:
        at = text.find(_BATCH, low, high + len(_BATCH) - 1)  # it may begin right before `high`
        if at < 0:
            return high, None, high
        end = text.find(b"\n", at)
        if end < 0:
            return high, None, high
        begin = text.rfind(b"\n", 0, at) + 1
        try:
            return begin, _batch.decode(text[begin:end]), end + 1
        except UNREADABLE:
            low = end + 1


def _search(state: Path, kinds: tuple[str, ...], needle: bytes, *, at_line_start: bool = False) -> list[Found]:
    """Return the whole lines that hold `needle`, in stream order."""
    found: list[Found] = []
    for kind in kinds:
        for path in _parts(state, kind):
            with _mapped(path) as text:
                if text is not None:
                    found += [Found(kind, flag) for flag in _lines_with(text, needle, at_line_start=at_line_start)]
    return sorted(found, key=lambda each: each.offset)


def _parts(state: Path, kind: str) -> list[Path]:
    return [*(sealed_part(state, kind, base) for base in sealed_bases(state, kind)), open_part(state, kind)]


def _lines_with(text: mmap.mmap, needle: bytes, *, at_line_start: bool) -> Iterator[dict[str, Any]]:
    at = -1
    while (at := text.find(needle, at + 1)) >= 0:
        begin = text.rfind(b"\n", 0, at) + 1
        end = text.find(b"\n", at)
        if end < 0:  # being written this moment
            return
        if at_line_start and begin != at:
            continue
        try:
            # amounts stay as they are written: a flag's 500.00 is to be shown as 500.00
            yield json.loads(text[begin:end], parse_float=DecimalText)
        except ValueError:
            continue


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap | None]:
    """Give the file's bytes; None for one that is empty, or was sealed under another name meanwhile."""
    try:
        with path.open("rb") as file:
            text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, ValueError):  # ValueError: an empty file cannot be mapped
        yield None
        return
    with text:
        yield text
