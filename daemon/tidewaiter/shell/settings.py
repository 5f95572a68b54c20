"""The settings of one daemon as frozen values, and what a run is asked for beyond them.

Owns: the parts of the settings with their defaults, the split between what can change a result (`Settings.governing`)
and what cannot, and what may change while the daemon runs (`Settings.reload`). Leaves to `shell.settings_file` the
configuration file and the command line, and to the supervisor what to do with it all.

Units: durations are integer microseconds, sizes are bytes; names end in ``_us`` or ``_bytes`` where that is not plain.
Every path is absolute.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.screening import Policy

if TYPE_CHECKING:
    from tidewaiter.edges.stream import StreamSettings
    from tidewaiter.shell.openlineage_settings import OpenLineagePart

_MINUTE: Final = 60_000_000
_EVIDENCE: Final = ("origin", "key", "policy")


# -- what the supervisor is given --------------------------------------------------------------------------------


class Progress(Protocol):
    """Something that shows a person how far the daemon is; called from the event loop, must return at once."""

    def update(
        self,
        *,
        position: int,
        total_bytes: int | None,
        events: int,
        events_per_s: float,
        flags: int,
        rejected: int,
        lag_bytes: int,
    ) -> None:
        """Show these figures: bytes of the stream (`total_bytes` where its end is known), counts, events per second."""

    def above(self, line: bytes) -> bytes:
        """Return what must be written for `line` to stand above what is drawn; may be called from any thread."""

    def ended(self, *, position: int, events: int, flags: int, rejected: int, flags_file: str) -> None:
        """Take the figures of the whole run, which `close` shows last."""

    def close(self) -> None:
        """Leave the terminal as it was; may be called more than once."""


class NoProgress:
    """Shows nothing: standard error is not a terminal."""

    def update(
        self,
        *,
        position: int,
        total_bytes: int | None,
        events: int,
        events_per_s: float,
        flags: int,
        rejected: int,
        lag_bytes: int,
    ) -> None:
        """Show nothing."""

    def above(self, line: bytes) -> bytes:
        """Return `line`: nothing is drawn."""
        return line

    def ended(self, *, position: int, events: int, flags: int, rejected: int, flags_file: str) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What one run is asked for beyond its settings.

    `once`: stop at the end of the stream. `accept_state_loss`: the operator's recorded decision to start with empty
    rule state, with its `reason` and `actor`. `progress` is told how far the run is.
    """

    once: bool = False
    accept_state_loss: bool = False
    reason: str = ""
    actor: str = ""
    progress: Progress = field(default_factory=NoProgress)


# -- the settings ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class StreamPart:
    """[stream]: which file, and how it is watched. `silence_alarm_us` None: no alarm.

    `directory`: the path was given with a slash at its end, so it is a directory of segments even before it exists.
    """

    name: str
    path: Path
    rotate_grace_us: int = 5_000_000
    poll_interval_us: int = 500_000
    silence_alarm_us: int | None = None
    directory: bool = False


@dataclass(frozen=True, kw_only=True)
class StatePart:
    """[state]: where everything is kept, and how much of it is written when."""

    dir: Path
    segment_bytes: int = 256 << 20
    snapshot_events: int = 500_000
    snapshot_interval_us: int = 5 * _MINUTE


@dataclass(frozen=True, kw_only=True)
class EvidencePart:
    """[evidence]: the log's name, the file of the private key that signs it, and the witnesses that cosign it.

    `origin` None: one is made up when the log begins. `key` None: the service manager's credential, if it gave one;
    else the log is not signed. `policy` is a C2SP tlog-policy; its witnesses with a URL are asked to cosign. `signed`
    False: no key is looked for.
    """

    origin: str | None = None
    key: Path | None = None
    policy: Path | None = None
    signed: bool = True


@dataclass(frozen=True, kw_only=True)
class LogPart:
    """[log]: what is logged, and in which form on standard error."""

    level: str = "info"
    stderr: str = "auto"


