"""What rules do for an event, counted: nothing here is timed, so neither caches nor a busy machine are in it.

Started as ``python -m bench_tool.rule_work JSON`` with the members of `Job`; prints one line of JSON. All rulesets see
the same events. From `counted_from` on the interpreter reports every bytecode of the compiled function, and of
whatever Python it calls, for one chunk of events in `one_in`; forgetting idle keys, which comes in bursts, is counted
behind every chunk. Counted too are the elements that shortening a list moves, which is one bytecode however many they
are, and the functions in C that are called: a name tells which of them take the same time whatever they are
called on. What a slice or a type's name copies (``list(x)``) is not seen, nor what ``x in held`` looks at.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections import Counter
from dis import opmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from bench_tool.in_process import Rules, contract_of
from bench_tool.made_transfers import Rounds
from tidewaiter.core.scenarios import load_ruleset

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

_SHORTENING: Final = {opmap[name] for name in ("DELETE_SUBSCR", "STORE_SUBSCR", "STORE_SLICE") if name in opmap}
"""What can make a list shorter; from 3.12 on ``held[:n] = []`` has a bytecode of its own."""


class Job(msgspec.Struct):
    """Rulesets by name, as TOML texts over the contract in the file `contract`."""

    contract: str
    rulesets: dict[str, str]
    rounds: Rounds
    counted_from: int
    one_in: int = 1


class Work:
    """Counts what Python does inside a ``with`` block, in the functions that are called there."""

    def __init__(self) -> None:
        """Count nothing yet."""
        self.bytecodes = 0
        self.moved = 0
        self.called: Counter[str] = Counter()
        self._before: list[tuple[list[Any], int]] = []

    def __enter__(self) -> Self:
        """Begin."""
        frame = inspect.currentframe()
        assert frame is not None  # noqa: S101 - CPython has them
        frame.f_trace_opcodes = True  # 3.12 reports bytecodes of any frame only where one asked before
        sys.setprofile(self._call)
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        sys.settrace(None)
        sys.setprofile(None)

    def _call(self, frame: FrameType, event: str, called: Any) -> None:  # noqa: ANN401 - any built-in function
        if event == "c_call" and frame.f_code not in _OWN:
            self.called[called.__qualname__] += 1

    def _enter(self, frame: FrameType, _: str, __: object) -> Callable[..., Any] | None:
        if frame.f_code in _OWN:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: FrameType, event: str, _: object) -> Callable[..., Any]:
        if self._before:
            self.moved += sum(len(held) for held, length in self._before if len(held) < length)
            self._before = []
        if event == "opcode":
            self.bytecodes += 1
            if frame.f_code.co_code[frame.f_lasti] in _SHORTENING:
                # what is shortened is on the stack, which cannot be seen; it is the variable that gets shorter
                self._before = [(held, len(held)) for held in frame.f_locals.values() if held.__class__ is list]
        return self._step


_OWN: Final = (Work.__enter__.__code__, Work.__exit__.__code__)


def main(arguments: Sequence[str]) -> int:
    """Evaluate, then tell what each ruleset did for an event."""
    job = msgspec.json.decode(arguments[0], type=Job)
    print(json.dumps(counted(job)))
    return 0


def counted(job: Job) -> dict[str, dict[str, Any]]:
    """Evaluate, and return what each ruleset did for an event."""
    contract = contract_of(Path(job.contract))
    rules = {name: Rules(load_ruleset(text.encode(), name, contract)) for name, text in job.rulesets.items()}
    evaluating = {name: Work() for name in rules}
    forgetting = {name: Work() for name in rules}
    done = all_counted = some_counted = 0
    for number, chunk in enumerate(job.rounds.chunks()):
        events = contract.decoder.decode_lines(chunk)
        times = [event.booked_at for event in events]
        cents = [int(event.amount * 100 + 0.5) for event in events]
        counting = done >= job.counted_from
        some = counting and number % job.one_in == 0
        for name, each in rules.items():
            columns = [cents] * len(each.ruleset.money_columns)
            if some:
                with evaluating[name]:
                    each.evaluate(events, times, *columns)
            else:
                each.evaluate(events, times, *columns)
            if counting:
                with forgetting[name]:
                    each.state.forget_some(times[-1])
            else:
                each.state.forget_some(times[-1])
        done += len(events)
        all_counted += counting * len(events)
        some_counted += some * len(events)
    return {
        name: {
            "bytecodes": evaluating[name].bytecodes / some_counted,
            "moved": evaluating[name].moved / some_counted,
            "forgetting": (forgetting[name].bytecodes + forgetting[name].moved) / all_counted,
            "called": sorted({*evaluating[name].called, *forgetting[name].called}),
            "events": some_counted,
        }
        for name in rules
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
