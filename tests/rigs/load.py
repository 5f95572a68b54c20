"""The command line program killed at random moments while a writer appends to its stream and rotates it.

Owns: the writer, the kills (by `kill.random_kills`), the last start, which may end, and the stream as one file. Leaves
to the tests the configuration, and the comparison with a run that nobody disturbed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rigs import daemon
from rigs.kill import random_kills
from rigs.tree import Held, assert_prefixes, held
from support import COMMAND, cli_environment, run_cli, started_cli
from tidewaiter.core.errors import EXIT_CLEAN

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence
    from pathlib import Path


MANY = 10
"""So many kills leave time for a checkpoint between two of them."""


def killed_under_load(
    config: Path, live: Path, state: Path, rng: random.Random, *, kills: int, rate: int, generate: Sequence[str]
) -> list[Path]:
    """Kill the program at least `kills` times, also while it starts, then let it end; return the stream's files.

    They are in the order of the stream. Every checkpoint that somebody could have copied after a kill must be a prefix
    of the log at the end. The writer appends `rate` events a second to `live` and rotates it every two seconds, also
    while the program is down; `generate` are its further options.
    """
    live.parent.mkdir()
    live.touch()
    writing = [
        "generate", "--out", str(live), "--rate", str(rate), "--seconds", "100000", "--rotate-events", str(rate * 2),
        "--partial", "halves", *generate,
    ]  # fmt: skip
    command = [*COMMAND, "run", "--config", str(config)]
    copied: list[Held] = []
    began = time.monotonic()
    assert run_cli("run", "--config", config, "--once").returncode == EXIT_CLEAN
    startup = 1000 * (time.monotonic() - began)  # of this machine, as busy as it is
    with started_cli(*writing) as writer:

        def copy_checkpoints(_: int) -> None:
            copied.extend(held(state))

        outcomes = random_kills(
            command, kills, rng, startup * 0.6, startup + 1000, env=cli_environment(), between=copy_checkpoints
        )
        longest = startup + 2000

        def too_early() -> bool:  # where the machine is busier now than at the start, or faster than the writer rotates
            return daemon.actions(state)["batch.committed"] <= kills or not rotated(live)

        while too_early() and longest < 60_000:
            outcomes += random_kills(command, 1, rng, startup, longest, env=cli_environment())
            longest *= 1.5
        assert writer.poll() is None
    assert all(outcome.killed for outcome in outcomes), [outcome for outcome in outcomes if not outcome.killed]
    if not live.read_bytes().endswith(b"\n"):  # the writer was killed as well, perhaps inside a line
        with live.open("ab") as file:
            file.write(b"\n")
    assert daemon.actions(state)["batch.committed"] > kills, "the kills left no time to commit anything"
    ended = run_cli("run", "--config", config, "--once")
    assert ended.returncode == EXIT_CLEAN, ended.stderr
    assert copied or kills < MANY, "the kills left no time for a checkpoint"
    assert_prefixes(state, sorted(set(copied)))
    segments = rotated(live)
    assert segments, "nothing was rotated"
    return [*segments, live]


def rotated(live: Path) -> list[Path]:
    """Return the rotated segments of a stream, oldest first."""
    return sorted(live.parent.glob(f"{live.name}.*"), key=lambda path: -int(path.suffix[1:]))


def joined(files: Sequence[Path], path: Path) -> Path:
    """Write the files one after the other into `path`, which is returned."""
    path.parent.mkdir()
    path.write_bytes(b"".join(file.read_bytes() for file in files))
    return path
