"""Spoiling generated lines on purpose: invalid lines, duplicates and late events, seeded like the events.

Owns: which event is spoilt, how, and the count of it. Leaves to `core.money_flow_generator` the good lines, to
`shell.generate_file` what goes wrong with files rather than lines (partial lines, rotation).

Invariants:
- What happens to event k is a function of (seed, rates, k); only a duplicate also depends on the good lines before it.
- Each fault is one that the money-flow contract v1 refuses, or that the check for duplicates or for order refuses: an
  invalid line takes the place of its event, a duplicate repeats a whole earlier good line, a late event has an
  `event_time` before that of a line before it (its `ingest_time` stays).
- Every line, invalid ones included, ends in exactly one newline and holds no other.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tidewaiter.core.money_flow_generator import BLOCK_EVENTS, draw_bytes, iso_time

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_LATE_US: Final = 30_000_000
REPEATABLE: Final = 16
_DRAWS: Final = struct.Struct("<IIII")  # invalid?, late?, duplicate?, detail
_TIME_CHARS: Final = len("2026-03-09T12:36:24.201822+00:00")


def _replace(old: str, new: str) -> Callable[[str], bytes]:
    return lambda line: line.replace(old, new, 1).encode()


def _without_currency(line: str) -> bytes:
    return line.replace('"currency": "GBP", ', "", 1).encode()


def _amount(line: str, change: Callable[[str], str]) -> bytes:
    before, key, after = line.partition('"amount": ')
    amount, comma, rest = after.partition(",")
    return f"{before}{key}{change(amount)}{comma}{rest}".encode()


def _three_decimals(amount: str) -> str:
    pounds, _, pence = amount.partition(".")
    return f"{pounds}.{pence:0<2}5"


def _broken(line: str) -> bytes:
    return line[: len(line) // 2].encode() + b"\n"


def _blank_id(line: str) -> bytes:
    start = line.index('"user_id": "') + len('"user_id": "')
    return (line[:start] + "   " + line[line.index('"', start) :]).encode()


# The ways of being invalid, in the order the draw picks from.
INVALID: Final[dict[str, Callable[[str], bytes]]] = {
    "broken_json": _broken,
    "missing_field": _without_currency,
    "unknown_field": _replace('"channel"', '"country": "GB", "channel"'),
    "wrong_currency": _replace('"GBP"', '"EUR"'),
    "unknown_event_type": _replace('_type": "', '_type": "card_'),
    "negative_amount": lambda line: _amount(line, lambda amount: f"-{amount}"),
    "three_decimals": lambda line: _amount(line, _three_decimals),
    "huge_amount": lambda line: _amount(line, lambda _: "1e12"),
    "text_amount": lambda line: _amount(line, lambda amount: f'"{amount}"'),
    "null_amount": lambda line: _amount(line, lambda _: "null"),
    "naive_timestamp": _replace('+00:00", "ingest', '", "ingest'),
    "future_timestamp": _replace('"event_time": "2', '"event_time": "3'),
    "blank_user": _blank_id,
    "invalid_utf8": lambda line: line.encode().replace(b'"user_', b'"us\xff\xfe_', 1),
    "nul_byte": lambda line: line.encode().replace(b'"user_', b'"us\x00er_', 1),
    "not_an_object": lambda _: b"[1, 2, 3]\n",
    "blank_line": lambda _: b"\n",
}  # fmt: skip
_SPOILERS: Final = tuple(INVALID.values())


@dataclass(frozen=True, slots=True)
class FaultRates:
    """Shares of the events, 0 to 1, that become invalid, are followed by a duplicate, or come late."""

    invalid: float = 0.0
    duplicates: float = 0.0
    disorder: float = 0.0

    def __bool__(self) -> bool:
        """Say whether anything is to be spoilt at all."""
        return bool(self.invalid or self.duplicates or self.disorder)


class StreamFaults:
    """Spoils the lines of one generator, in order. The counts are what a reader must find in the lines given out."""

    __slots__ = ("_block", "_block_index", "_bounds", "_good", "_latest", "_seed", "duplicates", "invalid", "late")

    def __init__(self, seed: int, rates: FaultRates) -> None:
        self._seed = seed
        self._bounds = tuple(int(2**32 * rate) for rate in (rates.invalid, rates.disorder, rates.duplicates))
        self._block: list[tuple[int, ...]] = []
        self._block_index = -1
        self._good: deque[bytes] = deque(maxlen=REPEATABLE)
        self._latest: int | None = None
        self.invalid = 0
        self.duplicates = 0
        self.late = 0

    def apply(self, first: int, times: Sequence[int], lines: Sequence[str]) -> list[list[bytes]]:
        """Return for each of the good `lines`, of events `first` and up at `times` (microseconds), what to write."""
        return [self._spoil(first + i, times[i], line) for i, line in enumerate(lines)]

    def _spoil(self, number: int, micros: int, line: str) -> list[bytes]:
        block = number // BLOCK_EVENTS
        if block != self._block_index:
            data = draw_bytes("faults", self._seed, block, BLOCK_EVENTS * _DRAWS.size)
            self._block = list(_DRAWS.iter_unpack(data))
            self._block_index = block
        invalid, late, duplicate, detail = self._block[number % BLOCK_EVENTS]
        good = line.encode("ascii")
        if invalid < self._bounds[0]:
            self.invalid += 1
            return [_SPOILERS[detail * len(_SPOILERS) >> 32](line)]
        if late < self._bounds[1] and self._latest is not None:
            # Counted back from the latest good line, so that it is late whatever the spacing of the events.
            good = self._late(line, self._latest - 1 - (detail * MAX_LATE_US >> 32))
            self.late += 1
        else:
            self._latest = micros
            self._good.append(good)
        if duplicate < self._bounds[2] and self._good:
            self.duplicates += 1
            return [good, self._good[detail % len(self._good)]]
        return [good]

    @staticmethod
    def _late(line: str, micros: int) -> bytes:
        start = line.index('"event_time": "') + len('"event_time": "')
        return (line[:start] + iso_time(micros) + line[start + _TIME_CHARS :]).encode()
