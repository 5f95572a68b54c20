"""Numbers as JSON has them, taken by their digits: how large, how many decimals, and their exact decimal text.

Owns: the grammar of a number and its arithmetic on digits alone; no double and no rounding takes part. Leaves to
`json_lines_source` which column wants which.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from tidewaiter.core.pipelines.columns import PRECISION

_NUMBER: Final = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?\Z", re.ASCII)
_LARGEST_EXPONENT: Final = 10**7
"""Larger ones count as this: no column holds either."""


class Digits(NamedTuple):
    """A number: `significant` digits without zeros around them (none for zero), of which `scale` are decimals.

    A negative scale stands for zeros before the point.
    """

    sign: str
    significant: str
    scale: int

    @property
    def whole(self) -> int:
        """How many digits stand before the point, leading zeros not counted; 0 or less below 1."""
        return len(self.significant) - self.scale


def digits_of(text: str) -> Digits | None:
    """Return the number that `text` is; None where it is none."""
    match = _NUMBER.match(text)
    if match is None:
        return None
    sign, whole, decimals, exponent = match.groups(default="")
    digits = whole + decimals
    significant = digits.rstrip("0")
    scale = len(decimals) - (len(digits) - len(significant)) - _bounded(exponent)
    significant = significant.lstrip("0")
    return Digits(sign, significant, scale) if significant else Digits("", "", 0)


def _bounded(exponent: str) -> int:
    if not exponent:
        return 0
    size = exponent.lstrip("+-").lstrip("0")
    value = int(size or "0") if len(size) < len(str(_LARGEST_EXPONENT)) else _LARGEST_EXPONENT
    return -value if exponent.startswith("-") else value


def decimal_text(number: Digits, scale: int) -> str | None:
    """Return the number with exactly `scale` decimals; None if it has more, or is too large for a decimal column."""
    if number.scale > scale or number.whole + scale > PRECISION:
        return None
    units = (number.significant + "0" * (scale - number.scale)).zfill(scale + 1) if number.significant else "0"
    if not scale:
        return number.sign + units
    units = units.zfill(scale + 1)
    return f"{number.sign}{units[:-scale]}.{units[-scale:]}"
