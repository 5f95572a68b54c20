"""Rulesets with a stream each, for tests that disturb a run: the AML pack, and one with every construct.

Owns: the streams, with lines in them that are rejected; runs over them in this process; and what must be the same after
a disturbance. Leaves to the tests what disturbs.
"""

from __future__ import annotations

import datetime as dt
import json
import random
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import aml_pack
from rigs import daemon
from rigs.compare import projection_bytes
from rigs.daemon import make_settings
from rigs.tmpfs import quick_directory
from support import REPOSITORY
from tidewaiter.core.contract import compile_contract
from tidewaiter.core.errors import EXIT_CLEAN, TidewaiterError
from tidewaiter.core.scenarios import load_ruleset
from tidewaiter.shell.generate_file import GenerateOptions, generate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tidewaiter.core.contract import Contract
    from tidewaiter.core.scenarios import Ruleset
    from tidewaiter.edges.durable import Disk
    from tidewaiter.shell.settings import Settings

FOLDER: Final = REPOSITORY / "tests" / "contracts"
PROJECTIONS: Final = ("flags", "suppressed", "shadow_flags", "rejections")


@dataclass(frozen=True)
class Scene:
    """A contract, a ruleset with its lists, and a stream."""

    name: str
    contract: Path
    rules: Path
    lists: tuple[str, ...]
    events: int

    @property
    def lines(self) -> tuple[bytes, ...]:
        """The stream, each line with its newline; about every fifteenth is rejected."""
        return _lines(self)

    @property
    def data(self) -> bytes:
        """The stream."""
        return b"".join(self.lines)

    def load(self) -> tuple[Contract, Ruleset]:
        """Return contract and ruleset."""
        contract = compile_contract(self.contract.read_bytes(), str(self.contract))
        files = {name: (self.rules.parent / name).read_bytes() for name in self.lists}
        return contract, load_ruleset(self.rules.read_bytes(), str(self.rules), contract, files)

    def options(self, **changes: Any) -> dict[str, Any]:
        """Return what settings are made of, apart from stream and state directory; as JSON."""
        return {"contract": str(self.contract), "rules": str(self.rules), **changes}

    def settings(self, stream: Path, state: Path, **changes: Any) -> Settings:
        """Return settings for a run in `state`."""
        return make_settings(stream, state, **self.options(**changes))

    def succeed(self, stream: Path, state: Path, disk: Disk | None = None, **changes: Any) -> None:
        """Run to the end."""
        daemon.succeed(self.settings(stream, state, **changes), disk)

    def config(self, place: Path, stream: Path, state_dir: Path, **changes: str) -> Path:
        """Write a configuration file in `place`, and return its path."""
        file = daemon.write_config(place, stream, state_dir, **changes)
        text = file.read_text(encoding="utf-8").replace('"json"', '"none"')
        for copied, named in (("contract.toml", self.contract), ("rules.toml", self.rules)):
            (place / copied).unlink()
            text = text.replace(f'"{copied}"', f'"{named}"')
        file.write_text(text, encoding="utf-8")
        return file


PACK: Final = Scene("pack", aml_pack.CONTRACT, aml_pack.RULES, aml_pack.LISTS, 400)
EVERY: Final = Scene(
    "every construct",
    FOLDER / "every_construct.toml",
    FOLDER / "every_construct_rules.toml",
    ("lists/every_watched.txt", "lists/every_devices.csv", "lists/every_partner.txt"),
    280,
)
SCENES: Final = (PACK, EVERY)


# -- streams -----------------------------------------------------------------------------------------------------------


@cache
def _lines(scene: Scene) -> tuple[bytes, ...]:
    events = _transfers(scene.events) if scene.name == "pack" else list(_made_up(scene.events))
    # several bytes for a character of the key, which a chunk can split
    return tuple(spoilt([line.replace(b'"account": "', '"account": "ü🌊'.encode()) for line in events]))


def _transfers(events: int) -> list[bytes]:
    with quick_directory() as place:
        generate(GenerateOptions(out=place / "s", events=events, users=8, seed=1, profile="transfers-demo"))
        return (place / "s").read_bytes().splitlines(keepends=True)


