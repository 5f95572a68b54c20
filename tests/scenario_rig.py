"""What tests of the scenario language set up alike: contracts of accounts, and limits so low that they matter.

Leaves to each test, or to `scenario_demo` and `scenario_checks`, which further fields there are and the rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidewaiter.core.contract import Contract, OriginalText, compile_contract
from tidewaiter.core.scenarios import generating_metrics, state_cells, state_windows

if TYPE_CHECKING:
    import pytest

    from tidewaiter.core.scenarios import Ruleset


def account_contract(name: str, version: int, fields: str) -> Contract:
    """Return a contract of events with an id, a time `at`, an account as the subject, and these further fields."""
    text = f"""
contract = "{name}"
version = {version}
id = "event_id"
time = "at"
subject = "account"
[field]
event_id = {{ type = "string", min_length = 1, max_length = 64 }}
at = {{ type = "timestamp" }}
account = {{ type = "string", min_length = 1, max_length = 64 }}
{fields}"""
    return compile_contract(text.encode(), f"{name}.toml")


def rendered(
    rules: Ruleset, hit: tuple[Any, ...], event: Any, event_time: str, ingest_time: str | None = None, offset: int = 0
) -> str:
    """Return the line of a hit; where nothing in it is escaped, writing it plainly must give the same."""
    text = OriginalText(event_time, ingest_time)
    line: str = rules.renderers(escaping=True)[hit[1]](hit, event, text, offset)
    assert "\\" in line or rules.renderers(escaping=False)[hit[1]](hit, event, text, offset) == line
    return line


def lower_limits(monkeypatch: pytest.MonkeyPatch, *, chunk_keys: int) -> None:
    """Let small tests turn generations, trim lists, and split a snapshot into chunks of `chunk_keys` keys."""
    monkeypatch.setattr(state_cells, "SMALL", 1)
    monkeypatch.setattr(state_cells, "PURGE_WINDOWS", 1)
    monkeypatch.setattr(state_cells, "CHUNK_KEYS", chunk_keys)
    for module in (state_windows, generating_metrics):
        monkeypatch.setattr(module, "LIST_LIMIT", 3)
        monkeypatch.setattr(module, "SPARE", 3)
