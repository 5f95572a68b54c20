r"""The patterns that a contract may hold texts against, and why each of them is quick.

Owns: the small language of patterns, and its translation into what polars' engine and Python's read alike. Leaves to
`contract_fields` where a pattern may stand, and to `pipelines.validation` holding texts against it.

A pattern always describes the whole text: ``^`` and ``$`` at its ends are dropped. It consists of characters, escaped
punctuation, ``.`` (any character but a line feed), classes ``[A-Z_]``, ``\d \w \s`` (of ASCII), groups ``(…)`` and
``(?:…)``, ``|``, and the repeats ``? * + {m} {m,n} {m,}`` up to MAX_REPEAT. There is no looking around and no
referring back, which is what engines need that give no promise about time: pipelines match with polars' engine, whose
time grows with the length of the text only. Streams, whose engine backtracks, have no patterns.
"""

from __future__ import annotations

import re
from typing import Final

MAX_LENGTH: Final = 500
MAX_REPEAT: Final = 255
_PUNCTUATION: Final = r"[\[\]\\^$.|?*+(){}/\-#&~ \"'%@:;,<>=!_`]"
_MEMBER: Final = rf"(?:[^\[\]\\&~|\-\n]|\\{_PUNCTUATION})"
# a bare - stands first, last or between two characters: both engines then read it alike
_CLASS: Final = rf"\[\^?(?!\])-?(?:\\[dws]|{_MEMBER}(?:-{_MEMBER})?)*-?\]"
_TOKEN: Final = re.compile(
    rf"(?P<class>{_CLASS})|(?P<set>\\[dws])|(?P<escaped>\\{_PUNCTUATION})|(?P<open>\((?:\?:)?)(?!\?)|(?P<close>\))"
    r"|(?P<or>\|)|(?P<repeat>[?*+]|\{(?P<least>[0-9]{1,3})(?P<range>,(?P<most>[0-9]{1,3})?)?\})"
    r"|(?P<plain>[^\\\[\](){}?*+|^$])"
)
_SETS: Final = {r"\d": "0-9", r"\w": "A-Za-z0-9_", r"\s": r" \t\n\r\f\v"}
_SIGNS: Final = r"\.^$|?*+(){}[]/"
_SIGNS_IN_CLASS: Final = r"\^[]-&~|"
_ESCAPE: Final = re.compile(r"\\.")
_HINT: Final = (
    r"use characters, . [A-Z] \d \w \s ( ) (?: ) | and ? * + {m,n}; other marks are escaped: \. \^ \$; "
    "no looking around, no referring back"
)


class PatternError(ValueError):
    """A pattern that cannot be used; `at` is the character, `hint` what is allowed."""

    def __init__(self, problem: str, at: int, hint: str = _HINT) -> None:
        """`problem` says what is wrong there."""
        super().__init__(problem)
        self.at = at
        self.hint = hint


def plain_pattern(written: str) -> str:
    """Return `written` as both engines read it alike, anchored at both ends. Raises PatternError."""
    if not written or len(written) > MAX_LENGTH:
        raise PatternError("is empty or too long", 0, f"1 to {MAX_LENGTH} characters")
    start = 1 if written.startswith("^") else 0
    end = len(written)
    if written.endswith("$") and not _escaped(written, end - 1):
        end -= 1
    parts: list[str] = []
    depth, position, repeatable = 0, start, False
    grouped = True  # the whole pattern is one group: a pattern that went through here comes out the same
    while position < end:
        piece = _TOKEN.match(written, position, end)
        if piece is None:
            raise PatternError(f"{written[position]!r} cannot stand here", position)
        kind = piece.lastgroup if piece["repeat"] is None else "repeat"
        if kind == "repeat":
            if not repeatable:
                raise PatternError(f"{piece[0]!r} repeats nothing", position)
            _check_repeat(piece, position)
        depth += (kind == "open") - (kind == "close")
        grouped &= depth > 0 or (kind == "close" and piece.end() == end)
        if depth < 0:
            raise PatternError("')' closes nothing", position)
        repeatable = kind not in ("repeat", "open", "or")
        parts.append(_translated(str(kind), piece[0]))
        position = piece.end()
    if depth:
        raise PatternError("'(' is not closed", start)
    found = f"^{''.join(parts)}$" if grouped and parts else f"^(?:{''.join(parts)})$"
    try:
        re.compile(found)
    except re.error as error:
        raise PatternError(f"is no pattern: {error.msg}", max(start, (error.pos or 0) - 4 + start)) from None
    return found


def _escaped(text: str, place: int) -> bool:
    before = text[:place]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _check_repeat(piece: re.Match[str], position: int) -> None:
    least, most = piece["least"], piece["most"]
    if least is None:
        return
    if max(int(least), int(most or 0)) > MAX_REPEAT or (most is not None and int(most) < int(least)):
        raise PatternError(f"{piece[0]!r} cannot be counted", position, f"from few to many, at most {MAX_REPEAT}")


def _translated(kind: str, piece: str) -> str:
    match kind:
        case "set":
            return f"[{_SETS[piece]}]"
        case "open":
            return "(?:"
        case "class":
            return _ESCAPE.sub(lambda found: _SETS.get(found[0], _one(found[0][1], _SIGNS_IN_CLASS)), piece)
        case "escaped":
            return _one(piece[1], _SIGNS)
        case _:
            return piece


def _one(character: str, signs: str) -> str:
    """Return `character`, escaped only where it would be a sign: engines differ in what else they let be escaped."""
    return f"\\{character}" if character in signs else character
