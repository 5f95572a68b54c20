"""What an account costs in memory under the AML pack, and what is left of that once everybody has gone idle.

An engine in a process of its own, without the daemon around it (`bench_tool.rule_memory`). Resident memory: what the
system has to find, the allocator's waste included; ids, which `memory` measures, are left out. Two kinds of accounts:
such with six transfers within hours, so that every window holds something, and those of the made-up bank over its whole
history.

What `since_previous` and `since_first` keep of an account is never forgotten, by their meaning. Keys and objects
(allocated blocks) say what was let go; the resident memory falls by less, for Python gives back only what is free as a
whole, and takes the rest for the keys that come next: as many other accounts, afterwards (`refilled_mb`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import msgspec

from bench_tool.bench import PACK_CONTRACT, PACK_RULES
from bench_tool.figures import Figure
from bench_tool.made_transfers import Rounds
from bench_tool.measures.footprint import MEGABYTE
from bench_tool.rule_memory import Job

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench_tool.bench import Bench

EACH: Final = 6
IDLE_DAYS: Final = 220
"""More than twice the longest reach of the pack, 91 days: what was touched last is dropped in the second turn."""
LEAST: Final = 3_000
"""A cell with up to 2,048 keys is looked through only every 16 windows: with fewer accounts nothing would be seen."""
_HOURS_US: Final = 6 * 3_600_000_000


def pack_memory(bench: Bench) -> Iterator[Figure]:
    """First accounts with little in every window, then the accounts of the generated stream."""
    accounts = bench.sized(100_000, 20_000, LEAST)
    rounds = Rounds(accounts, EACH * accounts, _HOURS_US / (EACH * accounts), parties=10_007)
    job = Job(str(PACK_CONTRACT), str(PACK_RULES), IDLE_DAYS, rounds=rounds)
    facts = {"name": None, "events": rounds.events, "made_by": rounds.what()}
    yield from _figures(bench, "pack_memory", job, facts, accounts)
    accounts = bench.sized(10_000, 5_000, LEAST)
    stream = bench.generated(bench.sized(1_000_000, 200_000, 5_000), "transfers", users=accounts)
    job = Job(str(PACK_CONTRACT), str(PACK_RULES), IDLE_DAYS, file=str(stream.path))
    yield from _figures(bench, "pack_memory_history", job, stream.facts(), accounts)


def _figures(bench: Bench, name: str, job: Job, facts: dict[str, Any], accounts: int) -> Iterator[Figure]:
    answer = json.loads(bench.python("bench_tool.rule_memory", msgspec.json.encode(job).decode()))
    empty, filled, idle = answer["empty"], answer["filled"], answer["idle"]
    held, left = filled["bytes"] - empty["bytes"], idle["bytes"] - empty["bytes"]
    refilled = answer.get("refilled")
    again = {"refilled_mb": refilled["bytes"] / MEGABYTE, "keys_refilled": refilled["keys"]} if refilled else {}
    detail: dict[str, Any] = {
        "accounts": accounts, "events_of_each": answer["events"] / accounts,
        "empty_mb": empty["bytes"] / MEGABYTE, "filled_mb": filled["bytes"] / MEGABYTE,
        "idle_mb": idle["bytes"] / MEGABYTE,
        **again, "keys_filled": filled["keys"], "keys_idle": idle["keys"],
        "bytes_for_each_key_of_a_cell": held / max(filled["keys"], 1),
        "objects_filled": filled["blocks"] - empty["blocks"], "objects_idle": idle["blocks"] - empty["blocks"],
        "keys_of_each_cell_filled": filled["keys_of"], "keys_of_each_cell_idle": idle["keys_of"],
        "contains": "no ids: those of one second only", "idle_days": job.idle_days,
    }  # fmt: skip
    yield Figure(name, held / accounts, "bytes for an active account", None, file=facts, detail=detail)
    yield Figure(
        f"{name}_idle", left / accounts, "bytes for an account once idle", None,
        file=facts, detail={"given_back_share": 1 - left / held, **detail},
    )  # fmt: skip
