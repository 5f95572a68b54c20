"""What a verification found: contradictions, files that are missing, and remarks.

Owns: the form of a finding and the list of them. Leaves to the rooms `verify_*` what is one, and to `shell.verify` what
follows for the exit code.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

TAMPERED: Final = "tampered"
MISSING: Final = "missing"
_FOREMOST: Final = (("chain", "time"), ("checkpoints", "tree"), ("signatures", "tiles", "checkpoint", "snapshots"))
LISTED: Final = 200
"""So many findings of one check are listed; the others are counted: one cut entry moves all that follow."""


class Finding(Struct, frozen=True, omit_defaults=True):
    """One contradiction (`tampered`), or one thing that cannot be checked because it is gone (`missing`).

    `index` is that of the audit entry, `offset` in bytes of `file`; None where there is none.
    """

    kind: str
    check: str
    what: str
    file: str
    index: int | None = None
    offset: int | None = None
    expected: str | None = None
    found: str | None = None


class Findings:
    """The findings so far, in the order they were made. `notes` are sentences that change no verdict."""

    def __init__(self) -> None:
        self.listed: list[Finding] = []
        self.notes: list[str] = []
        self._counts: dict[tuple[str, str], int] = {}

    def tampered(
        self,
        check: str,
        what: str,
        file: object,
        *,
        index: int | None = None,
        offset: int | None = None,
        expected: object = None,
        found: object = None,
    ) -> None:
        """Take a contradiction. `expected` and `found` are shown as they are."""
        texts = (None if each is None else str(each) for each in (expected, found))
        self.take(Finding(TAMPERED, check, what, str(file), index, offset, *texts))

    def missing(self, check: str, what: str, file: object, *, index: int | None = None) -> None:
        """Take something that is gone, so that it cannot be checked."""
        self.take(Finding(MISSING, check, what, str(file), index))

    def take(self, finding: Finding) -> None:
        """List a finding, or count it where very many of its check are listed."""
        key = (finding.kind, finding.check)
        self._counts[key] = number = self._counts.get(key, 0) + 1
        if number <= LISTED:
            self.listed.append(finding)

    def note(self, text: str) -> None:
        """Take a remark, once."""
        if text not in self.notes:
            self.notes.append(text)

    def count(self, kind: str) -> int:
        """Return how many findings of the kind there are, listed or not."""
        return sum(number for (each, _), number in self._counts.items() if each == kind)

    @property
    def unlisted(self) -> int:
        """How many findings are counted only."""
        return sum(self._counts.values()) - len(self.listed)

    @property
    def ordered(self) -> list[Finding]:
        """Contradictions before what is missing, those of the audit log itself before those of what follows from it."""
        return sorted(self.listed, key=lambda each: (each.kind != TAMPERED, _rank(each)))

    @property
    def first(self) -> Finding | None:
        """The contradiction with the lowest index among those that are nearest to the audit log."""
        found = [each for each in self.listed if each.kind == TAMPERED]
        return min(found, key=lambda each: (_rank(each), each.index is None, each.index or 0), default=None)


def _rank(finding: Finding) -> int:
    return next((rank for rank, checks in enumerate(_FOREMOST) if finding.check in checks), len(_FOREMOST))
