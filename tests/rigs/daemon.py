"""The whole daemon under a broken disk: small streams, runs to the end, and one that follows inside a test.

Owns: settings for a test, made directly; the streams, made by the product's own generator; running the supervisor with
a given `Disk` in this process, once (`once`) or following (`Following`); and reading what it left. Leaves to the tests
what breaks, and what must hold afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
import signal
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from rigs.compare import assert_same_projection, projection_bytes
from rigs.tree import assert_whole
from support import PATIENCE, REPOSITORY, wait_until_async
from tidewaiter.core import audit
from tidewaiter.core.errors import EXIT_CLEAN, TidewaiterError
from tidewaiter.core.screening import Policy
from tidewaiter.edges.durable import Disk
from tidewaiter.shell import skip as skipping
from tidewaiter.shell import supervisor
from tidewaiter.shell.generate_file import GenerateOptions, generate
from tidewaiter.shell.settings import LogPart, RunOptions, Settings, StatePart, StreamPart

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

CONTRACT: Final = REPOSITORY / "config" / "contracts" / "money_flow.toml"
RULES: Final = REPOSITORY / "config" / "rules" / "money_flow.toml"
ONCE: Final = "rigs.daemon:once"
"""`once` as a target of `rigs.kill`."""


# -- where, and what ---------------------------------------------------------------------------------------------------


def make_stream(path: Path, events: int, **options: Any) -> Path:
    """Write a stream of a few hot users, in which every twentieth line or so is rejected, and return its path.

    The names of users are not ASCII: every line has characters of several bytes, which a chunk can split.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    chosen = {"users": 12, "seed": 7, "bad": 0.03, "duplicates": 0.03, "disorder": 0.03, **options}
    generate(GenerateOptions(out=path, events=events, **chosen))
    path.write_bytes(path.read_bytes().replace(b'"user_id": "', '"user_id": "ü🌊'.encode()))
    return path


def make_settings(
    stream: Path, state: Path, *, segment_bytes: int = 256 << 20, batch_bytes: int = 1 << 20, **changes: Any
) -> Settings:
    """Return settings that quarantine everything, log to the file alone, and wait for nothing longer than needed.

    `changes` may be policy fields, or grace_us, poll_us, alarm_us, snapshot_events, rules, contract.
    """
    policy: dict[str, Any] = {"invalid": "quarantine", "duplicate": "quarantine", "order": "quarantine"}
    policy |= {name: changes.pop(name) for name in list(changes) if name in Policy.__struct_fields__}
    settings = Settings(
        stream=StreamPart(
            name="events",
            path=stream,
            rotate_grace_us=changes.pop("grace_us", 300_000),
            poll_interval_us=changes.pop("poll_us", 500_000),
            silence_alarm_us=changes.pop("alarm_us", None),
        ),
        contract=Path(changes.pop("contract", CONTRACT)),
        rules=Path(changes.pop("rules", RULES)),
        policy=Policy(**policy),
        state=StatePart(
            dir=state, segment_bytes=segment_bytes, snapshot_events=changes.pop("snapshot_events", 500_000)
        ),
        batch_bytes=batch_bytes,
        log=LogPart(level="debug", stderr="none"),
    )
    assert not changes, f"unknown: {changes}"
    return settings


# -- one run -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: exit status, and the message a user would read."""

    status: int
    message: str = ""


def run(settings: Settings, disk: Disk | None = None, **options: Any) -> Ended:
    """Read the stream to its end, as `tidewaiter run --once` does. What is no TidewaiterError goes on its way."""
    with ThreadPoolExecutor(1) as thread:  # the caller's thread may have an event loop of its own
        work = thread.submit(supervisor.run, settings, RunOptions(once=True, **options), disk=disk)
        try:
            return Ended(work.result())
        except TidewaiterError as error:
            return Ended(error.exit_code, str(error))


def once(disk: Disk, stream: str, state: str, options: dict[str, Any] | None = None, **changes: Any) -> int:
    """Do as `run`, with arguments that are JSON; the message goes to standard error."""
    ended = run(make_settings(Path(stream), Path(state), **changes), disk, **(options or {}))
    if ended.message:
        print(ended.message, file=sys.stderr)  # noqa: T201 - stands for the command line program
    return ended.status


def succeed(settings: Settings, disk: Disk | None = None, **options: Any) -> None:
    """Run to the end; the test fails if that is refused."""
    ended = run(settings, disk, **options)
    assert ended.status == EXIT_CLEAN, ended


def skip(settings: Settings, position: int, through: int | None = None) -> str:
    """Record the operator's decision about a pending halt, as `tidewaiter skip` does."""
    return skipping.skip(settings, position, through, "seen by a test", "tester")


# -- one that follows --------------------------------------------------------------------------------------------------


