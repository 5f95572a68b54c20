"""From the configuration file and the command line to `Settings`.

Owns: which sections and keys there are and their bounds (reference: config/README.md), combinations that cannot work,
and the rule for paths. Leaves to `shell.setting_values` reading a typed value, and to `core.contract` and
`core.scenarios` the files that the settings point at.

Paths: those in the file are relative to the directory of the file; those of the command line, and the default state
directory, to the current directory.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.money_flow_generator import MAX_USERS, PROFILES
from tidewaiter.core.screening import Policy
from tidewaiter.core.toml_source import TomlSource, nearest
from tidewaiter.edges.key_files import KEY_ITSELF_HINT, is_key_itself
from tidewaiter.shell.openlineage_settings import read_openlineage
from tidewaiter.shell.setting_values import BadValue, Section, choice, duration, integer, number, size, text
from tidewaiter.shell.settings import EvidencePart, LogPart, Overrides, ProducerPart, Settings, StatePart, StreamPart
from tidewaiter.shell.state_owner import REPLAY_SEGMENTS

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_FILE: Final = Path("config/tidewaiter.toml")
SECTIONS: Final = (
    "stream", "contract", "rules", "policy", "state", "batch", "log", "evidence", "producer", "openlineage",
)  # fmt: skip
INVALID_POLICIES: Final = ("halt", "quarantine")
DUPLICATE_POLICIES: Final = ("halt", "quarantine")
ORDER_POLICIES: Final = ("halt", "quarantine", "admit")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
STDERR_FORMS: Final = ("auto", "json", "console", "none")
PRODUCERS: Final = ("generator",)
COMPRESSED: Final = (".gz", ".zst")
MAX_ORIGIN: Final = 200
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_STREAM_PLACEHOLDER: Final = "{stream}"


def load_settings(
    file: Path | None,
    overrides: Overrides,
    *,
    directory: Path | None = None,
    need_files: bool = True,
    or_else: str = "",
) -> Settings:
    """Read `file` and lay `overrides` over it; `directory` stands for the current directory.

    `file` None means config/tidewaiter.toml under the current directory, or no file where that does not exist and the
    command line names stream, contract and rules itself. `need_files` False: contract and rules need not exist, and are
    the null device where nobody names them. `or_else` says what else the user can do where there is no configuration.
    Raises ConfigError with file, line, column, key and what is allowed.
    """
    directory = Path.cwd() if directory is None else directory
    chosen = _choose_file(file, overrides, directory)
    content = b"" if chosen is None else _read(chosen, or_else if file is None else "")
    source = TomlSource(content, "" if chosen is None else shown(chosen, directory))
    _refuse_unknown_sections(source)
    return _Loader(source, chosen, overrides, directory, need_files=need_files).load()


class _Loader:
    """One pass over one configuration file."""

    def __init__(
        self, source: TomlSource, file: Path | None, overrides: Overrides, directory: Path, *, need_files: bool
    ) -> None:
        self.source = source
        self.file = file
        self.overrides = overrides
        self.directory = directory
        self.need_files = need_files
        self.base = file.parent if file is not None else directory

    def load(self) -> Settings:
        over = self.overrides
        stream, line_limit = self._stream()
        policy = self._policy(line_limit)
        state = self._state(stream)
        batch = Section(self.source, "batch")
        batch_bytes = batch.take("max_bytes", size("1B", "256MiB"), 4 << 20)
        batch.finish()
        log = Section(self.source, "log")
        level = log.take("level", choice(*LOG_LEVELS), LogPart.level)
        log_part = LogPart(
            level=_override("--log-level", over.log_level, LOG_LEVELS) or level,
            stderr=log.take("stderr", choice(*STDERR_FORMS), LogPart.stderr),
        )
        log.finish()
        evidence = self._evidence()
        producer = self._producer(stream)
        openlineage = read_openlineage(Section(self.source, "openlineage"), self._resolve)
        # last: a misspelt key explains a missing file better than the other way round
        contract = self._file_part("contract", over.contract)
        rules = self._file_part("rules", over.rules)
        self._refuse_overlap(stream, state)
        return Settings(
            stream=stream,
            contract=contract,
            rules=rules,
            policy=policy,
            state=state,
            batch_bytes=batch_bytes,
            log=log_part,
            evidence=evidence,
            producer=producer,
            openlineage=openlineage,
            file=self.file,
            overrides=over,
            directory=self.directory,
        )

    def _stream(self) -> tuple[StreamPart, int]:
        section = Section(self.source, "stream")
        named = section.take("name", _stream_name, None)
        path_text = section.take("path", text, None)
        grace = section.take("rotate_grace", duration("0s", "1h"), StreamPart.rotate_grace_us)
        poll = section.take("poll_interval", duration("10ms", "1m"), StreamPart.poll_interval_us)
        line_limit = section.take("line_limit", size("256B", "64MiB"), Policy().line_limit)
        silence = section.take("silence_alarm", _or_off(duration("1s", "365d")), None)
        section.finish()
        if grace < poll:
            raise section.error(
                "rotate_grace", "is shorter than poll_interval", "a file is closed after a look that found it unchanged"
            )
        if silence is not None and silence <= poll:
            raise section.error("silence_alarm", "is not longer than poll_interval", 'make it longer, or "off"')
        configured = None if path_text is None else self._resolve(path_text)
        if self.overrides.stream is not None:
            path = _absolute(self.directory, self.overrides.stream)
            named = named if path == configured else None
        elif configured is not None:
            path = configured
        else:
            raise ConfigError(
                f"{self.source.file or 'command line'}: stream.path: is missing",
                hint='add path = "…" under [stream], or name the STREAM on the command line',
            )
        if self.overrides.stream_name is not None:
            try:
                named = _stream_name(self.overrides.stream_name)
            except BadValue as bad:
                raise ConfigError(f"--stream-name: {bad.what}", hint=bad.allowed) from bad
        part = StreamPart(
            name=named or default_stream_name(path),
            path=path,
            rotate_grace_us=grace,
            poll_interval_us=poll,
            silence_alarm_us=silence,
            directory=path == configured and path_text is not None and path_text.endswith("/"),
        )
        return part, line_limit

    def _policy(self, line_limit: int) -> Policy:
        section, over, base = Section(self.source, "policy"), self.overrides, Policy()
        invalid = section.take("invalid", choice(*INVALID_POLICIES), base.invalid)
        duplicate = section.take("duplicate", choice(*DUPLICATE_POLICIES), base.duplicate)
        order = section.take("order", choice(*ORDER_POLICIES), base.order)
        policy = Policy(
            invalid=_override("--policy-invalid", over.policy_invalid, INVALID_POLICIES) or invalid,
            duplicate=_override("--policy-duplicate", over.policy_duplicate, DUPLICATE_POLICIES) or duplicate,
            order=_override("--policy-order", over.policy_order, ORDER_POLICIES) or order,
            duplicate_horizon=section.take("duplicate_horizon", duration("1s", "3650d"), base.duplicate_horizon),
            allowed_skew=section.take("allowed_skew", duration("0s", "365d"), base.allowed_skew),
            max_forward_jump=section.take("max_forward_jump", duration("1s", "3650d"), base.max_forward_jump),
            line_limit=line_limit,
        )
        section.finish()
        return policy

    def _state(self, stream: StreamPart) -> StatePart:
        section = Section(self.source, "state")
        dir_text = section.take("dir", text, None)
        part = StatePart(
            dir=Path(),
            segment_bytes=section.take("segment_bytes", size("4KiB", "64GiB"), StatePart.segment_bytes),
            snapshot_events=section.take("snapshot_events", integer(1, 500_000), StatePart.snapshot_events),
            snapshot_interval_us=section.take(
                "snapshot_interval", duration("1s", "24h"), StatePart.snapshot_interval_us
            ),
        )
        section.finish()
        if dir_text is not None and re.search(r"[{}]", dir_text.replace(_STREAM_PLACEHOLDER, "")):
            raise section.error("dir", f'"{dir_text}" has an unknown placeholder', f"allowed: {_STREAM_PLACEHOLDER}")
        if self.overrides.state_dir is not None:
            place = _absolute(self.directory, self.overrides.state_dir)
        elif dir_text is not None and (_STREAM_PLACEHOLDER in dir_text or self._watches_configured_stream(stream)):
            place = self._resolve(dir_text.replace(_STREAM_PLACEHOLDER, stream.name))
        else:
            place = _absolute(self.directory, Path("var", stream.name))
        return replace(part, dir=place)

    def _evidence(self) -> EvidencePart:
        section = Section(self.source, "evidence")
        origin = section.take("origin", _origin, None)
        key = section.take("key", _key_file, None)
        policy = section.take("policy", text, None)
        section.finish()
        return EvidencePart(
            origin=origin,
            key=None if key is None else self._resolve(key),
            policy=None if policy is None else self._resolve(policy),
        )

    def _watches_configured_stream(self, stream: StreamPart) -> bool:
        """Whether the state directory of the file belongs to the stream that is watched."""
        if self.overrides.stream is None:
            return True
        table = self.source.data.get("stream", {})
        return "path" in table and stream.path == self._resolve(table["path"])

    def _file_part(self, name: str, override: Path | None) -> Path:
        section = Section(self.source, name)
        file_text = section.take("file", text, None)
        section.finish()
        if override is not None:
            path = _absolute(self.directory, override)
        elif file_text is not None:
            path = self._resolve(file_text)
        elif not self.need_files:
            return Path(os.devnull)
        else:
            raise ConfigError(
                f"{self.source.file or 'command line'}: {name}.file: is missing",
                hint=f'add file = "…" under [{name}], or pass --{name} FILE',
            )
        if not self.need_files:
            return path
        what, hint = "", f"name the {name} file"
        if not path.is_file():
            what = f"{path} {'is a directory' if path.is_dir() else 'does not exist'}"
        elif not os.access(path, os.R_OK):
            what, hint = f"{path} cannot be read", "check its permissions"
        if not what:
            return path
        if override is not None:
            raise ConfigError(f"--{name}: {what}", hint=hint)
        raise section.error("file", what, hint)

    def _producer(self, stream: StreamPart) -> ProducerPart | None:
        section = Section(self.source, "producer")
        kind = section.take("kind", choice(*PRODUCERS), None)
        part = ProducerPart(
            kind=kind or "",
            rate=section.take("rate", number(0, 1_000_000), ProducerPart.rate),
            users=section.take("users", integer(1, MAX_USERS), ProducerPart.users),
            seed=section.take("seed", integer(0, 2**63 - 1), ProducerPart.seed),
            profile=section.take("profile", choice(*PROFILES), ProducerPart.profile),
        )
        section.finish()
        if not section.present or self.overrides.stream is not None or self.overrides.no_producer:
            return None
        if kind is None:
            raise section.error("kind", "is missing", f'add kind = "{PRODUCERS[0]}", or remove [producer]')
        if stream.path.suffix in COMPRESSED:
            raise section.error("kind", f"cannot append to the compressed file {stream.path}", "name a plain file")
        if stream.path.is_dir():
            raise section.error("kind", f"cannot append to the directory {stream.path}", "name a file in [stream] path")
        return part

    def _refuse_overlap(self, stream: StreamPart, state: StatePart) -> None:
        """Raise ConfigError where the daemon's own output could be taken for its input."""
        if stream.path == state.dir / REPLAY_SEGMENTS:  # links that a replay made to its input, for `tidewaiter skip`
            return
        inside = stream.path == state.dir or state.dir in stream.path.parents
        around = stream.path in state.dir.parents and stream.path.is_dir()
        if inside or around:
            relation = "lies inside" if inside else "holds"
            raise ConfigError(
                f"the stream {stream.path} {relation} the state directory {state.dir}",
                hint="choose another --state-dir, or [state] dir",
            )

    def _resolve(self, path: str) -> Path:
        return _absolute(self.base, Path(path))


