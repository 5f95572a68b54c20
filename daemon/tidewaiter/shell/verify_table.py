"""What a verification would have noticed, and what not: attacks by how far something outside stands against them.

Owns: the table. It says only what follows from the anchors of this one verification; that nothing was found is the
business of `shell.verify`.

The attacker is whoever can write the state directory. He can compute chain, tree and tiles anew over anything; what he
cannot do is sign with a key he has not, or change what somebody else holds.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from tidewaiter.shell.verify_trust import Anchors

COVERED: Final = "covered"
UP_TO: Final = "covered only up to"
NOT_COVERED: Final = "not covered"
ENTRY_ATTACKS: Final = ("edit", "insertion", "deletion", "reorder")
ATTACKS: Final = (*ENTRY_ATTACKS, "truncation", "rollback", "stolen-key rewrite", "fork", "back-dating")


class Row(Struct, frozen=True):
    """One attack. `covered` is one of the three; `entries` says up to where, None where that says nothing."""

    attack: str
    covered: str
    entries: int | None
    why: str


def table(anchors: Anchors) -> list[Row]:
    """Return one row for each attack."""
    return [
        *(_entries(attack, anchors) for attack in ENTRY_ATTACKS),
        *(_backwards(attack, anchors) for attack in ("truncation", "rollback")),
        _rewrite(anchors),
        _fork(anchors),
        _back_dating(anchors),
    ]


def _row(attack: str, reached: int | None, size: int, why: str, otherwise: str) -> Row:
    if not reached:
        return Row(attack, NOT_COVERED, None, otherwise)
    if reached >= size:
        return Row(attack, COVERED, size, why)
    return Row(attack, UP_TO, reached, f"{why}; nothing stands for what comes behind")


def _entries(attack: str, anchors: Anchors) -> Row:
    by = []
    if anchors.pinned is not None:
        by.append("the pinned key signed the tree of these entries" if "since" not in anchors.given else
                  "a key that the held checkpoint vouches for signed the tree of these entries")  # fmt: skip
    if anchors.held is not None:
        by.append(f"the held checkpoint fixes the first {anchors.held}")
    if anchors.witnessed is not None:
        by.append(f"witnesses cosigned the first {anchors.witnessed}")
    unsigned = "the keys are the directory's own: whoever writes there can put in his and sign anew"
    if anchors.alone:
        unsigned = "nothing outside the file stands for it: whoever writes it can compute the chain anew"
    elif anchors.signed is None:
        unsigned = "no signature stands for the log: whoever writes there can compute chain and tree anew"
    return _row(attack, anchors.outside, anchors.size, ", ".join(by), unsigned)


def _backwards(attack: str, anchors: Anchors) -> Row:
    what = "cut back" if attack == "truncation" else "put back"
    if anchors.held:
        why = f"the held checkpoint needs {anchors.held} entries to be there"
        return _row(attack, anchors.held, anchors.size, why, "")
    if anchors.witnessed is not None:
        why = (
            f"the newest cosignature is of {_time(anchors.witnessed_at)}: a log {what} shows an old one; the witnesses "
            "know the newest, and with it --since decides"
        )
        return Row(attack, UP_TO, anchors.witnessed, why)
    why = (
        f"a directory {what} to an older signed checkpoint looks as it did then; a newer one, held elsewhere, shows it"
    )
    if anchors.alone:
        why = f"a file {what} to an earlier entry looks as it did then; a copy or its head, kept elsewhere, shows it"
    return Row(attack, NOT_COVERED, None, why)


def _rewrite(anchors: Anchors) -> Row:
    reached = max((each for each in (anchors.held, anchors.witnessed) if each is not None), default=None)
    by = "the held checkpoint" if anchors.held and reached == anchors.held else "a cosigned checkpoint"
    return _row(
        "stolen-key rewrite", reached, anchors.size, f"a rewrite of these entries contradicts {by}",
        "no key signs a file alone: whoever can write it can rewrite it"
        if anchors.alone
        else "who has the key can sign a rewritten log; only a checkpoint held elsewhere, or witnesses, show it",
    )  # fmt: skip


def _fork(anchors: Anchors) -> Row:
    reached = max((each for each in (anchors.held, anchors.witnessed) if each is not None), default=None)
    by = (
        "whoever gave the held checkpoint sees the same log"
        if anchors.held and reached == anchors.held
        else "the witnesses cosign one log of this name"
    )
    return _row(
        "fork", reached, anchors.size, by,
        "two files that begin alike can go on otherwise; only comparing with what others were shown tells"
        if anchors.alone
        else "one key can sign two logs that differ; only comparing with what others were shown tells",
    )  # fmt: skip


def _back_dating(anchors: Anchors) -> Row:
    return _row(
        "back-dating", anchors.witnessed, anchors.size,
        "entries lie between cosignatures that carry the witnesses' own times, give or take a minute",
        f"times are those of the {'program that wrote the file' if anchors.alone else 'daemon'}; that they do not go "
        f"back was checked, {'nothing outside bounds them' if anchors.alone else 'cosignatures would bound them'}",
    )  # fmt: skip


def _time(seconds: int | None) -> str:
    return (
        "an unknown time" if seconds is None else f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%d %H:%M:%S} UTC"
    )
