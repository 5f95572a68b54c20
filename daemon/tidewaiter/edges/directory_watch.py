"""Telling cheaply that nothing happened in the stream's directory since it was listed.

Owns: the comparison of the directory's own times, and looking at a few files instead of all. Leaves listing to
`edges.survey`. Nothing here is believed for long: the directory is listed anyway every ten seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tidewaiter.edges import segment_files as files

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidewaiter.core.chain_of_segments import Member
    from tidewaiter.edges.survey import Survey

_RELIST_SECONDS: Final = 10.0  # file systems whose directory times cannot be relied on are found out in this time
_STAMP_MARGIN_NS: Final = 1_000_000_000  # a directory changed this recently may change again without showing it
_LATE_CHECKS: Final = 8  # closed segments looked at each time: a thousand in about a minute


class DirectoryWatch:
    """Compares the directory with the last listing. Non-blocking but for a handful of `stat` calls."""

    def __init__(self, survey: Survey, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._survey = survey
        self._clock = clock
        self._listed_at: float | None = None
        self._listed_wall = 0
        self._turn = 0

    def listed(self, wall: int) -> None:
        """Take note that the directory was listed; `wall` is the time of day before that, in nanoseconds."""
        self._listed_at = self._clock()
        self._listed_wall = wall

    def newest_size(self, newest: Member | None) -> int | None:
        """Return the size of the newest unread file (0 without one), or None: then the directory has to be listed."""
        if not self._names_unchanged() or self._a_closed_one_changed():
            return None
        if newest is None:
            return 0
        found = files.stat_file(self._survey.directory / newest.file.name)
        same = found is not None and (found.st_dev, found.st_ino) == newest.file.key
        return found.st_size if found is not None and same else None

    def _names_unchanged(self) -> bool:
        survey = self._survey
        stamp = survey.stamp
        return (
            stamp is not None
            and self._listed_at is not None
            and self._listed_wall - stamp[2] > _STAMP_MARGIN_NS
            and self._clock() - self._listed_at < _RELIST_SECONDS
            and not (survey.waiting_for or survey.copies)
            and files.directory_stamp(survey.directory) == stamp
        )

    def _a_closed_one_changed(self) -> bool:
        """Look at some of the closed segments, in turn: bytes that appear in one do not change the directory."""
        closed = list(self._survey.closed_files.values())
        for _ in range(min(_LATE_CHECKS, len(closed))):
            turn = (self._turn + 1) % len(closed)
            file = closed[turn].file
            found = files.stat_file(self._survey.directory / file.name)
            if found is not None and (found.st_size, found.st_mtime_ns) != (file.size, file.mtime_ns):
                return True
            self._turn = turn  # one that changed is found again by whoever asks next, until the files are listed
        return False
