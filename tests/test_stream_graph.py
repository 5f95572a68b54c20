"""The daemon's part of the lineage graph: what each run ran under, and what came of each part of the stream."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from rigs.daemon import entries, make_settings, make_stream, succeed
from rigs.kill import Launcher
from test_openlineage_daemon import die
from tidewaiter.shell.lineage import DEFAULT_NAME, LineageTracker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tidewaiter.core.lineage.records import LineageRecord


def records(state: Path) -> list[LineageRecord]:
    """Return the records of the graph, in the order of the file."""
    with LineageTracker(state / DEFAULT_NAME) as tracker:
        lines = (state / DEFAULT_NAME).read_bytes().splitlines()[1:]
        found = [tracker.get_lineage(json.loads(line)["lineage_id"]) for line in lines]
    return [each for each in found if each is not None]


def parts(state: Path, kind: str = "flags") -> list[tuple[str, str, str]]:
    """Return (run, what was read, what came of it) for each part with flags, or other things of that kind."""
    return [
        (each.run_id, each.source.location, each.destination.location)
        for each in records(state)
        if each.edge == "data" and each.destination.kind == kind
    ]


def run_ids(state: Path) -> list[str]:
    """Return the runs in order."""
    return [entry["run_id"] for entry in entries(state, "run.started")]


def totals(state: Path) -> dict[str, Any]:
    """Return the last batch.committed."""
    return entries(state, "batch.committed")[-1]


def test_a_run_tells_what_it_ran_under_and_what_came_of_the_stream(tmp_path: Path) -> None:
    """Contract, ruleset and audit log; the bytes read, the flags and the rejections that came of them."""
    stream = make_stream(tmp_path / "events.jsonl", 100)
    state = tmp_path / "state"
    succeed(make_settings(stream, state))
    (run,) = run_ids(state)
    batch = totals(state)
    size, flags = stream.stat().st_size, batch["projections"]["flags"]["length"]
    assert parts(state) == [(run, f"{stream}[0:{size}]", f"{state / 'flags.jsonl'}[0:{flags}]")]
    (made,) = [each for each in records(state) if each.destination.kind == "flags" and each.edge == "data"]
    assert (made.input_records, made.output_records) == (batch["totals"]["events_read"], batch["totals"]["flags"])
    under = {each.source.kind for each in records(state) if each.edge == "config" and each.destination.location == run}
    assert under == {"contract", "ruleset"}
    (by,) = [each for each in records(state) if each.destination == made.destination and each.edge == "config"]
    with LineageTracker(state / DEFAULT_NAME) as tracker:
        assert {each.source.kind for each in tracker.get_ancestors(by.lineage_id)} == {"contract", "ruleset"}


def test_a_second_run_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    """Its part begins there, its flags too, and its state comes from the run before; one that read nothing has none."""
    stream = make_stream(tmp_path / "events.jsonl", 100)
    state = tmp_path / "state"
    settings = make_settings(stream, state)
    first = stream.read_bytes()
    succeed(settings)
    stream.write_bytes(first + first)
    succeed(settings)
    succeed(settings)
    one, two, three = run_ids(state)
    found = parts(state, "slice")
    assert [(run, read) for run, read, _ in found] == [
        (one, f"{stream}[0:{len(first)}]"), (two, f"{stream}[{len(first)}:{2 * len(first)}]"),
    ]  # fmt: skip
    came_from = [
        (each.source.location, each.destination.location) for each in records(state) if each.source.kind == "run"
    ]
    assert {(one, two), (two, three)} <= set(came_from)


def test_each_segment_is_a_part_of_its_own(tmp_path: Path) -> None:
    """Told when the segment ends, by bytes of the whole stream: files change their names."""
    stream = make_stream(tmp_path / "events.jsonl", 60)
    old = stream.rename(tmp_path / "events.jsonl.1")
    make_stream(stream, 60, seed=8)
    state = tmp_path / "state"
    succeed(make_settings(stream, state))
    middle, end = old.stat().st_size, old.stat().st_size + stream.stat().st_size
    (run,) = run_ids(state)
    read = dict.fromkeys(source for each, source, _ in parts(state) + parts(state, "slice") if each == run)
    assert list(read) == [f"{stream}[0:{middle}]", f"{stream}[{middle}:{end}]"]


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    """A process that has imported the daemon."""
    with Launcher(["test_openlineage_daemon"]) as started:
        yield started


def test_what_a_run_that_died_had_read_is_told_at_the_next_start(tmp_path: Path, launcher: Launcher) -> None:
    """In the name of the run that read it."""
    stream = make_stream(tmp_path / "events.jsonl", 100)
    state = tmp_path / "state"
    die(launcher, tmp_path, "flags.jsonl", "flag_id", after=True)
    assert not parts(state)
    succeed(make_settings(stream, state))
    died, _ = run_ids(state)
    flags = totals(state)["projections"]["flags"]["length"]
    assert parts(state) == [(died, f"{stream}[0:{stream.stat().st_size}]", f"{state / 'flags.jsonl'}[0:{flags}]")]
