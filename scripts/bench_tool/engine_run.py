"""An engine over a file, in process: no daemon, no disk, no audit log.

Started as ``python -m bench_tool.engine_run FILE CONTRACT RULESET …``; prints for each ruleset one line of JSON: the
time of `Engine.evaluate` (decode, screen, evaluate, write the flags' text) and the number of flags of each scenario;
then, from a second pass, the time of the decoding and of the compiled rules alone. The rulesets take turns at each MiB.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from bench_tool.daemon import MeasureFailed
from bench_tool.in_process import Clock, Rules, blocks, contract_of, parts, ruleset_of, settle, turns
from tidewaiter.core.engine import Engine
from tidewaiter.core.screening import Policy, Screening

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidewaiter.core.contract import Contract
    from tidewaiter.core.engine import Evaluation


def main(arguments: Sequence[str]) -> int:
    """Evaluate the file under each ruleset and print what that took."""
    file, contract_file, *ruleset_files = map(Path, arguments)
    contract = contract_of(contract_file)
    rules = [Rules(ruleset_of(path, contract)) for path in ruleset_files]
    engines = {id(each): Engine(contract, each.ruleset, Policy()) for each in rules}
    flags: dict[int, Counter[str]] = {id(each): Counter() for each in rules}
    settle()
    for number, block in enumerate(blocks(file)):
        events = block.data.count(b"\n")
        for each in turns(number, rules):
            engine = engines[id(each)]
            done: Evaluation = each.clock.timed(engine.evaluate, block, 0, file.name, events=events)
            if done.halt is not None:
                raise MeasureFailed(f"{file.name}: halted at byte {done.halt.offset}: {done.halt.reason}")
            engine.rules.forget_some(engine.screening.effective)
            flags[id(each)].update(_rule_names(done))
    for each, path in zip(rules, ruleset_files, strict=True):
        decoding, alone = _alone(file, contract, path)
        answer = {
            "engine": each.clock.facts(), "decoding": decoding.facts(), "rules": alone.facts(),
            "flags": dict(sorted(flags[id(each)].items())),
        }  # fmt: skip
        print(json.dumps(answer))
    return 0


def _rule_names(done: Evaluation) -> list[str]:
    return [json.loads(line)["rule_name"] for projection, line in done.records if projection == "flags"]


def _alone(file: Path, contract: Contract, path: Path) -> tuple[Clock, Clock]:
    """Return the time of decoding and of the compiled rules."""
    decoding, rules = Clock(), Rules(ruleset_of(path, contract))
    screening = Screening(contract, Policy(), rules.ruleset.money_columns)
    for part in parts(file):
        count = part.data.count(b"\n")
        admitted = screening.screen(decoding.timed(contract.decoder.decode_lines, part.data, events=count))
        rules.clock.timed(rules.evaluate, admitted.events, admitted.times, *admitted.money, events=count)
    return decoding, rules.clock


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
