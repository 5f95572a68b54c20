"""What a person sees of a pipeline: a bar while it runs, the inferred contract, and a summary at the end.

Owns: the words. Leaves to `progress` drawing, and to `shell.pipelines` the figures. All of it goes to standard error:
standard output may be the pipeline's output.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from tidewaiter.core.invisible import visible
from tidewaiter.shell.commands.progress import Bar

if TYPE_CHECKING:
    from pathlib import Path

    from tidewaiter.shell.pipelines.result import PipelineResult
    from tidewaiter.shell.pipelines.running import Watch


class PipelineBar(Bar):
    """A progress bar over the bytes of the input."""

    def show(self, *, bytes_read: int, bytes_total: int, records: int, rejected: int) -> None:
        """Redraw, unless that was done a moment ago."""
        self._total = max(bytes_total, 1)
        if self._first is None:
            self._first, self._first_at = 0, self._began
        if self._is_time() or bytes_read >= bytes_total:
            self._draw_bar(bytes_read, f"{records:,} records  {rejected:,} rejected{self._left(bytes_read)}")


class Shown:
    """What `running` tells on the way, for a person; `bar` None where nobody looks."""

    def __init__(self, bar: PipelineBar | None, *, quiet: bool) -> None:
        self._bar, self._quiet = bar, quiet

    def inferred(self, contract: str, saved: str) -> None:
        """Print the contract that was inferred; `saved` is the file it was written to, or nothing."""
        if self._quiet:
            return
        after = f"it will be in {visible(saved)} when the run has succeeded: use it with --contract"
        where = after if saved else "keep it with --save-contract FILE"
        _say(f"No contract was given; this one was inferred ({where}):\n\n{contract.rstrip()}\n")

    def progressed(self, *, bytes_read: int, bytes_total: int, records: int, rejected: int) -> None:
        """Draw how far the reading is."""
        if self._bar is not None:
            self._bar.show(bytes_read=bytes_read, bytes_total=bytes_total, records=records, rejected=rejected)

    def recovered(self, text: str) -> None:
        """Tell about a run before that died."""
        if not self._quiet:
            _say(text)

    def warned(self, text: str) -> None:
        """Tell what may be wrong with the input."""
        if not self._quiet:
            _say(f"tidewaiter: warning: {text}")

    def close(self) -> None:
        """Leave the last state standing."""
        if self._bar is not None:
            self._bar.close()


def watcher(*, quiet: bool) -> Shown:
    """Return what shows the run: a bar only where a person looks at a terminal."""
    watched = not quiet and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return Shown(PipelineBar() if watched else None, quiet=quiet)


def show_result(result: PipelineResult, *, quiet: bool) -> None:
    """Print errors and warnings always, rejections and the summary unless `quiet`."""
    if not quiet:
        _show_rejections(result)
    for error in result.errors:
        _say(f"tidewaiter: {' '.join(error.split())}")
    for warning in result.warnings:
        _say(f"tidewaiter: warning: {' '.join(warning.split())}")
    if not quiet:
        _say(_summary(result))


def _show_rejections(result: PipelineResult) -> None:
    # the first one of a halted run is the error itself
    halted = bool(result.errors and result.rejections and result.errors[0].startswith(result.rejections[0]))
    several = result.rejections[1:] if halted else result.rejections
    for each in several:
        _say(f"rejected: {visible(each)}")
    rest = result.rejected_records - len(result.rejections)
    if rest > 0:
        _say(f"rejected: {rest:,} more")


def _summary(result: PipelineResult) -> str:
    lines = []
    if result.success and result.steps:
        width = max(len(step.name) for step in result.steps)
        if unread := result.input_records - result.steps[0].records_in:
            counts = f"{result.input_records:,} in, {result.steps[0].records_in:,} out, {unread:,} rejected"
            lines.append(f"  {'read':<{width}}  {counts}")
        for step in result.steps:
            counts = f"{step.records_in:,} in, {step.out:,} out"
            gone = [f"{step.removed:,} removed"] * bool(step.removed) + [f"{step.rejected:,} rejected"] * bool(
                step.rejected
            )
            lines.append(f"  {step.name:<{width}}  {', '.join([counts, *gone])}")
    output, seconds = _name(result.output_path), result.duration_ms / 1000
    if result.success:
        counts = f"{result.input_records:,} records in, {result.output_records:,} out"
        counts += f", {result.removed_records:,} removed, {result.rejected_records:,} rejected, in {seconds:,.1f} s"
        lines.insert(0, counts)
        lines.append(f"{output}  SHA-256 {result.output_hash}")
        if result.rejected_path is not None:
            lines.append(f"{_name(result.rejected_path)}  the {result.rejected_records:,} rejected")
    else:
        what = "the new output is in place" if result.in_place else _previous(result.output_path)
        lines.append(f"failed after {result.input_records:,} records; {what}")
    if result.audit_path is not None:
        audit = _name(result.audit_path)
        lines.append(f"{audit}  run {result.run_id}; check it with: tidewaiter verify --audit {audit}")
    return "\n".join(lines)


def _name(path: Path | None) -> str:
    """Return a path on one line."""
    return visible(str(path))


def show_stopped(why: str, output: Path) -> None:
    """Tell that a run was stopped, and what there is of its output."""
    _say(f"tidewaiter: {why}; {_previous(output)}")


def _previous(output: Path | None) -> str:
    """Return what there is under the name of the output of a run that failed before it got there."""
    there = output is not None and str(output) != "-" and output.exists()
    return f"{_name(output)} is what it was before" if there else "there is no output"


def _say(text: str) -> None:
    sys.stderr.write("\n".join(map(visible, text.split("\n"))) + "\n")


if TYPE_CHECKING:
    _: type[Watch] = Shown
