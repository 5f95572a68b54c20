"""What governs the evaluation: contract, ruleset, policy and engine version, from files or from the archive.

Owns: turning texts into an engine, and the decisions (digests) that stand for them in the audit log. Leaves to the
consumer when a change takes force.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from tidewaiter.core.audit import UNREADABLE, Decisions
from tidewaiter.core.contract import Contract, compile_contract
from tidewaiter.core.engine import ENGINE, ENGINE_DIGEST, Engine
from tidewaiter.core.errors import ConfigError, IntegrityRefusal
from tidewaiter.core.scenarios import Ruleset, load_ruleset
from tidewaiter.core.screening import Policy
from tidewaiter.edges import archive

if TYPE_CHECKING:
    from pathlib import Path

    from tidewaiter.edges.durable import Disk
    from tidewaiter.shell.settings import Settings


@dataclass(frozen=True)
class Governing:
    """A contract, a ruleset and a policy that fit together. `policy_text` is the canonical JSON of the policy."""

    contract: Contract
    ruleset: Ruleset
    policy: Policy
    policy_text: bytes

    @property
    def decisions(self) -> Decisions:
        """The digests that name all this in the audit log."""
        return Decisions(
            config=archive_digest(self.policy_text),
            contract=self.contract.digest,
            ruleset=self.ruleset.digest,
            engine=ENGINE_DIGEST,
        )

    def engine(self) -> Engine:
        """Return an engine with empty state."""
        return Engine(self.contract, self.ruleset, self.policy)

    def store(self, disk: Disk, state: Path) -> None:
        """Keep the contents in the archive; must be done before a decision names them."""
        for content in (self.policy_text, self.contract.text, self.ruleset.text, ENGINE.encode()):
            archive.store(disk, state, content)


def archive_digest(content: bytes) -> str:
    """Return the digest under which `content` is archived (SHA-256, hex)."""
    import hashlib  # noqa: PLC0415 - one use

    return hashlib.sha256(content).hexdigest()


def from_settings(settings: Settings) -> Governing:
    """Read contract and ruleset from the files the settings name. Raises ConfigError."""
    text = settings.governing()
    contract = compile_contract(_read(settings.contract, "contract"), str(settings.contract))
    ruleset = load_ruleset(_read(settings.rules, "ruleset"), str(settings.rules), contract)
    return Governing(contract, ruleset, text.policy, text.text)


def from_archive(state: Path, decisions: Decisions) -> Governing:
    """Read back what was in force. Raises IntegrityRefusal where it is gone or no longer accepted."""
    policy_text = archive.load(state, decisions.config)
    rules = state / "rules"
    try:
        contract = compile_contract(archive.load(state, decisions.contract), str(rules / decisions.contract))
        ruleset = load_ruleset(archive.load(state, decisions.ruleset), str(rules / decisions.ruleset), contract)
        policy = msgspec.json.decode(policy_text, type=Policy)
    except (ConfigError, *UNREADABLE) as error:
        raise IntegrityRefusal(
            f"{rules}: what was in force is no longer accepted by this version: {error}",
            hint="run the version that wrote it, or start with --accept-state-loss",
        ) from error
    return Governing(contract, ruleset, policy, policy_text)


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: the {what} cannot be read: {error.strerror}", hint="check the path and its permissions"
        ) from error
