"""The daemon's part of the lineage graph: what each run ran under, and what it made of each part of the stream.

Owns: which part is told when: at the end of a segment, at the end of a run, and for a run that died at the next start;
never per batch. Leaves to `shell.lineage_recording` what it becomes in the graph, to `shell.lineage` the file, and to
`shell.run_record` how far a run's lineage was told.

A part is named by its bytes of the whole stream, not of the file, for a file may have another name tomorrow. All of it
runs on the journal's thread. If we die between a record and the run log that knows of it, the next start tells a part
that overlaps: one record too many, never one too few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tidewaiter.shell.lineage import DEFAULT_NAME, LineageTracker
from tidewaiter.shell.lineage_recording import (
    Configured,
    Entry,
    Part,
    StreamRun,
    StreamSegment,
    record_stream_run,
    record_stream_segment,
)
from tidewaiter.shell.run_record import Traced, read_run_log

if TYPE_CHECKING:
    from tidewaiter.core.ledger import Ledger
    from tidewaiter.edges.durable import Disk
    from tidewaiter.edges.journal import Journal
    from tidewaiter.shell.governing import Governing
    from tidewaiter.shell.run_record import RunLog, RunRecord
    from tidewaiter.shell.settings import Settings

_FLAGS: Final = "flags"
_REJECTIONS: Final = "rejections"


class StreamGraph:
    """The lineage of one daemon's runs, in the state directory."""

    def __init__(self, disk: Disk, settings: Settings) -> None:
        self._disk = disk
        self._settings = settings
        self._state = settings.state.dir
        self._tracker: LineageTracker | None = None
        self._record: RunRecord | None = None

    def begin(self, journal: Journal, record: RunRecord, governing: Governing, previous: str) -> None:
        """Tell what a run that died had read, then what this one runs under; its state goes on from the `previous` one.

        Raises ConfigError and IntegrityRefusal for a file that is no lineage, DurabilityError.
        """
        tracker = self._tracker = LineageTracker(self._state / DEFAULT_NAME, disk=self._disk)
        self._record = record
        before = self._last_told(journal.run_id)
        if before is not None and before.traced is not None and before.closed_at is not None:  # it died
            self._tell(before.run_id, before.traced, journal.ledger)
        settings, ledger = self._settings, journal.ledger
        record_stream_run(
            tracker,
            StreamRun(
                run_id=journal.run_id,
                stream=str(settings.stream.path),
                contract=Configured(str(settings.contract), governing.contract.digest, governing.contract.label),
                ruleset=Configured(str(settings.rules), governing.ruleset.digest, governing.ruleset.name),
                lists=tuple(
                    Configured(str(settings.rules.parent / path), digest, path)
                    for path, digest in governing.decisions.lists.items()
                ),
                previous_run=previous,
                audit=self._entry(ledger),
            ),
        )
        record.trace(ledger)  # what was read before it is somebody else's
        record.open()

    def segment_ended(self, journal: Journal) -> None:
        """Tell what came of the stream up to the end of a segment, which has its entry. Raises DurabilityError."""
        record = self._record
        if record is None or record.log.traced is None:
            return
        self._tell(journal.run_id, record.log.traced, journal.ledger)
        record.trace(journal.ledger)
        record.open()

    def end(self, journal: Journal) -> None:
        """Tell the rest; the run log is written behind it. Raises DurabilityError."""
        record = self._record
        if record is None or record.log.traced is None:
            return
        self._tell(journal.run_id, record.log.traced, journal.ledger)
        record.trace(journal.ledger)

    def close(self) -> None:
        """Close the file."""
        if self._tracker is not None:
            self._tracker.close()

    def _last_told(self, own: str) -> RunLog | None:
        """Return the newest run before `own` that began to read: names of run logs begin with the time."""
        for path in sorted((self._state / "runs").glob("run_*.json"), reverse=True):
            log = read_run_log(self._state, path.stem.removeprefix("run_"))
            if log is not None and log.run_id != own and log.traced is not None:
                return log
        return None

    def _tell(self, run_id: str, since: Traced, ledger: Ledger) -> None:
        """Tell what came of the bytes from `since` on, if there are any."""
        tracker = self._tracker
        assert tracker is not None  # noqa: S101 - opened by `begin`
        if ledger.global_offset <= since.offset:
            return
        totals, before = ledger.totals, since.totals
        record_stream_segment(
            tracker,
            StreamSegment(
                run_id=run_id,
                read=Part(
                    str(self._settings.stream.path), since.offset, ledger.global_offset,
                    records=totals.events_read - before.events_read,
                ),
                flags=self._part(_FLAGS, since, ledger, totals.flags - before.flags),
                quarantine=self._part(_REJECTIONS, since, ledger, totals.rejected - before.rejected),
                audit=self._entry(ledger),
            ),
        )  # fmt: skip

    def _part(self, projection: str, since: Traced, ledger: Ledger, records: int) -> Part | None:
        first, last = since.lengths.get(projection, 0), ledger.mark(projection).length
        if last <= first:
            return None
        return Part(str(self._state / f"{projection}.jsonl"), first, last, records=records)

    def _entry(self, ledger: Ledger) -> Entry:
        return Entry(str(self._state / "audit"), ledger.index - 1, ledger.head)
