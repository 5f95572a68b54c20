"""Audit entries as tables: the summary, and the CSV that a spreadsheet may open safely.

Owns: what is counted, the columns, and what is done to a cell that a spreadsheet would take for a formula. Leaves to
`shell.audit_entries` where entries come from, to `edges.durable` how a file appears as a whole.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from tidewaiter.edges.durable import Disk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from tidewaiter.shell.audit_entries import AuditEntry

COLUMNS: Final = (
    "index", "timestamp", "level", "run_id", "actor", "action", "entry_id", "stage", "status", "resource",
    "record_count", "input_hash", "output_hash", "duration_ms", "prev", "details",
)  # fmt: skip
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20", "'")
"""What a spreadsheet may take for the beginning of a formula (full-width forms too); and the apostrophe put before it,
so that taking one away from the front of a cell always gives what was logged."""
_PART: Final = 1000


class Durations(Struct, frozen=True):
    """How long the steps of an action took, in milliseconds."""

    count: int
    total_ms: float
    least_ms: float
    most_ms: float

    def plus(self, duration_ms: float) -> Durations:
        """Return it with one step more."""
        return Durations(
            self.count + 1,
            self.total_ms + duration_ms,
            min(self.least_ms, duration_ms),
            max(self.most_ms, duration_ms),
        )


_NONE_YET: Final = Durations(0, 0.0, float("inf"), 0.0)


class AuditSummary(Struct, frozen=True):
    """What an audit log holds. `durations` are by action.

    `unfinished` are the steps, as (run, stage, action), that were started and neither completed nor failed: they are
    running, or their process died.
    """

    entries: int
    first: dt.datetime | None
    last: dt.datetime | None
    by_status: dict[str, int]
    by_action: dict[str, int]
    by_run: dict[str, int]
    durations: dict[str, Durations]
    unfinished: list[tuple[str, str, str]]


def summarise(entries: Iterable[AuditEntry]) -> AuditSummary:
    """Count them."""
    statuses, actions, runs = Counter[str](), Counter[str](), Counter[str]()
    durations: dict[str, Durations] = {}
    begun = Counter[tuple[str, str, str]]()
    first = last = None
    for entry in entries:
        first, last = first or entry.timestamp, entry.timestamp
        actions[entry.action] += 1
        runs[entry.run_id] += 1
        if entry.status is not None:
            statuses[entry.status] += 1
        if entry.duration_ms is not None:
            durations[entry.action] = durations.get(entry.action, _NONE_YET).plus(entry.duration_ms)
        if entry.stage is not None:
            step = entry.run_id, entry.stage, entry.action
            begun[step] = max(begun[step] + (1 if entry.status == "started" else -1), 0)
    return AuditSummary(
        entries=actions.total(), first=first, last=last, by_status=dict(statuses), by_action=dict(actions),
        by_run=dict(runs), durations=durations, unfinished=[step for step, count in begun.items() if count],
    )  # fmt: skip


def export_csv(entries: Iterable[AuditEntry], path: Path, disk: Disk | None = None) -> int:
    """Write the CSV (RFC 4180) to `path`, all or nothing, and return how many entries it has. `details` is JSON."""
    count = 0

    def parts() -> Iterator[bytes]:
        nonlocal count
        for count, text in csv_parts((entry, _details(entry)) for entry in entries):  # noqa: B007 - the last one counts
            yield text.encode()

    (disk or Disk()).replace_parts(path, parts())
    return count


def csv_parts(entries: Iterable[tuple[AuditEntry, str]]) -> Iterator[tuple[int, str]]:
    """Yield the table in parts of a thousand entries, each with the number of entries up to its end.

    With each entry comes the JSON of its details, "" where it has none.
    """
    remaining = iter(entries)
    rows: list[Sequence[str]] = [COLUMNS]
    count = 0
    while rows:
        buffer = io.StringIO(newline="")
        csv.writer(buffer).writerows(rows)
        yield count, buffer.getvalue()
        rows = [
            [*(_cell(name, getattr(entry, name)) for name in COLUMNS[:-1]), details]
            for entry, details in islice(remaining, _PART)
        ]
        count += len(rows)


def _details(entry: AuditEntry) -> str:
    return msgspec.json.encode(entry.details).decode() if entry.details else ""


def _cell(name: str, value: Any) -> str:  # noqa: ANN401 - any member of an entry
    if value is None:
        return ""
    if name == "timestamp":
        return f"{value:%Y-%m-%dT%H:%M:%S.%f}Z"
    return formula_safe(value) if isinstance(value, str) else str(value)


def formula_safe(text: str) -> str:
    """Return a cell that no spreadsheet takes for a formula: with an apostrophe before it where it could."""
    return "'" + text if text.startswith(_FORMULA) else text
