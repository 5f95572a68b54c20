"""What rulesets cost alone: decoded transfers in, the time of the compiled function out.

Started as ``python -m bench_tool.rule_costs JSON`` with the members of `Job`; prints one line of JSON. All rulesets see
the same events, some hundred at a time and in changing order. Making, decoding and sweeping are not timed; the sweep is
done as the daemon does it. Only events from `timed_from` on count, so that windows are full.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bench_tool.in_process import Rules, contract_of, settle, turns
from bench_tool.made_transfers import Rounds
from tidewaiter.core.scenarios import load_ruleset

if TYPE_CHECKING:
    from collections.abc import Sequence


class Job(msgspec.Struct):
    """Rulesets by name, as TOML texts over the contract in the file `contract`."""

    contract: str
    rulesets: dict[str, str]
    rounds: Rounds
    timed_from: int


def main(arguments: Sequence[str]) -> int:
    """Evaluate, then tell the microseconds of each ruleset for an event, its hits and its keys."""
    job = msgspec.json.decode(arguments[0], type=Job)
    contract = contract_of(Path(job.contract))
    rules = {name: Rules(load_ruleset(text.encode(), name, contract)) for name, text in job.rulesets.items()}
    everyone = list(rules.values())
    hits = dict.fromkeys(rules, 0)
    settle()
    done = 0
    for number, chunk in enumerate(job.rounds.chunks()):
        events = contract.decoder.decode_lines(chunk)
        times = [event.booked_at for event in events]
        cents = [int(event.amount * 100 + 0.5) for event in events]
        for each in turns(number, everyone):
            columns = [cents] * len(each.ruleset.money_columns)
            if done < job.timed_from:
                each.evaluate(events, times, *columns)
            else:
                found = each.clock.timed(each.evaluate, events, times, *columns, events=len(events))
                hits[each.ruleset.file] += len(found)
            each.state.forget_some(times[-1])
        done += len(events)
    answer = {
        name: {**each.clock.facts(), "hits": hits[name], "keys": each.state.keys()} for name, each in rules.items()
    }
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
