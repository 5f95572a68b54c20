"""The command line of scripts/bench.

Owns: which measures are made, in which order, and the folder they work in. Leaves to each measure what it does, and to
`figures` what a line of the answer says. The exit code is 0 when every measure could be made, whatever came out: a
missed floor is a finding, not a failure; 1 when one could not be made.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench_tool import figures
from bench_tool.bench import Bench
from bench_tool.daemon import MeasureFailed
from bench_tool.measures import (
    comparison,
    evidence,
    flatness,
    footprint,
    latency,
    lineage,
    pack_memory,
    pipelines,
    restart,
    rule_costs,
    rule_growth,
    snapshots,
    throughput,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench_tool.figures import Figure

MEASURES: Final[dict[str, tuple[Callable[[Bench], Iterator[Figure]], str]]] = {
    "throughput_quiet": (throughput.quiet, "durable events/s ÷ bare decode of the same file, under 1 % flags"),
    "throughput_mix": (throughput.mix, "the same with some 29 % flags"),
    "latency_50": (latency.at_50, "append to durable flag at 50 events/s"),
    "latency_1k": (latency.at_1k, "the same at 1,000 events/s"),
    "latency_10k": (latency.at_10k, "the same at 10,000 events/s"),
    "after_idle": (latency.after_idle, "append to durable flag of the first event after 2 s of silence"),
    "idle_cpu": (footprint.idle_cpu, "processor time while nothing arrives"),
    "memory": (footprint.memory, "memory of 1M users with two deposits each"),
    "snapshot_100k": (snapshots.at_100k, "the longest pause between commits while a snapshot is taken, 100k users"),
    "snapshot_1m": (snapshots.at_1m, "the same with 1M users"),
    "restart": (restart.restart, "start to READY with 1M users, after a clean stop and after SIGKILL"),
    "cost_by_users": (flatness.by_users, "cost of an event with 1M users ÷ with 10k users"),
    "cost_by_position": (flatness.by_position, "cost of an event behind 2 GB ÷ behind 1 MB (not with --quick)"),
    "pack": (throughput.pack, "durable events/s ÷ bare decode, the AML pack over account transfers"),
    "shared_metrics": (rule_costs.shared_metrics, "12 scenarios over one metric ÷ 1 scenario over it"),
    "cost_by_window": (rule_growth.by_window, "time and work of each metric, window of 90 days ÷ of 1 minute"),
    "cost_by_keys": (rule_growth.by_keys, "the same with 1M keys ÷ with 1k keys"),
    "pack_memory": (pack_memory.pack_memory, "memory of an account under the AML pack, active and once idle"),
    "signed_quiet": (evidence.signed_quiet, "durable events/s with signed tree ÷ without tree, under 1 % flags"),
    "signed_mix": (evidence.signed_mix, "the same with some 29 % flags"),
    "verify": (evidence.verifying, "tidewaiter verify: entries and input together"),
    "proof": (evidence.proofs, "the proof of one entry among a million"),
    "lineage": (lineage.lineage, "1M edges of lineage: build, load, record, and all ancestors of a file"),
    "pipeline_plain": (pipelines.plain, "a batch pipeline of three transforms beside pandas and polars, types only"),
    "pipeline_full": (pipelines.full, "the same with validation, hashes behind each step and an audit log"),
    "pipeline_audit_share": (pipelines.audit_share, "the share of audit log and lineage in the time of a pipeline"),
    "pipeline_memory": (pipelines.memory, "memory of a batch pipeline, and of one with a sort and sums"),
    "compared": (comparison.compared, "cost of an event beside a loop of rule objects, duckdb and polars"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the measures that were asked for and print their figures."""
    names = "\n".join(f"  {name:18} {text}" for name, (_, text) in MEASURES.items())
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure the daemon; prints one JSON line for each figure.",
        epilog=f"measures (default: all):\n{names}\n\nExample: scripts/bench throughput_quiet latency_1k --quick",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure")
    parser.add_argument("--quick", action="store_true", help="smaller inputs, fewer repetitions: for developing")
    parser.add_argument(
        "--tiny", action="store_true",
        help="--quick, and pack … compared on so little that figures mean nothing: for tests",
    )  # fmt: skip
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="where to work (default: the folder for temporary files)"
    )
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.names if name not in MEASURES]
    if unknown:
        parser.error(f"no such measure: {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    # a TERM ends the tool as Ctrl-C does, so that daemons are ended and files removed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    failed = False
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="tidewaiter-bench-", dir=chosen.dir))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        bench = Bench(folder, quick=chosen.quick, tiny=chosen.tiny)
        options = "".join(f" --{name}" for name in ("quick", "tiny") if getattr(chosen, name))
        for name in chosen.names or MEASURES:
            measure, _ = MEASURES[name]
            print(f"scripts/bench: {name} …", file=sys.stderr, flush=True)
            command = f"scripts/bench {name}{options}"
            machine = figures.machine(folder)
            try:
                for figure in measure(bench):
                    print(figures.line(figure, command, machine), flush=True)
            except (MeasureFailed, OSError, LookupError, ValueError) as error:
                # a log or a file is not what it was taken for; the other measures may still be made
                failed = True
                print(f"scripts/bench: {name}: {type(error).__name__}: {error}", file=sys.stderr)
            bench.tidy()
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
