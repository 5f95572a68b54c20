"""Made-up conditions and quantities over the contract `differential.toml`, as text that an analyst would write.

Owns: which constants, fields, metrics and parameters stand beside which, so that most of what is drawn is accepted.
Leaves to `naive_strategies` the tables of a ruleset around them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

Draw = Callable[[int], int]
"""Draws a whole number below the one given; 0 is the simplest."""
T = TypeVar("T")

NUMBERS: Final = {
    "amount": "money2", "units": "integer", "fee": "money3", "risk": "integer", "level": "integer", "trust": "integer",
}  # fmt: skip
TEXTS: Final = {
    "account": ("a", "b", "c"),
    "branch": ("x", "y"),
    "country": ("NO", "NL", "DE", "D"),
    "channel": ("web", "cash", "card"),
    "currency": ("EUR", "USD"),
    "party": ("a", "b", "n1"),
    "device": ("d1", "d2"),
}
ENUMS: Final = ("channel", "currency")
TRUTHS: Final = ("foreign", "verified")
OPTIONAL: Final = ("fee", "risk", "trust", "party", "device", "verified")
# The same few values stand in rules and in events, so that every comparison meets its boundary.
CONSTANTS: Final = {
    "integer": ("1", "0", "2", "3", "-1", "1"),
    "money2": ("10", "10.01", "0", "'20.00'", "50.5", "-5", "100"),
    "money3": ("0.001", "0.5", "1", "'1.125'"),
    "duration": ("'1s'", "'2s'", "'500ms'", "'5s'", "'0s'", "'1m'"),
}
COMPARISONS: Final = (">=", "<=", ">", "<", "!=", "==", ">=", "<=")


def pick(draw: Draw, options: Sequence[T]) -> T:
    """Draw one of `options`; the first is the simplest."""
    return options[draw(len(options))] if len(options) > 1 else options[0]


def chance(draw: Draw, one_in: int) -> bool:
    """Draw true once in `one_in` times."""
    return draw(one_in) == one_in - 1


@dataclass
class Params:
    """The parameters of one scenario: kind and TOML text of each; those in `fixed` no segment may override."""

    values: dict[str, tuple[str, str]] = field(default_factory=dict)
    fixed: set[str] = field(default_factory=set)

    def one(self, draw: Draw, kind: str) -> str:
        """Return a parameter of `kind`, an old or a new one."""
        known = [name for name, (its_kind, _) in self.values.items() if its_kind == kind]
        if known and chance(draw, 2):
            return f"p.{pick(draw, known)}"
        return f"p.{self.add(kind, param_value(draw, kind))}"

    def add(self, kind: str, value: str) -> str:
        """Return the name of a new parameter."""
        name = f"q{len(self.values)}"
        self.values[name] = kind, value
        return name

    def keep_used(self, texts: Sequence[str]) -> None:
        """Leave out what no text uses."""
        used = params_in(texts)
        self.values = {name: value for name, value in self.values.items() if name in used}


def params_in(texts: Sequence[str]) -> set[str]:
    """Return the names of the parameters that stand in `texts`."""
    return {name for text in texts for name in re.findall(r"\bp\.(\w+)", text)}


def param_value(draw: Draw, kind: str) -> str:
    """Draw a value for a parameter of `kind`, as TOML."""
    if kind.startswith("text:"):
        return f'"{pick(draw, TEXTS[kind.removeprefix("text:")])}"'
    text = pick(draw, CONSTANTS[kind]).strip("'")
    return text if kind == "integer" else f'"{text}"'


@dataclass(frozen=True)
class Words:
    """What a condition may use: names with their kinds, capped metrics with their caps, lists, and parameters."""

    numbers: dict[str, str] = field(default_factory=lambda: dict(NUMBERS))
    texts: dict[str, str] = field(default_factory=lambda: {name: name for name in TEXTS})
    truths: tuple[str, ...] = TRUTHS
    capped: dict[str, int] = field(default_factory=dict)
    lists: tuple[str, ...] = ()
    params: Params | None = None

    def always_there(self) -> Words:
        """Return these words without the fields that may be absent."""
        return replace(
            self,
            numbers={name: kind for name, kind in self.numbers.items() if name not in OPTIONAL},
            texts={name: pool for name, pool in self.texts.items() if name not in OPTIONAL},
            truths=tuple(name for name in self.truths if name not in OPTIONAL),
        )

    def with_earlier(self, fields: Words) -> Words:
        """Return these words and, as `a.x`, the `fields` of an earlier event."""
        return replace(
            self,
            numbers=self.numbers | {f"a.{name}": kind for name, kind in fields.numbers.items()},
            texts=self.texts | {f"a.{name}": name for name in fields.texts},
            truths=(*self.truths, *(f"a.{name}" for name in fields.truths if name in TRUTHS)),
        )


def condition(draw: Draw, words: Words, depth: int = 2) -> str:
    """Draw a condition."""
    shape = draw(8) if depth else 0
    if shape < 4:
        return _comparison(draw, words)
    if shape == 4:
        return f"not ({condition(draw, words, depth - 1)})"
    joined = " or " if shape == 7 else " and "
    return joined.join(f"({condition(draw, words, depth - 1)})" for _ in range(2))


def _comparison(draw: Draw, words: Words) -> str:
    sorts = ["number", "number", "number", "text", "truth"]
    sorts += ["list"] if words.lists else []
    sorts += ["capped"] * 2 if words.capped else []
    match pick(draw, sorts):
        case "number":
            return _of_numbers(draw, words)
        case "text":
            return _of_texts(draw, words)
        case "truth":
            return pick(draw, ("", "", "not ")) + pick(draw, words.truths)
        case "list":
            names = [name for name, pool in words.texts.items() if pool != "currency"]
            how = pick(draw, ("in", "not in"))
            return f"{pick(draw, names)} {how} list.{pick(draw, words.lists)}"
        case _:
            return _of_capped(draw, words)


def _of_capped(draw: Draw, words: Words) -> str:
    """Draw a comparison that saturation cannot change: with a constant below the cap."""
    name, cap = pick(draw, sorted(words.capped.items()))
    how = pick(draw, COMPARISONS)
    constant = draw(cap) + (how in {"<", ">="})
    if words.params is not None and chance(draw, 4):
        return f"{name} {how} p.{words.params.add('integer', str(constant))}"
    return f"{name} {how} {constant}"


def _of_numbers(draw: Draw, words: Words) -> str:
    kind = words.numbers[pick(draw, list(words.numbers))]
    left = quantity(draw, words, kind)
    if chance(draw, 8):
        low, high = (comparand(draw, words, kind) for _ in range(2))
        return f"{low} {pick(draw, ('<=', '<'))} {left} {pick(draw, ('<=', '<'))} {high}"
    if kind == "integer" and chance(draw, 12):
        return f"{left} {pick(draw, ('in', 'not in'))} (0, 1, {comparand(draw, words, kind, plain=True)})"
    how = pick(draw, COMPARISONS)
    right = comparand(draw, words, kind)
    return f"{right} {how} {left}" if chance(draw, 8) else f"{left} {how} {right}"


def comparand(draw: Draw, words: Words, kind: str, *, plain: bool = False) -> str:
    """Draw what stands on the other side: a constant, a parameter, or now and then another quantity."""
    sort = draw(8)
    if sort >= 4 and words.params is not None:
        return words.params.one(draw, kind)
    if sort == 3 and not plain:
        return quantity(draw, words, kind)
    return pick(draw, CONSTANTS[kind])


def quantity(draw: Draw, words: Words, kind: str) -> str:
    """Draw a quantity of `kind` with at least one name in it."""
    names = [name for name, its_kind in words.numbers.items() if its_kind == kind]
    name = pick(draw, names)
    shape = draw(12)
    if shape < 7:
        return name
    if shape == 7:
        return f"{name} + {pick(draw, names)}"
    if shape == 8:
        return f"{name} - {pick(draw, CONSTANTS[kind]).lstrip('-')}"
    if kind == "duration":
        return name
    if shape == 9:
        if words.params is not None and chance(draw, 3):
            return f"{name} * p.{words.params.add('integer', pick(draw, CONSTANTS['integer']))}"
        return pick(draw, (f"{name} * 2", f"3 * {name}", f"{name} * level", f"-1 * ({name} + {name})"))
    if shape == 10:
        if words.params is not None and chance(draw, 3):
            value = pick(draw, CONSTANTS[kind][:1]) if kind == "integer" else '"0.3"'
            return f"{name} % p.{words.params.add(kind, value)}"
        positive = [text for text in CONSTANTS[kind] if text[0] != "-" and text != "0"]
        return f"{name} % {pick(draw, positive)}"
    return f"-{name}"


def _of_texts(draw: Draw, words: Words) -> str:
    name = pick(draw, list(words.texts))
    pool = words.texts[name]
    shape = draw(8)
    if shape < 3:
        return f"{name} {pick(draw, ('==', '!='))} '{pick(draw, TEXTS[pool])}'"
    if shape == 3:
        chosen = [repr(pick(draw, TEXTS[pool])) for _ in range(2)]
        if words.params is not None and chance(draw, 2):
            chosen[0] = words.params.one(draw, f"text:{pool}")
        return f"{name} {pick(draw, ('in', 'not in'))} ({', '.join(dict.fromkeys(chosen))},)"
    same = [
        other
        for other, its_pool in words.texts.items()
        if (its_pool == pool if pool in ENUMS else its_pool not in ENUMS)
    ]
    if shape >= 6 and words.params is not None:
        return f"{name} {pick(draw, ('==', '!='))} {words.params.one(draw, f'text:{pool}')}"
    return f"{name} {pick(draw, ('==', '!='))} {pick(draw, same)}"
