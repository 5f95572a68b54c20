"""What a metric does for an event does not grow with its window or with the number of keys: counted, not timed.

The interpreter reports each bytecode of the compiled function and of what it calls (`bench_tool.rule_work`, which
`scripts/bench cost_by_window` and `cost_by_keys` use too); elements that a deletion moves are counted, and functions in
C, of which one call may be any amount of work, are held against a list.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

from support import PATIENCE, REPOSITORY, cli_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

WITHIN: Final = 1.1
GENERATIONS: Final = 1.3
"""From some two thousand keys on, they are kept by generations: some bytecodes more, however many keys there are."""
CONSTANT: Final = {
    "len", "iter", "next", "isinstance", "reversed", "dict.get", "dict.values", "dict.popitem", "list.append",
    "list.pop", "deque.append", "deque.pop", "deque.popleft", "OrderedDict.popitem", "OrderedDict.move_to_end",
}  # fmt: skip
"""What takes the same time on anything, as it is used: `list.pop` of the last, or of at most three."""
HOUR_US: Final = 3_600_000_000
METRICS: Final = {
    "count": 'fn = "count", {extent}',
    "sum": 'fn = "sum(amount)", {extent}',
    "max": 'fn = "max(amount)", {extent}',
    "distinct": 'fn = "distinct(counterparty)", {extent}',
    "shifted": 'fn = "sum(amount)", offset = "30m", {extent}',
}


def ruleset(metric: str, extent: str) -> str:
    """Return a ruleset with one metric by account that never flags."""
    never = "'900000000.00'" if "amount" in METRICS[metric] else "1000000000"
    return (
        'ruleset = "made"\nversion = 1\ncontract = "account_transfers/1"\n'
        f'[metric]\nm = {{ by = "account", {METRICS[metric].format(extent=extent)} }}\n'
        '[scenario.one]\ntypology = "made"\nversion = 1\nseverity = "low"\n'
        f'when = "m > {never}"\nmeasure = "amount"\nthreshold = "1.00"\n'
    )


def work(rulesets: Mapping[str, str], rounds: Mapping[str, float], counted_from: int, one_in: int) -> dict[str, Any]:
    """Return what each ruleset does for an event, from the event `counted_from` on."""
    contract = REPOSITORY / "config" / "contracts" / "account_transfers.toml"
    job = {
        "contract": str(contract), "rulesets": rulesets, "rounds": rounds, "counted_from": counted_from,
        "one_in": one_in,
    }  # fmt: skip
    environment = cli_environment({"PYTHONPATH": f"{REPOSITORY / 'daemon'}:{REPOSITORY / 'scripts'}"})
    command = [sys.executable, "-m", "bench_tool.rule_work", json.dumps(job)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def assert_flat(few: Mapping[str, Any], many: Mapping[str, Any], within: float) -> None:
    """Hold the work of each metric against its work under the smaller setting."""
    ratios = {}
    for metric in few:
        least, most = (sum(each[metric][part] for part in ("bytecodes", "moved", "forgetting")) for each in (few, many))
        assert least > 50, "less than a metric takes"
        assert {*few[metric]["called"], *many[metric]["called"]} <= CONSTANT, metric
        ratios[metric] = most / least
    assert max(ratios.values()) <= within, ratios


SHORTENED: Final = """
from bench_tool.rule_work import Work
def work(held):
    del held[:40]
    held[:10] = []
    held[0] = held[1]
with Work() as done:
    work(list(range(100)))
print(done.moved)
"""


def test_what_a_shortened_list_moves_is_counted() -> None:
    """Sixty elements by a deletion, fifty by a slice that is assigned, none by an assignment to one place."""
    environment = cli_environment({"PYTHONPATH": f"{REPOSITORY / 'daemon'}:{REPOSITORY / 'scripts'}"})
    command = [sys.executable, "-c", SHORTENED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.stdout, done.stderr) == ("110\n", "")


def test_work_does_not_grow_with_the_number_of_keys() -> None:
    """Each account has an event an hour, and two of them are within the window: from a thousand accounts to 100,000."""
    rulesets = {metric: ruleset(metric, 'window = "65m"') for metric in ("count", "distinct", "shifted")}
    few, some, many = (
        work(rulesets, {"accounts": keys, "events": 3 * keys, "step_us": HOUR_US / keys}, 7 * keys // 4, one_in)
        for keys, one_in in ((1_000, 1), (3_000, 1), (100_000, 31))
    )
    assert_flat(some, many, WITHIN)
    assert_flat(few, many, GENERATIONS)


def test_work_does_not_grow_with_the_window() -> None:
    """Four accounts with bursts of eight events: eight of them are within a minute, 320 within 90 days."""
    bursts, days = 90, 200
    rounds = {
        "accounts": 4, "events": 32 * bursts, "step_us": 1_250_000, "burst": 8,
        "pause_us": days * 24 * HOUR_US / bursts - 40_000_000,
    }  # fmt: skip
    short, long = (
        work({metric: ruleset(metric, f'window = "{window}"') for metric in METRICS}, rounds, 16 * bursts, 1)
        for window in ("1m", "90d")
    )
    assert_flat(short, long, WITHIN)