def spoilt(lines: Sequence[bytes]) -> list[bytes]:
    """Return the lines with some among them that are rejected: broken, not a valid event, known already, late."""
    found: list[bytes] = []
    late: dict[int, bytes] = {}
    for number, line in enumerate(lines):
        if number in late:
            found.append(late.pop(number))
        match number % 59:
            case 13:
                found.append(line[: len(line) // 2] + b"\n")
            case 29:
                found.append(line.replace(b'"amount": ', b'"amount": 99999999999', 1))
            case 41:
                found.append(lines[number - 1])
            case 53:
                late[number + 6] = line
                continue
        found.append(line)
    return found


def _made_up(events: int) -> Iterator[bytes]:
    """Yield events of busy and idle times over two local midnights, with much that is absent."""
    rng = random.Random(20260310)
    midnight = dt.datetime(2026, 3, 10, tzinfo=dt.UTC) - dt.timedelta(hours=5, minutes=45)
    time = midnight - dt.timedelta(seconds=240)
    for number in range(events):
        pause = rng.choice((0, 0, 1000, 1000, 500, 2000, 5000, 10_000))
        if number % 83 == 82:
            pause = rng.choice((60_000, 200_000))
        if number == events * 2 // 3:
            pause = 86_400_000 - 700_000
        time += dt.timedelta(milliseconds=pause)
        event: dict[str, Any] = {
            "id": f"e{number}",
            "at": time.isoformat(timespec="milliseconds"),
            # one of them is busy, one rare
            "account": rng.choice("aaaaaaaaabbbcc" + "ddde" * (number > 90)),
            "branch": rng.choice("xy"),
            "country": rng.choice(("NO", "NL", "DE", "p3")),
            "channel": rng.choice(("web", "cash", "card")),
            "currency": rng.choice(("EUR", "EUR", "EUR", "USD")),
            "amount": rng.choice((10.0, 20.0, 50.5, -5.0, 100.0, 9.99, 300.0, rng.randrange(1, 90_000) / 100)),
            "units": rng.randrange(-9, 10),
            "foreign": rng.random() < 0.3,
            "verified": rng.choice((True, False, None)),
            "party": rng.choice((*(f"p{party}" for party in range(9)), None, None)),
            "fee": rng.choice((0.5, 0.501, 1.125, 7.0, None)),
            "risk": rng.choice((1, 2, 0, -1, 5, None, None)),
            "level": rng.choice((1, 0, 2, 3, None)),
            "meta": rng.choice((None, {}, {"device": {"id": "d1x"}, "trust": 1}, {"device": {"id": "d-é"}, "trust": 4},
                                {"device": {"id": "d2"}, "trust": rng.randrange(9)})),
        }  # fmt: skip
        kept = {name: value for name, value in event.items() if value is not None or (name == "party" and number % 2)}
        yield json.dumps(kept).encode() + b"\n"


def accepted(scene: Scene, state: Path) -> list[tuple[int, bytes]]:
    """Return the lines that `state` has not rejected, without newlines, each with its offset."""
    rejected = {json.loads(line)["offset"] for line in projection_bytes(state, "rejections").splitlines()}
    found, offset = [], 0
    for line in scene.lines:
        if offset not in rejected:
            found.append((offset, line.rstrip(b"\n")))
        offset += len(line)
    return found


# -- what must be the same ---------------------------------------------------------------------------------------------


def insufficient(state: Path) -> dict[str, int]:
    """Return the cumulated counts of the checkpoint; they must be the sums of the batches'."""
    total: dict[str, int] = {}
    for commit in daemon.entries(state, "batch.committed"):
        for name, number in commit["insufficient"].items():
            total[name] = total.get(name, 0) + number
    found: dict[str, int] = json.loads((state / "checkpoint.json").read_bytes())["insufficient"]
    assert found == total
    return found


def totals(state: Path) -> dict[str, int]:
    """Return the cumulated counts of the last commit."""
    found: dict[str, int] = json.loads((state / "checkpoint.json").read_bytes())["commit"]["totals"]
    return found


def assert_same(state: Path, whole: Path) -> None:
    """Assert that projections and counts are those of the undisturbed run, and that the audit log agrees."""
    daemon.assert_same(state, whole)
    assert insufficient(state) == insufficient(whole)
    assert totals(state) == totals(whole)


def finish(settings: Settings, whole: Path, name: str, problems: list[str]) -> None:
    """Start again, to the end, and note what is then missing or refused."""
    try:
        ended = daemon.run(settings)
        assert ended.status == EXIT_CLEAN, ended
        assert_same(settings.state.dir, whole)
    except (AssertionError, TidewaiterError, OSError, ExceptionGroup) as error:
        problems.append(f"{name}: {error!s:.600}")


def forget_snapshots(state: Path, keep_older: bool = False) -> None:
    """Remove the snapshots, or the newest one only: what came after has to be derived again."""
    found = sorted((state / "snapshots").iterdir())
    for path in found[-1:] if keep_older else found:
        path.unlink()
