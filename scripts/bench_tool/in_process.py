"""What the processes that hold an engine of their own have in common: loading it, feeding it, and reading the clocks.

Owns: an engine without daemon, disk and audit log, and the garbage collector's settings, which are the daemon's. Leaves
to the programs (`engine_run`, `rule_costs`, `rule_memory`) what they feed and time.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tidewaiter.core.contract import compile_contract
from tidewaiter.core.engine import PART_BYTES
from tidewaiter.core.framing import Block
from tidewaiter.core.scenarios import load_ruleset
from tidewaiter.core.scenarios.ruleset import list_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tidewaiter.core.contract import Contract
    from tidewaiter.core.scenarios import Ruleset

BLOCK_BYTES: Final = 1 << 20
Side = TypeVar("Side")


@dataclass
class Clock:
    """Seconds and processor seconds of what `timed` ran, and how many events that were."""

    wall: float = 0.0
    cpu: float = 0.0
    events: int = 0

    def timed(self, call: Callable[..., Any], *arguments: Any, events: int) -> Any:  # noqa: ANN401 - what it returns
        """Call, add what that took, and return what it returned."""
        began, began_cpu = time.perf_counter(), time.process_time()
        result = call(*arguments)
        self.cpu += time.process_time() - began_cpu
        self.wall += time.perf_counter() - began
        self.events += events
        return result

    def facts(self) -> dict[str, float]:
        """Return microseconds for each event."""
        each = 1e6 / max(self.events, 1)
        return {"wall_us": self.wall * each, "cpu_us": self.cpu * each, "events": self.events}


@dataclass
class Rules:
    """A ruleset with its state, without decoding and screening."""

    ruleset: Ruleset
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        """Start empty."""
        self.state = self.ruleset.new_state()
        self.evaluate = self.ruleset.bind(self.state)
        self.columns = len(self.ruleset.money_columns)


def settle() -> None:
    """Let the garbage collector be as it is in the daemon once that has started."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1_000)


def contract_of(file: Path) -> Contract:
    """Return the contract in `file`."""
    return compile_contract(file.read_bytes(), file.name)


def ruleset_of(file: Path, contract: Contract) -> Ruleset:
    """Return the ruleset in `file`, with its lists."""
    text = file.read_bytes()
    files = {name: (file.parent / name).read_bytes() for name in list_files(text, file.name)}
    return load_ruleset(text, file.name, contract, files)


def blocks(file: Path, size: int = BLOCK_BYTES) -> Iterator[Block]:
    """Yield the file as blocks of complete lines of about `size` bytes."""
    offset, rest = 0, b""
    with file.open("rb") as stream:
        while data := stream.read(size):
            end = data.rfind(b"\n") + 1
            if not end:
                rest += data
                continue
            block = Block(offset, rest + data[:end])
            rest = data[end:]
            offset += len(block.data)
            yield block


def parts(file: Path) -> Iterator[Block]:
    """Yield the file in the pieces that the engine decodes and evaluates at a time."""
    return blocks(file, PART_BYTES)


def turns(number: int, sides: Sequence[Side]) -> Sequence[Side]:
    """Return `sides` beginning with another one each time, so that none is always the one that warms the cache."""
    first = number % len(sides)
    return (*sides[first:], *sides[:first])
