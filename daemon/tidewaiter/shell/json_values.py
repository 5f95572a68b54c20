"""Values that JSON can hold and give back as they were.

Owns: which these are, and what is said about others. Leaves to its callers where they are written.

Nothing is converted by guess: a Decimal, a date or a path is refused, for what is read back would be something else.
Tuples and mappings become lists and dicts; subclasses (an IntEnum, say) become what they are inside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

MAX_DEPTH: Final = 100


def plain(value: object, at: str, depth: int = 0) -> Any:  # noqa: ANN401 - JSON
    """Return `value` as None, bool, int, float, str, list and dict; `at` is its name in errors.

    Raises TypeError for what is no JSON, ValueError for numbers, texts and depths that JSON cannot hold.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"{at}: more than {MAX_DEPTH} levels deep, or it contains itself")
    match value:
        case None | bool():
            return value
        case int():
            return int(value)
        case float():
            if not math.isfinite(value):
                raise ValueError(f"{at}: {value} is no JSON number")
            return float(value)
        case str():
            return text(value, at)
        case list() | tuple():
            return [plain(item, f"{at}[{number}]", depth + 1) for number, item in enumerate(value)]
        case Mapping():
            return {_key(key, at): plain(item, f"{at}.{key}", depth + 1) for key, item in value.items()}
    raise TypeError(f"{at}: {type(value).__name__} is no JSON value: give it as text, a number, a list or a dict")


def text(value: object, at: str) -> str:
    """Return `value` as a plain str. Raises TypeError where it is none, ValueError where UTF-8 cannot hold it."""
    if not isinstance(value, str):
        raise TypeError(f"{at}: must be a text, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{at}: holds half of a surrogate pair at character {error.start}") from None
    return str.__str__(value)


def _key(key: object, at: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{at}: the key {key!r} is no text, as JSON needs it")
    return text(key, f"{at}: a key")
