"""From a block of lines to events: one pass for the good case, line by line to the exact reason otherwise.

Owns: the fast path and its guards, the slow path, and the reasons of a line that is no event. Leaves to `screening`
everything that needs more than the line itself.

`msgspec`'s `decode_lines` accepts more than JSON lines: objects over several lines, two objects on a line, blank lines.
Telling these apart costs more than to cut the lines first and to decode each by itself (measured: 0.60 against 0.80 µs
a line), so that is what the fast path does. What a line may hold besides the declared fields the library skips without
a look at its UTF-8 and its depth: the guards for that cover the whole block. If a line is refused or a guard is in
doubt, every line is read by itself; both ways give the same events for the same lines, which is what makes flags
independent of batch boundaries.

Reasons are the product's own words, not the library's, so that a library upgrade cannot change a rejection.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from tidewaiter.core.contract import NESTING_LIMIT

if TYPE_CHECKING:
    from tidewaiter.core.contract import Contract

BOM: Final = b"\xef\xbb\xbf"
_QUOTE, _BACKSLASH = b'"\\'
_OPENING, _CLOSING = b"[{", b"]}"
_any_json: Final = msgspec.json.Decoder(msgspec.Raw)
UNDECLARED: Final = "field not declared by the contract"
_AT: Final = " - at `"


class LineFault(Struct, frozen=True):
    """Why a line is no event: `kind` is framing, json or contract; `field` is the offending field, if one is known."""

    kind: str
    reason: str
    field: str = ""


def cut_lines(data: bytes) -> list[bytes]:
    """Return the lines of a block, each with its newline."""
    return BytesIO(data).readlines()  # which finds the newlines in a third of the time that split takes


def decode_block(contract: Contract, data: bytes, *, at_start: bool) -> list[Any]:
    """Return one entry per line of `data`, in order: an event of the contract's Struct, or a LineFault.

    `at_start` says that the block begins its segment: a byte order mark there is dropped.
    """
    lines = cut_lines(data)
    events = decode_at_once(contract, data, lines)
    return events if events is not None else decode_lines_singly(contract, lines, at_start=at_start)


def decode_at_once(contract: Contract, data: bytes, lines: list[bytes]) -> list[Any] | None:
    """Return the events if every one of `cut_lines(data)` is an event of the contract; None if in doubt."""
    if contract.unknown_fields == "ignore":
        if not data.isascii():
            try:
                data.decode("utf-8")
            except UnicodeDecodeError:
                return None
        if _too_deep_possible(contract, data, lines):
            return None
    try:
        return list(map(contract.decoder.decode, lines))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _too_deep_possible(contract: Contract, data: bytes, lines: list[bytes]) -> bool:
    """Return whether a line may be nested too deeply: one that is has more brackets than the limit."""
    # every event has its own and those of its required objects; if all of them have no more, no line is looked at
    usual = 1 + contract.required_objects
    if data.count(b"[") + data.count(b"{") - usual * len(lines) <= NESTING_LIMIT - usual:
        return False
    return any(line.count(b"[") + line.count(b"{") > NESTING_LIMIT for line in lines)


def decode_lines_singly(contract: Contract, lines: list[bytes], *, at_start: bool) -> list[Any]:
    """Read each line by itself, to its own reason; the result is the same as of `decode_block`, only slower."""
    first = lines[0].removeprefix(BOM) if at_start else lines[0]
    return [_decode_line(contract, line.removesuffix(b"\n").removesuffix(b"\r")) for line in (first, *lines[1:])]


def _decode_line(contract: Contract, line: bytes) -> Any:  # noqa: ANN401 - an event of the compiled Struct
    if not line.strip(b" \t\r\n\v\f"):
        return LineFault("framing", "blank line")
    if b"\0" in line:
        return LineFault("framing", "NUL byte")
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return LineFault("framing", f"invalid UTF-8 at byte {error.start}")
    if line.count(b"[") + line.count(b"{") > NESTING_LIMIT and _depth(line) > NESTING_LIMIT:
        return LineFault("json", f"nested deeper than {NESTING_LIMIT}")
    try:
        return contract.decoder.decode(line)
    except msgspec.ValidationError as error:
        # the decoder stops at the first value it dislikes; a line that is no JSON further on is to be called that
        return _contract_fault(contract, str(error)) if _is_json(line) else LineFault("json", "not valid JSON")
    except (msgspec.DecodeError, RecursionError):
        return LineFault("json", "not valid JSON")


def _is_json(line: bytes) -> bool:
    try:
        _any_json.decode(line)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


def _depth(line: bytes) -> int:
    """Return the deepest nesting of brackets outside strings."""
    depth = deepest = 0
    in_string = escaped = False
    for byte in line:
        if in_string:
            if escaped:
                escaped = False
            elif byte == _BACKSLASH:
                escaped = True
            elif byte == _QUOTE:
                in_string = False
        elif byte == _QUOTE:
            in_string = True
        elif byte in _OPENING:
            depth += 1
            deepest = max(deepest, depth)
        elif byte in _CLOSING:
            depth -= 1
    return deepest


def _contract_fault(contract: Contract, message: str) -> LineFault:
    """Say in our own words what msgspec found, so that the rejection does not depend on its version."""
    place = _place_in(message, contract)
    inside = f"{place}." if place in contract.objects else ""
    if message.startswith("Object contains unknown field"):
        unknown = message.split("`")[1] if "`" in message else ""
        return LineFault("contract", UNDECLARED, inside + unknown[:64])
    if message.startswith("Object missing required field"):
        missing = (message.rpartition(_AT)[0] if _AT in message else message).partition("`")[2].removesuffix("`")
        return LineFault("contract", "required field is missing", inside + missing)
    if place in contract.objects:
        return LineFault("contract", "not an object", place)
    if not place:
        return LineFault("contract", "not an object")
    declared = contract.by_source[place]
    match declared.kind:
        case "enum":
            reason = "not one of the allowed values"
        case "timestamp":
            reason = "not an RFC 3339 time with a UTC offset"
        case "string":
            reason = f"not a text of {declared.min_length} to {declared.max_length} characters"
        case "boolean":
            reason = "not true or false"
        case "integer":
            reason = "not a whole number within the bounds"
        case _:
            reason = "not an amount within the bounds"
    return LineFault("contract", reason, place)


def _place_in(message: str, contract: Contract) -> str:
    """Return the keys at which msgspec found a fault, joined by dots; empty where that is no declared place.

    It names them last; what stands before may be the line's own text.
    """
    before = message
    while _AT in before:
        before = before.rpartition(_AT)[0]
        place = message[len(before) + len(_AT) :].removesuffix("`").removeprefix("$.")
        if place in contract.by_source or place in contract.objects:
            return place
    return ""
