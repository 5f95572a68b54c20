"""What the tree over the audit log costs, and how fast it can be checked.

Signing is compared with the same daemon without tree, in turn (A B A B …): what it adds while events flow is hashing
the entries a second time, tiles, and some two checkpoints a second.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Final

from bench_tool.bench import CONFIG
from bench_tool.figures import Figure, median, percentile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench_tool.bench import Bench, StreamFile

ENTRIES_PER_S: Final = 200_000
INPUT_BYTES_PER_S: Final = 500_000_000


def signed_quiet(bench: Bench) -> Iterator[Figure]:
    """Under 1 % of the events flagged."""
    yield _signed(bench, "signed_quiet", bench.generated(bench.sized(1_000_000, 200_000, 5_000), "quiet"), 0.9)


def signed_mix(bench: Bench) -> Iterator[Figure]:
    """Some 29 % of the events flagged."""
    yield _signed(bench, "signed_mix", bench.generated(bench.sized(1_000_000, 200_000, 5_000), "money-flow"), 0.75)


def verifying(bench: Bench) -> Iterator[Figure]:
    """Everything `verify` checks but the replay; time for entries and time for input are allowed to add up."""
    stream = bench.generated(bench.sized(1_000_000, 200_000, 5_000), "money-flow")
    config, key = _key(bench)
    one_event = bench.generated(1, "money-flow")

    def verify(path: Path, state: Path) -> float:
        began = time.monotonic()
        bench.python(
            "tidewaiter", "verify", str(path), "--state-dir", str(state), "--config", str(config), "--key", key
        )
        return time.monotonic() - began

    state, small = bench.once(stream.path, config).state, bench.once(one_event.path, config).state
    started = min(verify(one_event.path, small) for _ in range(3))
    seconds = [verify(stream.path, state) - started for _ in range(1 if bench.tiny else 5)]
    entries = sum(path.read_bytes().count(b"\n") for path in (state / "audit").glob("audit-*.jsonl"))
    size = stream.path.stat().st_size
    allowed = entries / ENTRIES_PER_S + size / INPUT_BYTES_PER_S
    yield Figure(
        "verify", allowed / median(seconds), "of the speed asked for", 1.0, "at least", stream.facts(),
        {
            "asked_for": f"{ENTRIES_PER_S} entries/s, then {INPUT_BYTES_PER_S} bytes/s of input",
            "entries": entries, "input_bytes": size, "seconds": seconds, "allowed_seconds": allowed,
            "entries_per_s_input_included": entries / median(seconds),
            "start_up_off": "less a verification of a log of one event", "started_seconds": started,
        },
    )  # fmt: skip


def proofs(bench: Bench) -> Iterator[Figure]:
    """The inclusion proof of one entry out of the tiles."""
    entries = bench.sized(1_000_000, 1_000_000, 10_000)
    folder = bench.new_folder("tree")
    answer = json.loads(bench.python("bench_tool.proofs", str(folder), str(entries), "200"))
    seconds = answer["seconds"]
    yield Figure(
        "proof", percentile(seconds, 99) * 1e3, "ms", 10.0, "at most", None,
        {
            "entries": entries, "proofs": len(seconds), "p50_ms": percentile(seconds, 50) * 1e3,
            "hashes": answer["hashes"],
        },
    )  # fmt: skip


def _signed(bench: Bench, name: str, stream: StreamFile, floor: float) -> Figure:
    config, _ = _key(bench)
    ours, bare = [], []
    for _ in range(1 if bench.tiny else 3 if bench.quick else 5):
        ours.append(bench.once(stream.path, config))
        bare.append(bench.once(stream.path, config, module="bench_tool.without_tree"))
    ratios = [theirs.durable / each.durable for each, theirs in zip(ours, bare, strict=True)]
    notes = (ours[-1].state / "tlog" / "checkpoints").read_bytes().count(b"\n\n")
    return Figure(
        name, median(ratios), "of the speed without tree", floor, "at least", stream.facts(),
        {
            "ratios": ratios, "events_per_s_median": stream.events / median([each.durable for each in ours]),
            "without_events_per_s_median": stream.events / median([each.durable for each in bare]),
            "processor_ratio": median([theirs.cpu / each.cpu for each, theirs in zip(ours, bare, strict=True)]),
            "checkpoints": notes,
        },
    )  # fmt: skip


def _key(bench: Bench) -> tuple[Path, str]:
    """Return settings with a new key, and its vkey."""
    folder = bench.new_folder("key")
    key, config = folder / "log.key", folder / "tidewaiter.toml"
    bench.python("tidewaiter", "keys", "new", "--key", str(key), "--name", "bench.example/log", "--config", str(CONFIG))
    shared = CONFIG.read_text(encoding="utf-8").replace('file = "', f'file = "{CONFIG.parent}/')
    config.write_text(f"{shared}\n[evidence]\nkey = {json.dumps(str(key))}\n", encoding="utf-8")
    answer = bench.python("tidewaiter", "check", "--config", str(config)).decode()
    return config, next(word for word in answer.split() if word.startswith("bench.example/log+"))