def _key_file(value: object) -> str:
    """Accept the name of a key file; a key itself is not shown."""
    named = text(value)
    if is_key_itself(named):
        raise BadValue("is a private key itself", KEY_ITSELF_HINT)
    return named


def default_stream_name(path: Path) -> str:
    """Return the name of a stream that has none: its file's stem, with unusual characters as ``_``."""
    name = path.name
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", Path(name).stem).lstrip("._-")[:64]
    return stem or "stream"


def check_stream_readable(settings: Settings, *, once: bool = False, replay: bool = False) -> None:
    """Raise ConfigError where the stream cannot be watched: unreadable, or in a directory that does not exist.

    A stream that does not exist yet is fine, and where a producer makes it, so is its directory. With `once`, and for
    a `replay`, nobody waits for it: at least one of its files must be there.
    """
    path = settings.stream.path
    try:
        if path.is_dir():
            os.listdir(path)  # noqa: PTH208 - only whether it works is asked
        else:
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
            if not path.is_file():
                raise ConfigError(f"stream {path} is no regular file", hint="name a file or a directory of files")
    except FileNotFoundError as error:
        if settings.producer is None and not path.parent.is_dir():
            raise ConfigError(
                f"stream {path}: its directory does not exist", hint=f"create {path.parent}, or correct the path"
            ) from error
        if (once or replay) and (settings.stream.directory or not _has_rotated_file(path)):
            raise ConfigError(
                f"stream {path} does not exist",
                hint="correct the path" if replay else "correct the path; without --once the daemon waits for it",
            ) from error
    except OSError as error:
        raise ConfigError(
            f"stream {path} cannot be read: {error.strerror}", hint="check the path and its permissions"
        ) from error