class Following:
    """A daemon that follows its stream on this event loop; leaving the block stops it as SIGTERM does."""

    def __init__(self, settings: Settings, disk: Disk | None = None) -> None:
        """It starts when the block is entered."""
        self.supervisor = supervisor._Supervisor(settings, RunOptions(), disk or Disk())
        self.settings = settings
        self._task: asyncio.Task[int] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.supervisor.run(), name="daemon")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._task is not None and not self._task.done():
            self.supervisor._stop(signal.SIGTERM)
            with contextlib.suppress(TidewaiterError) if kind is not None else contextlib.nullcontext():
                assert await asyncio.wait_for(self._task, 20) == EXIT_CLEAN

    @property
    def offset(self) -> int:
        """The bytes of the stream that are committed."""
        journal = self.supervisor.journal
        return journal.ledger.global_offset if journal is not None else 0

    async def reaches(self, offset: int, deadline: float = PATIENCE) -> None:
        """Wait until everything before `offset` is committed."""
        await self.until(lambda: self.offset >= offset, f"position {offset} (at {self.offset})", deadline)

    async def until(
        self, predicate: Callable[[], object], what: str = "the condition", deadline: float = PATIENCE
    ) -> None:
        """Wait for `predicate()`; fails at once with what ended the daemon."""

        def over() -> bool:
            assert self._task is not None
            return self._task.done() or bool(predicate())

        await wait_until_async(over, deadline, what)
        if not predicate():
            assert self._task is not None
            self._task.result()
            raise AssertionError(f"the daemon ended before {what}")

    async def ended(self, deadline: float = PATIENCE) -> Ended:
        """Wait until it ends by itself, and say how."""
        assert self._task is not None
        try:
            return Ended(await asyncio.wait_for(self._task, deadline))
        except TidewaiterError as error:
            return Ended(error.exit_code, str(error))


# -- what it left ------------------------------------------------------------------------------------------------------


def audit_lines(state: Path) -> list[bytes]:
    """Return the lines of the audit log in order."""
    segments = sorted((state / "audit").glob("audit-*.jsonl"))
    return [line for path in segments for line in path.read_bytes().splitlines(keepends=True)]


def entries(state: Path, *actions: str) -> list[dict[str, Any]]:
    """Return the audit entries with one of these actions, or all; a kill may have torn the last one."""
    found = [json.loads(line) for line in audit_lines(state) if line.endswith(b"\n")]
    return [entry for entry in found if not actions or entry["action"] in actions]


def actions(state: Path) -> Counter[str]:
    """Count the audit entries by action."""
    return Counter(entry["action"] for entry in entries(state))


def log_events(state: Path, *names: str) -> list[dict[str, Any]]:
    """Return the lines of the application log with one of these events, or all."""
    path = state / "log" / "tidewaiter.jsonl"
    lines = [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
    return [line for line in lines if not names or line["event"] in names]


def committed(state: Path) -> int:
    """Return the global offset in checkpoint.json."""
    commit = json.loads((state / "checkpoint.json").read_bytes())["commit"]
    return int(commit["offset"]) if commit else 0


def assert_consistent(state: Path) -> None:
    """Assert that the chain of the audit log is whole, and that it holds each line of the projections exactly once.

    The tree is over all of it: a run has ended here in order.
    """
    head, lines = audit.GENESIS, audit_lines(state)
    records: dict[str, list[bytes]] = {action: [] for action in audit.PROJECTIONS.values()}
    for index, line in enumerate(lines):
        entry = audit.read_head(line)
        assert entry is not None
        assert (entry.index, entry.prev) == (index, head)
        head = hashlib.sha256(line).hexdigest()
        if entry.action in records:
            records[entry.action].append(audit.record_of(line))
    for projection, action in audit.PROJECTIONS.items():
        assert b"".join(records[action]) == projection_bytes(state, projection), projection
    assert_whole(state)


def assert_same(got: Path, expected: Path) -> None:
    """Assert that flags and rejections are byte-identical to those of `expected`, and that the audit log agrees."""
    for projection in audit.PROJECTIONS:
        assert_same_projection(projection, got, expected)
    assert_consistent(got)


def none_of(problems: Sequence[str]) -> None:
    """Assert that there are no problems; the message has the first few."""
    assert not problems, "\n".join([f"{len(problems)} problems, the first:", *problems[:8]])


# -- with a configuration file -----------------------------------------------------------------------------------------


def write_config(place: Path, stream: Path, state_dir: Path, **changes: str) -> Path:
    """Write a configuration file with contract and rules beside it, in `place`, and return its path.

    `changes` are lines of TOML for a section: ``batch='max_bytes = "4KiB"'``. Everything is quarantined.
    """
    place.mkdir(parents=True, exist_ok=True)
    shutil.copy(CONTRACT, place / "contract.toml")
    shutil.copy(RULES, place / "rules.toml")
    sections = {
        "stream": f'name = "events"\npath = "{stream}"\nrotate_grace = "300ms"\npoll_interval = "200ms"',
        "contract": 'file = "contract.toml"',
        "rules": 'file = "rules.toml"',
        "policy": 'invalid = "quarantine"\nduplicate = "quarantine"\norder = "quarantine"',
        "state": f'dir = "{state_dir}"',
        "log": 'level = "debug"\nstderr = "json"',
    }
    for name, text in changes.items():
        sections[name] = f"{sections[name]}\n{text}" if name in sections else text
    file = place / "tidewaiter.toml"
    file.write_text("".join(f"[{name}]\n{text}\n\n" for name, text in sections.items()), encoding="utf-8")
    return file
