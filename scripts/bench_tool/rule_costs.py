"""What rulesets cost alone: decoded transfers in, the time of the compiled function out.

Started as ``python -m bench_tool.rule_costs JSON`` with the members of `Job`; prints one line of JSON. All rulesets see
the same events, some hundred at a time and in changing order. Making, decoding and sweeping are not timed; the sweep is
done as the daemon does it. Only events from `timed_from` on count, so that windows are full.

A control may take turns with them: the least that anything has to do which remembers for each account what a window
holds. It has times, amounts and accounts of its own, so that neither side finds in the cache what the other fetched.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench_tool.in_process import Clock, Rules, contract_of, settle, turns
from bench_tool.made_transfers import Rounds
from tidewaiter.core.scenarios import load_ruleset

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tidewaiter.core.contract import Contract


class Control(msgspec.Struct, frozen=True):
    """A bare dictionary with, for each account, the times of its last so many events; with `amounts` these, too.

    `back` is how many events ago one was that is looked at again, as what enters a shifted window is; 0: none is.
    """

    held: int
    amounts: bool
    back: int = 0

    def what(self) -> str:
        """Return what an answer says about it."""
        things = "times and amounts" if self.amounts else "times"
        again = f" and looks at the one {self.back} before" if self.back else ""
        return f"a bare dictionary with a list of {self.held} {things} by account; each overwrites the oldest{again}"


class Job(msgspec.Struct):
    """Rulesets by name, as TOML texts over the contract in the file `contract`."""

    contract: str
    rulesets: dict[str, str]
    rounds: Rounds
    timed_from: int
    control: Control | None = None


class Remembering:
    """The control: looks its account's list up and overwrites the oldest in it; compares and adds up nothing."""

    columns = 1

    def __init__(self, control: Control) -> None:
        """Hold nothing yet."""
        self.clock = Clock()
        self._amounts, self._size = control.amounts, control.held * (1 + control.amounts)
        self._back = control.back * (1 + control.amounts)
        self._held: dict[str, list[Any]] = {}

    def evaluate(self, events: Sequence[Any], times: Sequence[datetime], cents: Sequence[int]) -> Sequence[Any]:
        """Remember some events; return that nothing was found."""
        held, size, amounts, back = self._held, self._size, self._amounts, self._back
        get = held.get
        for event, time, amount in zip(events, times, cents, strict=True):
            ring = get(event.account)
            if ring is None:
                held[event.account] = ring = [1] + [None] * size
            place = ring[0]
            ring[place] = time
            if amounts:
                place += 1
                ring[place] = amount
            if back:
                entering = place - back if place > back else place - back + size
                _seen = ring[entering - amounts : entering + 1]
            ring[0] = place + 1 if place < size else 1
        return ()


def main(arguments: Sequence[str]) -> int:
    """Evaluate, then tell the microseconds of each ruleset for an event, its hits and its keys."""
    job = msgspec.json.decode(arguments[0], type=Job)
    contract = contract_of(Path(job.contract))
    rules = {name: Rules(load_ruleset(text.encode(), name, contract)) for name, text in job.rulesets.items()}
    everyone: list[Rules | Remembering] = [*rules.values()]
    control = None if job.control is None else Remembering(job.control)
    if control is not None:
        everyone.append(control)
    hits = dict.fromkeys(rules, 0)
    settle()
    done = 0
    for number, chunk in enumerate(job.rounds.chunks()):
        read = _read(contract, chunk)
        its_own = read if control is None else _read(contract, chunk)
        timed = done >= job.timed_from
        for each in turns(number, everyone):
            events, times, cents = its_own if isinstance(each, Remembering) else read
            columns = [cents] * each.columns
            if timed:
                found = each.clock.timed(each.evaluate, events, times, *columns, events=len(events))
            else:
                found = each.evaluate(events, times, *columns)
            if isinstance(each, Rules):
                hits[each.ruleset.file] += len(found) if timed else 0
                each.state.forget_some(times[-1])
        done += len(read[0])
    answer: dict[str, dict[str, Any]] = {
        name: {**each.clock.facts(), "hits": hits[name], "keys": each.state.keys()} for name, each in rules.items()
    }
    if control is not None:
        answer["control"] = control.clock.facts()
    print(json.dumps(answer))
    return 0


def _read(contract: Contract, chunk: bytes) -> tuple[list[Any], list[datetime], list[int]]:
    """Return events with their times and amounts."""
    events = contract.decoder.decode_lines(chunk)
    return events, [event.booked_at for event in events], [int(event.amount * 100 + 0.5) for event in events]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
