"""Stream mode: where a slice ends, before a value that the output cannot hold, and when it is worth an entry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rigs.tmpfs import quick_directory
from test_pipeline_stream import CONTRACT, HEADER, STEPS, Ears, as_json, batch, commits, config, follow, records
from tidewaiter.core.errors import EXIT_HALTED
from tidewaiter.edges.durable import Disk
from tidewaiter.shell.pipelines.following import follow_pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def place() -> Iterator[Path]:
    """A quick directory with a contract and a pipeline file."""
    with quick_directory() as path:
        (path / "contract.toml").write_text(CONTRACT)
        (path / "steps.toml").write_text(STEPS)
        yield path


@pytest.mark.parametrize("bad", [0, 1, 22, 39])
def test_all_before_a_value_that_the_output_cannot_hold_is_committed(place: Path, bad: int) -> None:
    """CSV has no NUL: the run halts and names the record, with all records before it in the output, and none behind."""
    lines = [as_json(f"id-{number},1.00,1,note\n") for number in range(40)]
    (place / "in.jsonl").write_text("".join(lines[:bad]))
    expected = batch(place, input_path=place / "in.jsonl")
    lines[bad] = lines[bad].replace(':"note"', r':"no\u0000te"')
    (place / "in.jsonl").write_text("".join(lines))
    for taken in (bad, 0):
        result = follow(place, input_path=place / "in.jsonl", batch_bytes=1 << 20)
        assert (result.success, result.exit_code, result.input_records) == (False, EXIT_HALTED, taken)
        assert f"row {bad + 1}: note" in result.errors[0]
        assert (place / "out.csv").read_bytes() == expected


class Crank:
    """Time that passes only while the run pauses; during each pause one record is appended to the input."""

    def __init__(self, place: Path) -> None:
        self.now = 0.0
        self.paused: list[float] = []
        self._place = place
        self._lines = iter(records(90, bad=False, first=10))

    def append(self, count: int = 1) -> None:
        """Let the input grow."""
        with (self._place / "in.csv").open("a") as file:
            file.writelines(next(self._lines) for _ in range(count))

    async def pause(self, seconds: float) -> None:
        """Pass the time."""
        self.paused.append(seconds)
        self.now += seconds
        self.append()


def test_a_trickle_is_gathered_for_a_bounded_time(place: Path) -> None:
    """A record that comes less than 50 ms after a commit waits for the rest of that time: one entry for both."""
    (place / "in.csv").write_text(HEADER + "".join(records(10, bad=False)))
    crank = Crank(place)
    looks = 0

    def go_on() -> bool:
        nonlocal looks
        looks += 1
        if looks == 1:
            assert crank.paused == []  # the first slice was not waited for
            crank.now += 0.03
            crank.append()
        elif looks == 2:
            crank.now += 1.0
            crank.append()  # alone after a second: taken at once
        elif looks == 3:
            crank.append(60)  # more than a batch: taken at once
        return looks < 4

    result = follow_pipeline(
        config(place, batch_bytes=1024), watch=Ears(), disk=Disk(), go_on=go_on, clock=lambda: crank.now,
        pause=crank.pause,
    )  # fmt: skip
    assert result.success
    assert crank.paused[0] == pytest.approx(0.02)
    assert max(crank.paused) <= 0.051
    slices = [commit["input"] for commit in commits(place)[1:]]
    first = next(number for number, each in enumerate(slices) if each["before"] == 10)
    assert [each["records"] for each in slices[first : first + 2]] == [2, 1]
    assert slices[first + 2]["end"] - slices[first + 2]["begin"] > 512
    assert (place / "out.csv").read_bytes() == batch(place)
