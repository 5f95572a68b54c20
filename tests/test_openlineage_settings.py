"""The section [openlineage]: what it says, what is refused, and a key that is of no use."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from rigs.daemon import make_settings, make_stream, run, write_config
from tidewaiter.core.errors import ConfigError
from tidewaiter.edges.durable import Disk
from tidewaiter.shell.openlineage_settings import OpenLineagePart
from tidewaiter.shell.openlineage_stream import StreamLineage
from tidewaiter.shell.settings import Overrides
from tidewaiter.shell.settings_file import load_settings

if TYPE_CHECKING:
    from pathlib import Path


def test_the_section_is_read_and_checked(tmp_path: Path) -> None:
    """Defaults, units, and what is refused with file, line and key."""
    stream = make_stream(tmp_path / "events.jsonl", 1)

    def load(*lines: str) -> OpenLineagePart | None:
        file = write_config(tmp_path / "config", stream, tmp_path / "state", openlineage="\n".join(lines))
        return load_settings(file, Overrides()).openlineage

    assert load() == OpenLineagePart(namespace="tidewaiter", url=None, api_key_file=None, timeout_us=10_000_000)
    (tmp_path / "config" / "key").write_text("k", encoding="utf-8")
    found = load(
        'namespace = "bank/prod"', 'url = "https://lineage.example/api"', 'api_key_file = "key"', 'timeout = "500ms"'
    )
    assert found == OpenLineagePart(
        namespace="bank/prod", url="https://lineage.example/api", api_key_file=tmp_path / "config" / "key",
        timeout_us=500_000,
    )  # fmt: skip
    for lines, key in (
        (['url = "ftp://h"'], "url"), (['api_key_file = "key"'], "api_key_file"), (['timeout = "1h"'], "timeout"),
        (["timeout = 5"], "timeout"), (['namespace = "a b"'], "namespace"), (['urll = "http://h"'], "urll"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=rf"tidewaiter\.toml:\d+:\d+: openlineage\.{key}: "):
            load(*lines)
    file = write_config(tmp_path / "none", stream, tmp_path / "state")
    assert load_settings(file, Overrides()).openlineage is None


def test_a_key_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    """Before anything is touched, exit 2."""
    key = tmp_path / "key"
    key.write_text("k", encoding="utf-8")
    key.chmod(0o644)
    made = make_settings(make_stream(tmp_path / "events.jsonl", 1), tmp_path / "state")
    settings = replace(made, openlineage=OpenLineagePart(url="http://127.0.0.1:1", api_key_file=key))
    with pytest.raises(ConfigError, match="others can get at the API key"):
        StreamLineage(Disk(), settings, lambda: "")
    ended = run(settings)
    assert ended.status == 2
    assert not settings.state.dir.exists()
