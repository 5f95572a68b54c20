"""The output of a replay: a state directory of its own, begun for one history under one set of rules, and never live.

Owns: ``replay.json``, which says for what a directory was begun; the refusal of every directory in which, above or
below which a live state is or would be kept; and the links that make one ordered chain of several files. Leaves to the
supervisor the run itself: a replay is a run to the end of the stream (`once`) that keeps its state in the output.

Invariant: nothing is written before all that could refuse has been asked.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from tidewaiter.core.audit import Decisions
from tidewaiter.core.chain_of_segments import naming_of
from tidewaiter.core.errors import ConfigError
from tidewaiter.edges.lock import StateLock
from tidewaiter.shell.settings import EvidencePart, Overrides, Settings
from tidewaiter.shell.settings_file import COMPRESSED, check_stream_readable, default_stream_name, load_settings
from tidewaiter.shell.state_owner import REPLAY_FILE, REPLAY_SEGMENTS, check_state_usable
from tidewaiter.shell.stream_files import members_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tidewaiter.edges.durable import Disk
    from tidewaiter.shell.governing import Governing

FORMAT: Final = "tidewaiter-replay/1"
_NEW: Final = "name a new --out, or what it was begun with"
_SAID: Final = {
    "config": "another policy",
    "contract": "another contract",
    "ruleset": "other rules",
    "engine": "another version of tidewaiter",
}


class Begun(Struct, frozen=True):
    """For what an output was begun: its files in order, and the digests of what governs."""

    streams: list[str]
    decisions: Decisions
    format: str = FORMAT


@dataclass(frozen=True, kw_only=True)
class ReplaySettings(Settings):
    """The settings of a replay, which nothing changes before its end."""

    def reload(self) -> Settings:
        """Refuse: a history is replayed under one set of rules. Raises ConfigError."""
        raise ConfigError("a replay keeps its rules to its end", hint="replay into a new --out for others")


def replay_settings(streams: Sequence[Path], config: Path | None, overrides: Overrides) -> ReplaySettings:
    """Return the settings for reading `streams` into `overrides.state_dir`; nothing is written.

    Raises ConfigError where a stream cannot be read, or where the output is, holds or lies in a live state directory.
    """
    paths = [_absolute(stream) for stream in streams]
    if overrides.state_dir is not None:
        _refuse_input_inside(paths, _absolute(overrides.state_dir))
    given = replace(overrides, stream=streams[0], no_producer=True)
    settings = load_settings(config, given, or_else="pass --contract and --rules")
    out = settings.state.dir
    if len(paths) > 1:
        _refuse_no_chain(paths)
        part = replace(settings.stream, path=out / REPLAY_SEGMENTS, directory=True)
        settings = replace(settings, stream=part)
    else:
        check_stream_readable(settings, replay=True)
    # a replay is no part of the log: signed with its key, under its name, it would be a fork of it; nor is it a run
    # of the job that others are told about
    settings = replace(settings, evidence=EvidencePart(signed=False), openlineage=None)
    _refuse_live(out, _live_states(config, streams[0], overrides.stream_name))
    check_state_usable(out, settings.stream.name, replay=True)
    return ReplaySettings(**{part.name: getattr(settings, part.name) for part in fields(settings)})


def begin(disk: Disk, settings: Settings, streams: Sequence[Path], governing: Governing) -> bool:
    """Mark the output as begun for `streams` under `governing`; return whether it had been begun before.

    Raises ConfigError where it was begun for something else. If we die here, the output is empty or marked.
    """
    out, paths = settings.state.dir, [str(_absolute(stream)) for stream in streams]
    disk.make_directory(out)
    with StateLock(out / "lock"):
        known = read_begun(out)
        links = _links(out / REPLAY_SEGMENTS, paths)
        if known is None:
            disk.replace_file(
                out / REPLAY_FILE, msgspec.json.format(msgspec.json.encode(Begun(paths, governing.decisions))) + b"\n"
            )
        else:
            _refuse_other(out, known, paths, governing)
        for link, path in links.items():
            disk.make_directory(link.parent)
            if not link.is_symlink():
                link.symlink_to(path)
    return known is not None


def read_begun(out: Path) -> Begun | None:
    """Return for what `out` was begun, None for a new one. Raises ConfigError for what no replay wrote."""
    path = out / REPLAY_FILE
    try:
        begun = msgspec.json.decode(path.read_bytes(), type=Begun)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}", hint="name a new --out") from error
    if begun.format != FORMAT:
        raise ConfigError(f"{path}: is of the format {begun.format}, not {FORMAT}", hint="name a new --out")
    return begun


def _refuse_other(out: Path, known: Begun, paths: list[str], governing: Governing) -> None:
    if known.streams != paths:
        raise ConfigError(
            f"{out}: was begun for the stream {', '.join(known.streams)}, not {', '.join(paths)}", hint=_NEW
        )
    old, new = msgspec.structs.asdict(known.decisions), msgspec.structs.asdict(governing.decisions)
    changed = [_SAID.get(key, f"another {key}") for key in new if old.get(key) != new[key]]
    if changed:
        raise ConfigError(f"{out}: was begun under {', '.join(changed)}", hint=_NEW)


# -- never where something lives ---------------------------------------------------------------------------------


def _live_states(config: Path | None, stream: Path, name: str | None) -> Iterator[Path]:
    """Yield where a daemon keeps or would keep its state: of the configured stream, and of `stream` as `run` has it."""
    for overrides in (Overrides(), Overrides(stream=stream, stream_name=name)):
        try:
            yield load_settings(config, overrides, need_files=False).state.dir
        except ConfigError:  # no such configuration, so no such daemon
            continue
    yield Path.cwd() / "var" / (name or default_stream_name(stream))


def _refuse_live(out: Path, live: Iterator[Path]) -> None:
    hint = "name a new directory of its own with --out"
    if _is_state(out) and read_begun(out) is None:
        raise ConfigError(f"{out}: is a live state directory", hint=hint)
    place = _real(out)
    for state in map(_real, live):
        if place == state or place in state.parents or state in place.parents:
            relation = "is" if place == state else "holds" if place in state.parents else "lies in"
            raise ConfigError(f"--out {out}: {relation} the live state directory {state}", hint=hint)
    around = next((parent for parent in place.parents if _is_state(parent)), None)
    if around is not None:
        raise ConfigError(f"--out {out}: lies in the state directory {around}", hint=hint)


def _is_state(folder: Path) -> bool:
    return (folder / "audit").is_dir() and any(
        (folder / name).exists() for name in ("stream.json", "checkpoint.json", "snapshots")
    )


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


# -- several files -----------------------------------------------------------------------------------------------


def _refuse_input_inside(paths: list[Path], out: Path) -> None:
    inside = next((path for path in paths if out == path or out in path.parents), None)
    if inside is not None:
        raise ConfigError(f"--out {out}: holds the stream {inside}", hint="name a new directory of its own with --out")


def _refuse_no_chain(paths: list[Path]) -> None:
    """Raise ConfigError where the files make no chain: a directory among them, one twice, or a wrong order."""
    for path in paths:
        if path.is_dir():
            raise ConfigError(f"{path}: is a directory", hint="name one directory, or several files in their order")
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError as error:
            raise ConfigError(f"stream {path} cannot be read: {error.strerror}", hint="check the path") from error
    real = [_real(path) for path in paths]
    twice = next((path for at, path in enumerate(real) if path in real[:at]), None)
    if twice is not None:
        raise ConfigError(f"{twice}: is named twice", hint="name each file once, the oldest first")
    for live in paths:
        naming = naming_of(live.name, directory=False)
        family = [path.name for path in paths if path.parent == live.parent and naming.parse(path.name)]
        order = [member.file.name for member in members_of(live) if member.file.name in family]
        if len(family) > 1 and sorted(order) == sorted(family) and order != family:
            raise ConfigError(
                f"{', '.join(family)}: these files of one stream are not in their order",
                hint=f"name {live} alone, its older files come with it; or {' '.join(order)}",
            )


def _links(folder: Path, paths: list[str]) -> dict[Path, str]:
    """Return what each link in `folder` points at, none for one stream alone.

    Raises ConfigError where the folder lies elsewhere, or holds anything but these links: `out` alone is written.
    """
    links = {folder / name: path for name, path in zip(_link_names(paths), paths, strict=True)}
    if len(paths) == 1:
        return {}
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"{folder}: is no directory that a replay made", hint="name a new --out")
    for found in sorted(folder.iterdir()) if folder.exists() else ():
        if found not in links or not found.is_symlink() or str(found.readlink()) != links[found]:
            raise ConfigError(f"{found}: is no link that this replay made", hint="name a new --out")
    return links


def _link_names(paths: list[str]) -> Iterator[str]:
    """Yield names that a directory of segments takes, and reads in this order."""
    for number, path in enumerate(paths, 1):
        name = Path(path).name
        encoding = next((suffix for suffix in COMPRESSED if name.endswith(suffix)), "")
        stem = name.removesuffix(encoding)
        stem = stem if naming_of("", directory=True).parse(f"1{stem}") else f"{stem}.jsonl"
        yield f"{number:06}-{stem}{encoding}"


def _absolute(path: Path) -> Path:
    return Path(os.path.normpath(Path.cwd() / path.expanduser()))