def _has_rotated_file(stream: Path) -> bool:
    """Whether older files of the stream are there while the newest is not, as in the middle of a rotation."""
    from tidewaiter.shell.stream_files import members_of  # noqa: PLC0415 - the other commands start faster

    return bool(members_of(stream))


def _choose_file(file: Path | None, overrides: Overrides, directory: Path) -> Path | None:
    if file is not None:
        return _absolute(directory, file)
    default = directory / DEFAULT_FILE
    enough = overrides.stream is not None and overrides.contract is not None and overrides.rules is not None
    return None if enough and not default.exists() else default


def _read(file: Path, or_else: str) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        ways = f"name the configuration with --config FILE{f', or {or_else}' if or_else else ''}"
        raise ConfigError(f"{file}: does not exist", hint=ways) from error
    except OSError as error:
        hint = "check the path and its permissions"
        raise ConfigError(f"{file}: cannot be read: {error.strerror}", hint=hint) from error


def _refuse_unknown_sections(source: TomlSource) -> None:
    for name, value in source.data.items():
        if name not in SECTIONS:
            what = "unknown section" if isinstance(value, dict) else "unknown key outside of any section"
            hint = nearest(name, SECTIONS, quote='"', listing=f"sections: {', '.join(SECTIONS)}")
            raise source.error((name,), what, hint=hint, key=True)


