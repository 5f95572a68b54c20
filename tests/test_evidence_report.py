"""What `tidewaiter status` says about checkpoints: who signed them, why nobody did, and what waits for one."""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from rigs import daemon
from tidewaiter.edges.durable import Disk
from tidewaiter.edges.key_files import create_key_file, make_key, read_key_file
from tidewaiter.shell import keys
from tidewaiter.shell.commands.status import _rows
from tidewaiter.shell.settings import EvidencePart
from tidewaiter.shell.state_report import Target, read_report

if TYPE_CHECKING:
    from pathlib import Path

    from tidewaiter.shell.settings import Settings

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)  # as exact as a report's time


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A log that a key signs, made by a daemon that is not running any more."""
    file = tmp_path / "log.key"
    create_key_file(Disk(), file, make_key("example.com/log"), None)
    stream = daemon.make_stream(tmp_path / "in" / "events.jsonl", 30)
    made = replace(daemon.make_settings(stream, tmp_path / "state"), evidence=EvidencePart(key=file))
    daemon.succeed(made)
    return made


def said(settings: Settings, name: str) -> str:
    """Return one line of the table."""
    report = read_report(Target(settings.state.dir, None, None), NOW)
    return next(text for found, text, _ in _rows(report) if found == name)


def revoke(settings: Settings) -> None:
    """Take the trust from the log's only key; its entry waits for a checkpoint until a daemon runs again."""
    assert settings.evidence.key is not None
    (key,) = read_key_file(settings.evidence.key)
    keys.revoke(settings, str(key.verifier), -1, "stolen", "J. Doe")


def age(path: Path, seconds: float) -> None:
    """Let a file be written so long ago."""
    at = NOW.timestamp() - seconds
    os.utime(path, (at, at))


def test_log_whose_key_was_revoked_is_told_from_one_without_a_key(settings: Settings, tmp_path: Path) -> None:
    """The first wants another key to take over, the second its first: what helps one is refused by the other."""
    assert "signed by example.com/log+" in said(settings, "evidence")
    revoke(settings)
    daemon.succeed(settings)
    assert said(settings, "evidence").endswith("NOT SIGNED: its key was revoked: tidewaiter keys rotate")
    unsigned = replace(
        settings, state=replace(settings.state, dir=tmp_path / "unsigned"), evidence=EvidencePart(key=None)
    )
    daemon.succeed(unsigned)
    assert said(unsigned, "evidence").endswith("NOT SIGNED: make a key with tidewaiter keys new")


@pytest.mark.parametrize(("seconds", "told"), [(30, ""), (61, "61 s"), (125, "2 min"), (7300, "2 h"), (400_000, "4 d")])
def test_entries_that_wait_are_told_with_the_age_of_what_they_wait_for(
    settings: Settings, seconds: float, told: str
) -> None:
    """After a minute, for a checkpoint and for a witness; where nothing waits, an old checkpoint is as good as new."""
    tlog = settings.state.dir / "tlog"
    (tlog / "witnessed").write_bytes((tlog / "checkpoint").read_bytes())
    for path in (tlog / "checkpoint", tlog / "witnessed"):
        age(path, seconds)
    assert " ago" not in said(settings, "evidence") + said(settings, "witnessed")
    revoke(settings)
    covered, witnessed = said(settings, "evidence"), said(settings, "witnessed")
    if told:
        assert f"newest checkpoint {told} ago" in covered
        assert witnessed.endswith(f"last cosigned {told} ago")
    else:
        assert " ago" not in covered + witnessed
