"""What governs the evaluation: contract, ruleset with its lists, policy and engine version, from files or the archive.

Owns: finding and reading these files, turning texts into an engine, and the decisions (digests) that stand for them in
the audit log. Leaves to `core.scenarios` what is in a list, and to the consumer when a change takes force.
"""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import msgspec

from tidewaiter.core.audit import UNREADABLE, Decisions
from tidewaiter.core.contract import Contract, compile_contract
from tidewaiter.core.engine import ENGINE, ENGINE_DIGEST, Engine
from tidewaiter.core.errors import ConfigError, IntegrityRefusal
from tidewaiter.core.scenarios import Ruleset, load_ruleset
from tidewaiter.core.scenarios.lists import MAX_LIST_BYTES
from tidewaiter.core.scenarios.ruleset import MAX_RULESET_BYTES
from tidewaiter.core.screening import Policy
from tidewaiter.core.toml_source import TomlSource
from tidewaiter.edges import archive

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tidewaiter.edges.durable import Disk
    from tidewaiter.shell.settings import Settings


MAX_LIST_NAMES: Final = 16 << 10
"""How long the paths of all lists may be, with a digest each: they stand in every batch.committed."""
MAX_NAMED_CELLS: Final = 32 << 10
"""How long the names of what starts empty may be together in a decision's entry."""


@dataclass(frozen=True)
class Governing:
    """A contract, a ruleset and a policy that fit together. `policy_text` is the canonical JSON of the policy.

    `files` are the contents of the ruleset's lists, by their paths as the ruleset writes them.
    """

    contract: Contract
    ruleset: Ruleset
    policy: Policy
    policy_text: bytes
    files: Mapping[str, bytes]

    @cached_property
    def decisions(self) -> Decisions:
        """The digests that name all this in the audit log."""
        return Decisions(
            config=archive_digest(self.policy_text),
            contract=self.contract.digest,
            ruleset=self.ruleset.digest,
            engine=ENGINE_DIGEST,
            lists={path: archive_digest(content) for path, content in self.files.items()},
        )

    def engine(self) -> Engine:
        """Return an engine with empty state."""
        return Engine(self.contract, self.ruleset, self.policy)

    def store(self, disk: Disk, state: Path) -> None:
        """Keep the contents in the archive; must be done before a decision names them."""
        texts = (self.policy_text, self.contract.text, self.ruleset.text, ENGINE.encode())
        for content in (*texts, *self.files.values()):
            archive.store(disk, state, content)


def named(started_empty: list[str]) -> list[str]:
    """Return the names of what starts empty, as many as an audit entry has room for; the last one counts the others."""
    room = MAX_NAMED_CELLS
    for number, name in enumerate(started_empty):
        room -= len(msgspec.json.encode(name)) + 1
        if room < 0:
            return [*started_empty[:number], f"and {len(started_empty) - number} more"]
    return started_empty


def archive_digest(content: bytes) -> str:
    """Return the digest under which `content` is archived (SHA-256, hex)."""
    return hashlib.sha256(content).hexdigest()


def from_settings(settings: Settings) -> Governing:
    """Read contract, ruleset and lists from the files that settings and ruleset name. Raises ConfigError."""
    text = settings.governing()
    contract = compile_contract(_read(settings.contract, "contract"), str(settings.contract))
    rules = _read(settings.rules, "ruleset")
    files = _read_lists(rules, settings.rules)
    ruleset = load_ruleset(rules, str(settings.rules), contract, files)
    return Governing(contract, ruleset, text.policy, text.text, files)


def from_archive(state: Path, decisions: Decisions) -> Governing:
    """Read back what was in force. Raises IntegrityRefusal where it is gone or no longer accepted."""
    policy_text = archive.load(state, decisions.config)
    rules = state / "rules"
    try:
        contract = compile_contract(archive.load(state, decisions.contract), str(rules / decisions.contract))
        files = {path: archive.load(state, digest) for path, digest in decisions.lists.items()}
        ruleset = load_ruleset(
            archive.load(state, decisions.ruleset),
            str(rules / decisions.ruleset),
            contract,
            *([files] if files else []),
        )
        policy = msgspec.json.decode(policy_text, type=Policy)
    except (ConfigError, *UNREADABLE) as error:
        raise IntegrityRefusal(
            f"{rules}: what was in force is no longer accepted by this version: {error}",
            hint="run the version that wrote it, or start with --accept-state-loss",
        ) from error
    return Governing(contract, ruleset, policy, policy_text, files)


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: the {what} cannot be read: {error.strerror}", hint="check the path and its permissions"
        ) from error


def _read_lists(rules: bytes, file: Path) -> dict[str, bytes]:
    """Return the contents of the list files that the ruleset names, by their paths as written there.

    Raises ConfigError, at the ruleset's line that names it, where one cannot be read.
    """
    if len(rules) > MAX_RULESET_BYTES:
        return {}  # refused as it is
    source = TomlSource(rules, str(file), pictures=True, exact=True)
    tables = source.data.get("list")
    files: dict[str, bytes] = {}
    room = MAX_LIST_NAMES
    for name, table in tables.items() if isinstance(tables, dict) else ():
        written = table.get("file") if isinstance(table, dict) else None
        if not isinstance(written, str) or written in files:
            continue  # the ruleset's own check says what is wrong with it
        at = ("list", name, "file")
        room -= len(msgspec.json.encode({written: archive_digest(b"")}))
        if room < 0:
            hint = f"{MAX_LIST_NAMES} bytes are there for paths and digests: use fewer lists, or shorter paths"
            raise source.error(at, "is one path too many for an audit entry", hint=hint)
        try:
            files[written] = read_regular(file.parent / written, "list", MAX_LIST_BYTES)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or a list that is no such file
            why = error.strerror if isinstance(error, OSError) else str(error)
            hint = f"the path is relative to {file.parent}, where the ruleset is"
            raise source.error(at, f"{file.parent / written}: the list cannot be read: {why}", hint=hint) from error
    return files


def read_regular(path: Path, what: str, most: int) -> bytes:
    """Return the content of a file that a ruleset names: a `what`, of at most `most` bytes.

    Raises OSError, and ValueError for a NUL in the path and for what is no such file.
    """
    # not opened before it is known to be a file: a pipe would wait for its writer for ever
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("is a directory" if stat.S_ISDIR(status.st_mode) else "is not a regular file")
    if status.st_size > most:
        raise ValueError(f"is {status.st_size} bytes long; a {what} has at most {most}")
    with path.open("rb") as opened:
        content = opened.read(most + 1)
    if len(content) > most:
        raise ValueError(f"is longer than {most} bytes")
    return content
