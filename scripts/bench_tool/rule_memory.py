"""What an engine holds for its keys: resident memory when empty, filled, idle, and filled again.

Started as ``python -m bench_tool.rule_memory JSON`` with the members of `Job`; prints one line of JSON. The engine runs
in process and forgets ids after a second of event time, so that nothing but keys grows. Keys go idle as in life:
afterwards one lone account has a transfer every hour of event time, and after each the sweep looks at as many
keys as after a batch of the daemon.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from bench_tool.daemon import MeasureFailed
from bench_tool.in_process import contract_of, parts, ruleset_of, settle
from bench_tool.made_transfers import Rounds
from tidewaiter.core.engine import Engine
from tidewaiter.core.framing import Block
from tidewaiter.core.screening import EPOCH, MICROSECOND, Policy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_SECOND_US: Final = 1_000_000
_HOUR_US: Final = 3600 * _SECOND_US
_LONER: Final = 9_999_999  # no account of the fill


class Job(msgspec.Struct):
    """What fills the engine, a file or rounds, and for how many days it is then left alone."""

    contract: str
    ruleset: str
    idle_days: int
    file: str | None = None
    rounds: Rounds | None = None


def resident() -> int:
    """Return the resident memory in bytes, once all that can be given back has been."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE


def main(arguments: Sequence[str]) -> int:
    """Fill, leave alone, fill with as many others, and tell."""
    job = msgspec.json.decode(arguments[0], type=Job)
    contract = contract_of(Path(job.contract))
    engine = Engine(contract, ruleset_of(Path(job.ruleset), contract), Policy(duplicate_horizon=_SECOND_US))
    settle()
    empty, events = _facts(engine), 0
    for data in _fill(job):
        events += data.count(b"\n")
        _feed(engine, data)
    filled = _facts(engine)
    if engine.screening.effective is None:
        raise MeasureFailed("nothing was fed")
    start = (engine.screening.effective - EPOCH) // MICROSECOND
    lone = Rounds(1, job.idle_days * 24, _HOUR_US, start_us=start + _HOUR_US, first_account=_LONER)
    for chunk in lone.chunks():
        for line in chunk.replace(b'"M', b'"L').splitlines(keepends=True):
            _feed(engine, line)
    idle = _facts(engine)
    answer = {"events": events, "empty": empty, "filled": filled, "idle": idle}
    if job.rounds is not None:
        later = start + (job.idle_days + 1) * 24 * _HOUR_US
        again = msgspec.structs.replace(job.rounds, start_us=later, first_account=job.rounds.accounts)
        for data in again.chunks():
            _feed(engine, data)
        answer["refilled"] = _facts(engine)
    print(json.dumps(answer))
    return 0


def _fill(job: Job) -> Iterator[bytes]:
    if job.file is not None:
        yield from (part.data for part in parts(Path(job.file)))
    if job.rounds is not None:
        yield from job.rounds.chunks()


def _feed(engine: Engine, data: bytes) -> None:
    done = engine.evaluate(Block(0, data), 0, "")
    if done.halt is not None:
        raise MeasureFailed(f"halted: {done.halt.reason}")
    engine.rules.forget_some(engine.screening.effective)


def _facts(engine: Engine) -> dict[str, Any]:
    cells = {cell.spec.label: cell.keys() for cell in engine.rules.cells.values()}
    return {"bytes": resident(), "blocks": sys.getallocatedblocks(), "keys": sum(cells.values()), "keys_of": cells}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