def _absolute(base: Path, path: Path) -> Path:
    """Return an absolute path without ``..``; symbolic links stay, for they may be switched while the daemon runs."""
    return Path(os.path.normpath(base / path.expanduser()))


def shown(file: Path, directory: Path) -> str:
    """Return the file as a person would name it: relative where it lies under the current directory."""
    under = file.is_relative_to(directory) and directory != directory.parent  # everything lies under the root
    return str(file.relative_to(directory)) if under else str(file)


def _stream_name(value: object) -> str | None:
    name = text(value)
    if not _NAME.fullmatch(name):
        raise BadValue(f'"{name}" is not a stream name', "use up to 64 letters, digits, '.', '_' and '-'")
    return name


def _origin(value: object) -> str:
    name = text(value)
    if not name or len(name) > MAX_ORIGIN or "+" in name or not name.isprintable() or any(map(str.isspace, name)):
        raise BadValue(
            f'"{name}" is no name of a log', f"a URL without its scheme, up to {MAX_ORIGIN} letters, no space and no +"
        )
    return name


def _or_off(convert: Callable[[object], int]) -> Callable[[object], int | None]:
    def converted(value: object) -> int | None:
        return None if value == "off" else convert(value)

    return converted


def _override(option: str, value: str | None, allowed: tuple[str, ...]) -> str | None:
    if value is not None and value not in allowed:
        raise ConfigError(f'{option}: unknown value "{value}"', hint=f"allowed: {', '.join(allowed)}")
    return value
