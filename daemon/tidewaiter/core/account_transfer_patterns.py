"""The unusual in made-up account transfers: one pattern for each scenario of the AML pack, from drawn numbers to legs.

Owns: what a pattern looks like: its legs, amounts and spacing. Leaves to `core.account_transfers_generator` when one
begins and in whose account, and everything ordinary.

Invariants: the legs of a pattern are a function of its arguments alone; none lies more than LONGEST_DAYS days after the
day on which it began.

The patterns are made to be found by the shipped thresholds, with something to spare; that they are found says that the
engine works and nothing about how well the thresholds would do on real data.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

Leg: TypeAlias = tuple[int, int, str, int, str, str, str, int]
"""Time (microseconds since the day began), account, direction, cents, counterparty or "", country, channel, and how
long after that the bank received it (microseconds)."""

KINDS: Final = (
    "large", "structuring", "round", "burst", "rapid", "fan_in", "fan_out", "spike", "new", "risky", "repeated",
)  # fmt: skip
"""What is begun in turn; the twelfth, the waking of a dormant account, has a day of its own for each such account."""
LONGEST_DAYS: Final = 20
DORMANT_DAYS: Final = 20
"""Dormant accounts move for the last time within so many days from the beginning."""
FIRST_WAKING_DAY: Final = 201
HOUR_US: Final = 3_600_000_000
DAY_US: Final = 24 * HOUR_US
_MINUTE_US: Final = 60_000_000
_NUMBERS: Final = struct.Struct("<80I")
PATTERN_BYTES: Final = _NUMBERS.size
_HOME: Final = "NL"
_RISKY: Final = ("XA", "XB", "XC", "XD", "XE", "XF")  # as in config/lists/high_risk_countries.csv


@dataclass(frozen=True, slots=True)
class Profile:
    """How much happens: `life` ordinary events a day for 1,000 accounts, one pattern for `pattern_every` of them."""

    name: str
    life: int
    pattern_every: int


class _Numbers:
    """The drawn numbers of one pattern, taken one by one."""

    def __init__(self, drawn: bytes) -> None:
        self._next = iter(_NUMBERS.unpack(drawn)).__next__

    def draw(self) -> int:
        """Return the next number of 32 bits."""
        number: int = self._next()
        return number

    def upto(self, low: int, high: int) -> int:
        """Return a number from `low` to `high`, both included."""
        return low + (self.draw() * (high - low + 1) >> 32)

    def party(self) -> str:
        """Return a counterparty that nobody else is likely to have."""
        return f"X{self.upto(0, 9_999_999):07d}"


class _Pattern:
    """The legs of one pattern in the making. `at` is counted from the beginning of the day on which it began."""

    def __init__(self, numbers: _Numbers, account: int) -> None:
        self.numbers = numbers
        self.account = account
        self.began = numbers.upto(8 * HOUR_US // 1000, 14 * HOUR_US // 1000) * 1000
        self.legs: list[Leg] = []

    def add(self, at: int, direction: str, cents: int, channel: str, *, party: str = "", country: str = _HOME) -> None:
        """Add a leg `at` microseconds after the beginning of the pattern."""
        self.legs.append((self.began + at, self.account, direction, cents, party, country, channel, 700_000))

    def spread(self, count: int, span: int) -> list[int]:
        """Return `count` moments in equal parts of `span`, each somewhere in the middle of its part."""
        part = span // count
        return [part * i + self.numbers.upto(part // 4, part * 3 // 4) for i in range(count)]


def pattern_legs(kind: str, drawn: bytes, choose: Callable[[int], int], fresh: int) -> list[Leg]:
    """Return the legs of a pattern made of the `drawn` PATTERN_BYTES.

    `choose` makes an ordinary account of a draw; `fresh` is an account that nobody has seen before.
    """
    numbers = _Numbers(drawn)
    account = choose(numbers.draw())
    pattern = _Pattern(numbers, fresh if kind == "new" else account)
    _MAKERS[kind](pattern)
    return pattern.legs


def waking_day(account: int) -> int:
    """Return the day on which a dormant account moves again."""
    return FIRST_WAKING_DAY + account // 50 * 7 % 200


def waking_legs(account: int, drawn: bytes) -> list[Leg]:
    """Return the legs of a dormant account that moves again: money comes, and most of it goes two days later."""
    numbers = _Numbers(drawn)
    pattern = _Pattern(numbers, account)
    cents = numbers.upto(200_000, 800_000)
    pattern.add(0, "in", cents, "wire", party=numbers.party())
    pattern.add(numbers.upto(30, 47) * HOUR_US, "out", cents * 95 // 100, "online", party=numbers.party())
    return pattern.legs


def _large(pattern: _Pattern) -> None:
    numbers = pattern.numbers
    direction = ("in", "out")[numbers.upto(0, 1)]
    pattern.add(0, direction, numbers.upto(1_550_000, 6_000_000), "wire", party=numbers.party())


def _structuring(pattern: _Pattern) -> None:
    for at in pattern.spread(pattern.numbers.upto(3, 4), 60 * HOUR_US):
        pattern.add(at, "in", pattern.numbers.upto(680_000, 990_000), "cash")


def _round(pattern: _Pattern) -> None:
    numbers = pattern.numbers
    party = numbers.party()
    for at in pattern.spread(numbers.upto(8, 11), 6 * DAY_US):
        pattern.add(at, "out", numbers.upto(1, 3) * 100_000, "online", party=party)


def _burst(pattern: _Pattern) -> None:
    numbers = pattern.numbers
    parties = [numbers.party() for _ in range(3)]
    for i, at in enumerate(pattern.spread(numbers.upto(11, 14), 40 * _MINUTE_US)):
        pattern.add(at, "out", numbers.upto(2_000, 9_000), "online", party=parties[i % 3])


def _rapid(pattern: _Pattern) -> None:
    numbers = pattern.numbers
    cents = numbers.upto(600_000, 950_000)
    parts = numbers.upto(2, 3)
    pattern.add(0, "in", cents, "wire", party=numbers.party())
    out = cents * numbers.upto(94, 99) // 100
    country = (_HOME, _RISKY[numbers.upto(0, len(_RISKY) - 1)])[numbers.upto(0, 1)]
    for at in pattern.spread(parts, 18 * HOUR_US):
        pattern.add(HOUR_US + at, "out", out // parts, "wire", party=numbers.party(), country=country)


def _fan_in(pattern: _Pattern) -> None:
    numbers = pattern.numbers
    for at in pattern.spread(numbers.upto(10, 14), 5 * DAY_US):
        pattern.add(at, "in", numbers.upto(32_000, 90_000), "online", party=numbers.party())


def _fan_out(pattern: _Pattern) -> None:
    numbers = pattern.numbers
    for at in pattern.spread(numbers.upto(10, 13), 20 * HOUR_US):
        pattern.add(at, "out", numbers.upto(32_000, 90_000), "online", party=numbers.party())


def _spike(pattern: _Pattern) -> None:
    numbers = pattern.numbers
    pattern.add(0, "out", numbers.upto(900_000, 1_450_000), "wire", party=numbers.party())


def _new(pattern: _Pattern) -> None:
    numbers = pattern.numbers
    for at in pattern.spread(2, 4 * DAY_US):
        pattern.add(at, "in", numbers.upto(450_000, 900_000), "wire", party=numbers.party())


def _risky(pattern: _Pattern) -> None:
    numbers = pattern.numbers
    if numbers.upto(0, 2):
        country = _RISKY[numbers.upto(0, len(_RISKY) - 1)]
        pattern.add(0, "out", numbers.upto(120_000, 500_000), "wire", party=numbers.party(), country=country)
    else:
        pattern.add(0, "out", numbers.upto(320_000, 550_000), "virtual_asset", party=numbers.party())


def _repeated(pattern: _Pattern) -> None:
    numbers = pattern.numbers
    for at in pattern.spread(numbers.upto(4, 5), 18 * DAY_US):
        country = _RISKY[numbers.upto(0, len(_RISKY) - 1)]
        pattern.add(at, "out", numbers.upto(110_000, 290_000), "remittance", party=numbers.party(), country=country)


_MAKERS: Final[dict[str, Callable[[_Pattern], None]]] = {
    "large": _large,
    "structuring": _structuring,
    "round": _round,
    "burst": _burst,
    "rapid": _rapid,
    "fan_in": _fan_in,
    "fan_out": _fan_out,
    "spike": _spike,
    "new": _new,
    "risky": _risky,
    "repeated": _repeated,
}
