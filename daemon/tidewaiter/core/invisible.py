"""Characters that nobody sees, or that change how those around them are seen.

Owns: which these are, and how they are written out. Leaves to its callers whether they refuse such a character or show
it. They are control characters, what ends lines, marks of writing direction, zero-width spaces, and halves of
surrogate pairs (what Python makes of bytes that are no UTF-8). The joiners U+200C and U+200D are none: words need them.
"""

from __future__ import annotations

import re
from typing import Final

INVISIBLE: Final = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060\\u2066-\\u2069\\ufeff\\ud800-\\udfff]"
)


def visible(text: str) -> str:
    r"""Return `text` with each such character written out, as ``\x1b`` or ``\u202e``."""
    return INVISIBLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