@dataclass(frozen=True, kw_only=True)
class ProducerPart:
    """[producer]: the built-in producer that appends to the stream. `rate` is in events per second."""

    kind: str
    rate: float = 100.0
    users: int = 10_000
    seed: int = 1
    profile: str = "money-flow"


@dataclass(frozen=True)
class GoverningText:
    """The part of the settings that can change a result, as canonical JSON; one decision of the audit log."""

    text: bytes

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the text."""
        return hashlib.sha256(self.text).hexdigest()

    @property
    def policy(self) -> Policy:
        """The policy the text stands for. Raises msgspec.ValidationError for anything but such a text."""
        return msgspec.json.decode(self.text, type=Policy)


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What the command line says; None leaves the file's word standing. Paths are relative to the current directory."""

    stream: Path | None = None
    stream_name: str | None = None
    state_dir: Path | None = None
    contract: Path | None = None
    rules: Path | None = None
    policy_invalid: str | None = None
    policy_duplicate: str | None = None
    policy_order: str | None = None
    log_level: str | None = None
    no_producer: bool = False


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything one daemon needs to know. `file` is None where the command line alone said enough."""

    stream: StreamPart
    contract: Path
    rules: Path
    policy: Policy
    state: StatePart
    batch_bytes: int = 4 << 20
    log: LogPart = LogPart()
    evidence: EvidencePart = EvidencePart()
    producer: ProducerPart | None = None
    openlineage: OpenLineagePart | None = None
    file: Path | None = None
    overrides: Overrides = Overrides()
    directory: Path = Path()  # the current directory at the first loading

    def governing(self) -> GoverningText:
        """Return [policy] and `stream.line_limit` as canonical JSON: sorted keys, integer microseconds and bytes."""
        return GoverningText(msgspec.json.encode(self.policy, order="sorted"))

    def reading(self) -> StreamSettings:
        """Return how the stream is read: what `edges.stream` needs of all this."""
        from tidewaiter.edges.stream import StreamSettings  # noqa: PLC0415 - commands that read no stream start faster

        return StreamSettings(
            path=self.stream.path,
            rotate_grace_us=self.stream.rotate_grace_us,
            read_bytes=self.batch_bytes,
            directory=True if self.stream.directory else None,
        )

    def reload(self) -> Settings:
        """Read the same file under the same command line again; `self` stays as it is.

        Raises ConfigError where the file is no longer accepted, or where a setting changed that is fixed for the life
        of the process.
        """
        from tidewaiter.shell.settings_file import load_settings  # noqa: PLC0415 - that module builds on this one

        new = load_settings(self.file, self.overrides, directory=self.directory)
        changed = changed_until_restart(self, new)
        if changed:
            raise ConfigError(
                f"{self.file}: {', '.join(changed)}: cannot change while the daemon runs", hint="restart it instead"
            )
        return new


def changed_until_restart(old: Settings, new: Settings) -> list[str]:
    """Return the keys that differ and need a restart; policies, contract, rules and the alarm do not."""
    pairs: list[tuple[str, object, object]] = [("batch.max_bytes", old.batch_bytes, new.batch_bytes)]
    live = {"silence_alarm_us"}
    for part, one, two in (("stream", old.stream, new.stream), ("state", old.state, new.state)):
        for spec in fields(one):
            if spec.name not in live:
                key = re.sub(r"_us$", "", spec.name)
                pairs.append((f"{part}.{key}", getattr(one, spec.name), getattr(two, spec.name)))
    pairs.append(("stream.line_limit", old.policy.line_limit, new.policy.line_limit))
    pairs.extend((f"log.{key}", getattr(old.log, key), getattr(new.log, key)) for key in ("level", "stderr"))
    pairs.extend((f"evidence.{key}", getattr(old.evidence, key), getattr(new.evidence, key)) for key in _EVIDENCE)
    pairs.append(("producer", old.producer, new.producer))
    pairs.append(("openlineage", old.openlineage, new.openlineage))
    return [key for key, one, two in pairs if one != two]
