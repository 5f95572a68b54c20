"""Real streams from end to end: the reference stream with its known flags, and two years of a bank's transactions."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import zstandard

from support import REPOSITORY, run_cli

if TYPE_CHECKING:
    from pathlib import Path

CONTRACTS = REPOSITORY / "tests" / "contracts"
NINE_FIELDS = (
    "flag_id", "user_id", "rule_name", "metric_value", "threshold", "window", "event_id", "event_time", "ingest_time",
)  # fmt: skip


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the JSON lines of a file."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_the_reference_stream_gives_exactly_the_reference_flags(shared_data: Path, tmp_path: Path) -> None:
    """The documented command over the sample writes its 2,353 flags, the nine known fields equal line for line."""
    state = tmp_path / "state"
    done = subprocess.run(
        [REPOSITORY / "scripts" / "run", shared_data / "sample_stream.jsonl", "--once", "--state-dir", state],
        capture_output=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    flags = lines_of(state / "flags.jsonl")
    reference = lines_of(shared_data / "sample_stream.flags.jsonl")
    assert len(flags) == 2353
    assert [{key: flag[key] for key in NINE_FIELDS} for flag in flags] == reference


def test_two_years_of_a_bank_run_through_to_the_end(shared_data: Path, tmp_path: Path) -> None:
    """The Berka stream, its own currency, channels and extra fields, is read to its end and flagged as expected."""
    stream = tmp_path / "berka.jsonl"
    with (shared_data / "berka_1993-1994.src.jsonl.zst").open("rb") as packed, stream.open("wb") as plain:
        zstandard.ZstdDecompressor().copy_stream(packed, plain)
    state = tmp_path / "state"
    done = run_cli(
        "run", stream, "--once", "--state-dir", state,
        "--contract", CONTRACTS / "berka.toml", "--rules", CONTRACTS / "berka_rules.toml",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads((state / "reports" / "validation_report.json").read_bytes())
    assert report["counts"]["events_read"] == report["counts"]["events_valid"] == 49_102
    assert report["reconciled"] is True
    flags = [(flag["flag_id"], flag["metric_value"]) for flag in lines_of(state / "flags.jsonl")]
    assert flags == expected_flags(lines_of(stream))
    assert len(flags) > 100  # the thresholds are such that both rules fire


def expected_flags(events: list[dict[str, Any]]) -> list[tuple[str, float]]:
    """Evaluate the two rules as plainly as they read, without any code of the engine."""
    month = dt.timedelta(days=30)
    times: dict[str, list[dt.datetime]] = defaultdict(list)
    latched: set[str] = set()
    flags: list[tuple[str, float]] = []
    for event in events:
        if event["event_type"] != "deposit_completed" or event["channel"] != "cash":
            continue
        now = dt.datetime.fromisoformat(event["event_time"])
        user = event["user_id"]
        times[user].append(now)
        count = sum(1 for time in times[user] if now - time <= month)
        if event["amount"] >= 40_000:
            flags.append((event["event_id"] + ":large_cash", event["amount"]))
        if count > 4:
            if user not in latched:
                latched.add(user)
                flags.append((event["event_id"] + ":frequent_cash", count))
        else:
            latched.discard(user)
    return flags
