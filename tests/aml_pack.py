"""The AML pack as tests use it: loaded, run over lines, and measured on AMLSim's labelled transfers.

Owns: what AMLSim's events say as account transfers, and the table of alerts against labels. Leaves to `test_aml_core`
what must hold.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import zstandard

from support import REPOSITORY
from tidewaiter.core.contract import Contract, compile_contract
from tidewaiter.core.engine import Engine
from tidewaiter.core.framing import Block
from tidewaiter.core.scenarios import Ruleset, load_ruleset
from tidewaiter.core.screening import Policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

CONTRACT: Final = REPOSITORY / "config" / "contracts" / "account_transfers.toml"
RULES: Final = REPOSITORY / "config" / "rules" / "aml_core.toml"
LISTS: Final = ("../lists/high_risk_countries.csv", "../lists/cash_businesses.txt")
TRANSCRIPTS: Final = REPOSITORY / "tests" / "transcripts" / "aml_core"
SAMPLE: Final = REPOSITORY / "tests" / "samples" / "aml_core"
BATCH: Final = 4096


def load_contract(currency: str = "EUR") -> Contract:
    """Return the contract of the pack, for another currency if asked: that is the one line to change."""
    text = CONTRACT.read_bytes()
    line = b'currency = { type = "enum", values = ["EUR"] }'
    assert line in text
    return compile_contract(text.replace(line, line.replace(b"EUR", currency.encode())), str(CONTRACT))


def load_rules(contract: Contract, divisor: int = 1) -> Ruleset:
    """Return the shipped ruleset with its lists, every amount in its thresholds divided by `divisor`."""
    files = {name: (RULES.parent / name).read_bytes() for name in LISTS}
    text = RULES.read_text(encoding="utf-8")
    divided = re.sub(r'"([0-9]+)[.]00"', lambda found: f'"{Decimal(found[1]) / divisor:.2f}"', text)
    assert divided == text or divisor != 1
    return load_ruleset(divided.encode(), str(RULES), contract, files)


@dataclass
class Found:
    """What the pack wrote over a stream: lines by projection, and how often a scenario could not be decided."""

    flags: list[bytes]
    suppressed: list[bytes]
    insufficient: Counter[str]
    events: int

    @property
    def by_rule(self) -> Counter[str]:
        """How many flags each scenario gave."""
        return Counter(json.loads(line)["rule_name"] for line in self.flags)


def run(contract: Contract, ruleset: Ruleset, lines: Iterable[bytes]) -> Found:
    """Evaluate `lines`, each with its newline, in batches; everything must be valid and in order."""
    engine = Engine(contract, ruleset, Policy())
    found = Found([], [], Counter(), 0)
    offset = 0
    batch: list[bytes] = []

    def evaluate() -> None:
        nonlocal offset
        data = b"".join(batch)
        evaluation = engine.evaluate(Block(offset, data), offset, "stream")
        assert evaluation.halt is None, evaluation.halt
        for projection, record in evaluation.records:
            {"flags": found.flags, "suppressed": found.suppressed}[projection].append(f"{record}\n".encode())
        found.insufficient.update(evaluation.insufficient)
        found.events += len(batch)
        offset += len(data)
        batch.clear()

    for line in lines:
        batch.append(line)
        if len(batch) == BATCH:
            evaluate()
    evaluate()
    return found


# -- AMLSim ------------------------------------------------------------------------------------------------------------


def amlsim_lines(folder: Path) -> Iterator[bytes]:
    """Yield AMLSim's legs as account transfers: in dollars, within one country, customers with one account each.

    The data has neither cash nor cards, channels or countries; the counterparty is the other end of the transfer.
    """
    for line in _text(folder / "amlsim_20K_cycle200.src.jsonl.zst"):
        # The amount keeps its digits.
        event = json.loads(line, parse_float=str)
        incoming = event["event_type"] == "deposit_completed"
        other = event["src"]["sourceNodeId" if incoming else "targetNodeId"]
        yield (
            f'{{"transfer_id": "{event["event_id"]}", "account": "{event["user_id"]}", '
            f'"customer": "{event["user_id"]}", "booked_at": "{event["event_time"]}", '
            f'"received_at": "{event["ingest_time"]}", "direction": "{"in" if incoming else "out"}", '
            f'"amount": {event["amount"]}, "currency": "USD", "counterparty": "n{other}", "country": "US", '
            f'"channel": "online"}}\n'
        ).encode()


def amlsim_frauds(folder: Path) -> frozenset[str]:
    """Return the accounts that AMLSim calls fraudulent."""
    rows = csv.DictReader(_text(folder / "amlsim_20K_cycle200.user_labels.csv.zst"))
    return frozenset(row["user_id"] for row in rows if row["is_fraud_node"] == "1")


def amlsim_table(found: Found, frauds: frozenset[str], scenarios: Iterable[str]) -> str:
    """Return alerts per 1,000 events, and precision and recall by accounts, for each scenario and for all together."""
    accounts: defaultdict[str, set[str]] = defaultdict(set)
    for line in found.flags:
        flag = json.loads(line)
        accounts[flag["rule_name"]].add(flag["user_id"])
    rows = [
        "| scenario | alerts | per 1,000 events | accounts alerted | precision | recall |",
        "|---|---|---|---|---|---|",
    ]
    every = set().union(*accounts.values())
    for name, count in (*((name, found.by_rule[name]) for name in scenarios), ("all", len(found.flags))):
        alerted = every if name == "all" else accounts[name]
        right = len(alerted & frauds)
        precision = f"{right / len(alerted):.3f}" if alerted else "none"
        rows.append(
            f"| {name} | {count} | {count * 1000 / found.events:.3f} | {len(alerted)} | {precision} "
            f"| {right / len(frauds):.3f} |"
        )
    return "\n".join(rows) + "\n"


def _text(path: Path) -> io.TextIOWrapper:
    return io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(path.open("rb")), encoding="utf-8")
