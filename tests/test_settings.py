"""The settings: what the file and the command line may say, what comes of it, and what every mistake is told."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.screening import Policy
from tidewaiter.shell.setting_values import duration, duration_text, size, size_text
from tidewaiter.shell.settings import GoverningText, Overrides, Settings
from tidewaiter.shell.settings_file import check_stream_readable, default_stream_name, load_settings

MINIMAL = """\
[stream]
path = "in/events.jsonl"
[contract]
file = "contract.toml"
[rules]
file = "rules.toml"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a configuration's neighbours: contract, rules, and an empty stream."""
    (tmp_path / "contract.toml").write_text("")
    (tmp_path / "rules.toml").write_text("")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "events.jsonl").write_text("")
    return tmp_path


def load(place: Path, text: str, **overrides: object) -> Settings:
    """Load `text` as the configuration in `place`, which is the current directory as well."""
    file = place / "tidewaiter.toml"
    file.write_text(text)
    return load_settings(file, Overrides(**overrides), directory=place)  # type: ignore[arg-type]


def with_section(section: str, line: str) -> str:
    """Return the minimal file with `line` added to `section`."""
    if f"[{section}]\n" in MINIMAL:
        return MINIMAL.replace(f"[{section}]\n", f"[{section}]\n{line}\n")
    return f"{MINIMAL}[{section}]\n{line}\n"


# -- what is said where nothing is said ----------------------------------------------------------------------------


def test_a_minimal_file_gets_the_documented_defaults(place: Path) -> None:
    """Every setting has a default but the three paths, and policies halt."""
    settings = load(place, MINIMAL)
    assert settings.policy == Policy("halt", "halt", "halt", 86_400_000_000, 5_000_000, 2_592_000_000_000, 1 << 20)
    assert settings.stream.name == "events"
    assert (settings.stream.rotate_grace_us, settings.stream.poll_interval_us) == (5_000_000, 500_000)
    assert settings.stream.silence_alarm_us is None
    assert settings.state.dir == place / "var" / "events"
    assert (settings.state.segment_bytes, settings.state.snapshot_events) == (256 << 20, 500_000)
    assert settings.state.snapshot_interval_us == 300_000_000
    assert settings.batch_bytes == 4 << 20
    assert (settings.log.level, settings.log.stderr) == ("info", "auto")
    assert settings.producer is None


def test_every_setting_reaches_its_place(place: Path) -> None:
    """No key is read and forgotten."""
    settings = load(
        place,
        """
        [stream]
        name = "payments"
        path = "in/events.jsonl"
        rotate_grace = "7s"
        poll_interval = "250ms"
        line_limit = "64KiB"
        silence_alarm = "15m"
        [contract]
        file = "contract.toml"
        [rules]
        file = "rules.toml"
        [policy]
        invalid = "quarantine"
        duplicate = "quarantine"
        order = "admit"
        duplicate_horizon = "72h"
        allowed_skew = "1m"
        max_forward_jump = "30d"
        [state]
        dir = "state/{stream}"
        segment_bytes = "1MiB"
        snapshot_events = 1000
        snapshot_interval = "10s"
        [batch]
        max_bytes = "4KiB"
        [log]
        level = "debug"
        stderr = "json"
        [producer]
        kind = "generator"
        rate = 12.5
        users = 7
        seed = 3
        profile = "quiet"
        """,
    )
    assert settings.policy == Policy(
        "quarantine", "quarantine", "admit", 259_200_000_000, 60_000_000, 2_592_000_000_000, 65_536
    )
    stream, state, producer = settings.stream, settings.state, settings.producer
    assert (stream.name, stream.rotate_grace_us, stream.poll_interval_us) == ("payments", 7_000_000, 250_000)
    assert stream.silence_alarm_us == 900_000_000
    assert (state.dir, state.segment_bytes, state.snapshot_events) == (place / "state/payments", 1 << 20, 1000)
    assert (state.snapshot_interval_us, settings.batch_bytes) == (10_000_000, 4096)
    assert (settings.log.level, settings.log.stderr) == ("debug", "json")
    assert producer is not None
    assert (producer.rate, producer.users, producer.seed, producer.profile) == (12.5, 7, 3, "quiet")


def test_the_reference_names_every_key_and_its_default(repository: Path) -> None:
    """config/README.md documents each key that the loader knows, with the default that the loader has."""
    reference = (repository / "config" / "README.md").read_text()
    for key, default in {
        "path": None, "name": None, "rotate_grace": "5s", "poll_interval": "500ms", "line_limit": "1MiB",
        "silence_alarm": "off", "contract.file": None, "rules.file": None, "invalid": "halt", "duplicate": "halt",
        "order": "halt", "duplicate_horizon": "24h", "allowed_skew": "5s", "max_forward_jump": "720h", "dir": None,
        "segment_bytes": "256MiB", "snapshot_interval": "5m", "max_bytes": "4MiB", "level": "info", "stderr": "auto",
        "kind": None, "rate": None, "users": None, "seed": None, "profile": "money-flow",
    }.items():  # fmt: skip
        row = f'| `{key}` | `"{default}"` |' if default is not None else f"| `{key}` |"
        assert row in reference, row


def test_the_shipped_configuration_is_valid_and_halts(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped file loads from any directory, and its state lies in the clone's var."""
    file = repository / "config" / "tidewaiter.toml"
    monkeypatch.chdir("/")
    settings = load_settings(file, Overrides(), need_files=False)
    assert settings.policy == Policy()
    assert settings.stream.path == repository / "var" / "stream" / "events.jsonl"
    assert settings.state.dir == repository / "var" / "events"
    assert settings.producer is not None
    other = load_settings(file, Overrides(stream=Path("/data/sample.jsonl")), need_files=False)
    assert other.state.dir == repository / "var" / "sample"
    assert other.producer is None


# -- paths and the command line ------------------------------------------------------------------------------------


def test_paths_in_the_file_are_relative_to_the_file_and_others_to_the_current_directory(tmp_path: Path) -> None:
    """The one documented rule, both halves."""
    folder = tmp_path / "etc"
    folder.mkdir()
    here = tmp_path / "here"
    here.mkdir()
    for name in ("c.toml", "r.toml"):
        (folder / name).write_text("")
        (here / name).write_text("")
    text = (
        '[stream]\npath = "../s.jsonl"\n[contract]\nfile = "c.toml"\n[rules]\nfile = "r.toml"\n[state]\ndir = "../st"\n'
    )
    (folder / "t.toml").write_text(text)
    settings = load_settings(Path("../etc/t.toml"), Overrides(), directory=here)
    assert settings.stream.path == tmp_path / "s.jsonl"
    assert (settings.contract, settings.state.dir) == (folder / "c.toml", tmp_path / "st")
    over = Overrides(stream=Path("x.jsonl"), contract=Path("c.toml"), rules=Path("r.toml"), state_dir=Path("st"))
    settings = load_settings(Path("../etc/t.toml"), over, directory=here)
    assert (settings.stream.path, settings.contract) == (here / "x.jsonl", here / "c.toml")
    assert (settings.rules, settings.state.dir) == (here / "r.toml", here / "st")


def test_a_stream_on_the_command_line_never_gets_the_configured_stream_s_state(place: Path) -> None:
    """Name, state directory and producer of the file belong to its own stream."""
    text = with_section("stream", 'name = "payments"') + '[state]\ndir = "kept"\n[producer]\nkind = "generator"\n'
    assert load(place, text).state.dir == place / "kept"
    other = load(place, text, stream=Path("other.jsonl"))
    assert (other.stream.name, other.state.dir, other.producer) == ("other", place / "var" / "other", None)
    same = load(place, text, stream=Path("in/events.jsonl"))
    assert (same.stream.name, same.state.dir, same.producer) == ("payments", place / "kept", None)
    named = load(place, text, stream=Path("other.jsonl"), stream_name="mine")
    assert (named.stream.name, named.state.dir) == ("mine", place / "var" / "mine")


def test_the_command_line_wins_over_the_file(place: Path) -> None:
    """Each override replaces exactly its own setting."""
    settings = load(
        place,
        with_section("policy", 'invalid = "halt"'),
        policy_invalid="quarantine",
        policy_duplicate="quarantine",
        policy_order="admit",
        log_level="error",
        no_producer=True,
    )
    assert settings.policy == Policy("quarantine", "quarantine", "admit")
    assert settings.log.level == "error"


def test_without_a_file_the_command_line_may_say_it_all(place: Path) -> None:
    """Stream, contract and rules are enough; one of them missing is an error that names the file."""
    over = Overrides(stream=Path("in/events.jsonl"), contract=Path("contract.toml"), rules=Path("rules.toml"))
    settings = load_settings(None, over, directory=place)
    assert settings.file is None
    assert settings.state.dir == place / "var" / "events"
    with pytest.raises(ConfigError, match=r"config/tidewaiter\.toml: does not exist: .*--config FILE"):
        load_settings(None, Overrides(stream=Path("in/events.jsonl")), directory=place)


def test_the_default_file_lies_under_the_current_directory(place: Path) -> None:
    """Without --config, config/tidewaiter.toml is read."""
    (place / "config").mkdir()
    text = MINIMAL.replace('file = "', 'file = "../')
    (place / "config" / "tidewaiter.toml").write_text(text)
    assert load_settings(None, Overrides(), directory=place).contract == place / "contract.toml"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("events.jsonl", "events"),
        ("events.jsonl.gz", "events"),
        ("events.2026-03.jsonl.zst", "events.2026-03"),
        ("plain", "plain"),
        ("my events (1).jsonl", "my_events__1_"),
        (".hidden", "hidden"),
        ("…", "stream"),
    ],
)
def test_a_stream_is_named_after_its_file(file: str, name: str) -> None:
    """The default name is usable in a path and on a metric, whatever the file is called."""
    assert default_stream_name(Path("/x") / file) == name


# -- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("[stream\n", r"tidewaiter\.toml:1:8: is not TOML: ", id="bad-toml"),
        pytest.param('[stream]\npath = "a"\nx = "', r"tidewaiter\.toml:3:6: is not TOML: ", id="open-string"),
        pytest.param(MINIMAL + "[polcy]\n", r":7:1: polcy: unknown section: did you mean \"policy\"\?", id="section"),
        pytest.param("name = 1\n" + MINIMAL, r":1:1: name: unknown key outside of any section", id="outside"),
        pytest.param(
            with_section("stream", 'rotate_grce = "5s"'),
            r":2:1: stream\.rotate_grce: unknown key: did you mean \"rotate_grace\"\? allowed: name, path",
            id="unknown-key",
        ),
        pytest.param(
            with_section("policy", "invalid = true"),
            r":8:11: policy\.invalid: must be a string, not a boolean: allowed: \"halt\", \"quarantine\"",
            id="wrong-type",
        ),
        pytest.param(
            with_section("policy", 'order = "admitt"'),
            r":8:9: policy\.order: unknown value \"admitt\": did you mean \"admit\"\? "
            r"allowed: \"halt\", \"quarantine\"",
            id="unknown-policy",
        ),
        pytest.param(
            with_section("policy", 'duplicate = "admit"'),
            r":8:13: policy\.duplicate: unknown value \"admit\": allowed: \"halt\", \"quarantine\"",
            id="policy-of-another",
        ),
        pytest.param(
            with_section("stream", 'rotate_grace = "5 seconds"'),
            r":2:16: stream\.rotate_grace: \"5 seconds\" is not a duration: .*us, ms, s, m, h, d, for example \"5s\"",
            id="bad-duration",
        ),
        pytest.param(
            with_section("stream", "rotate_grace = 5"),
            r":2:16: stream\.rotate_grace: must be a duration in quotes, not an integer",
            id="duration-without-unit",
        ),
        pytest.param(
            with_section("policy", 'allowed_skew = "0.5s"'), r"policy\.allowed_skew: \"0\.5s\" is not", id="fraction"
        ),
        pytest.param(
            with_section("stream", 'line_limit = "1MB"'),
            r":2:14: stream\.line_limit: .*B, KiB, MiB, GiB",
            id="bad-size",
        ),
        pytest.param(
            with_section("stream", 'line_limit = "1B"'),
            r"out of range: allowed: \"256B\" to \"64MiB\"",
            id="size-range",
        ),
        pytest.param(
            with_section("state", "snapshot_events = 0"),
            r"state\.snapshot_events: 0 .*from 1 to 500000",
            id="int-range",
        ),
        pytest.param(with_section("state", "snapshot_events = true"), r"must be an integer, not a boolean", id="bool"),
        pytest.param(
            with_section("state", 'dir = "{name}"'), r"unknown placeholder: allowed: \{stream\}", id="placeholder"
        ),
        pytest.param(with_section("stream", 'name = "a/b"'), r"\"a/b\" is not a stream name", id="name"),
        pytest.param(with_section("producer", "rate = 5"), r"producer\.kind: is missing", id="producer-kind"),
        pytest.param(
            with_section("producer", 'kind = "generator"\nrate = 0'), r"producer\.rate: 0 is out of range", id="rate"
        ),
        pytest.param(
            with_section("producer", 'kind = "generator"\nprofile = "money_flow"'),
            r"did you mean \"money-flow\"\?",
            id="profile",
        ),
        pytest.param(with_section("log", 'level = "verbose"'), r"log\.level: .*\"debug\", \"info\"", id="level"),
        pytest.param("[contract]\nfile = 'contract.toml'\n", r"stream\.path: is missing: .*STREAM", id="no-stream"),
        pytest.param(MINIMAL.replace("[rules]\n", "[log]\n"), r"log\.file: unknown key", id="key-of-another"),
        pytest.param(MINIMAL[: MINIMAL.index("[rules]")], r"rules\.file: is missing: .*--rules FILE", id="no-rules"),
        pytest.param(
            MINIMAL.replace("contract.toml", "gone.toml"),
            r":4:8: contract\.file: .*gone\.toml does not exist",
            id="gone",
        ),
        pytest.param(MINIMAL.replace("rules.toml", "in"), r":6:8: rules\.file: .*in is a directory", id="directory"),
        pytest.param(MINIMAL.replace("[rules]", "[[rules]]"), r"rules: must be a section, not an array", id="array"),
        # combinations that cannot work
        pytest.param(
            with_section("stream", 'rotate_grace = "100ms"'), r"rotate_grace: is shorter than poll_interval", id="grace"
        ),
        pytest.param(
            with_section("stream", 'silence_alarm = "1s"\npoll_interval = "1s"'), r"not longer than poll", id="silence"
        ),
        pytest.param(with_section("state", 'dir = "in"'), r"lies inside the state directory", id="stream-in-state"),
        pytest.param(
            MINIMAL.replace("in/events.jsonl", "in") + '[state]\ndir = "in/state"\n',
            r"holds the state dir",
            id="around",
        ),
        pytest.param(
            MINIMAL.replace("events.jsonl", "e.jsonl.gz") + '[producer]\nkind = "generator"\n',
            r"cannot append to the compressed file",
            id="producer-compressed",
        ),
        pytest.param(
            MINIMAL.replace("in/events.jsonl", "in") + '[producer]\nkind = "generator"\n',
            r"cannot append to the directory",
            id="producer-directory",
        ),
    ],
)
def test_a_mistake_is_told_with_file_line_column_key_and_what_is_allowed(place: Path, text: str, message: str) -> None:
    """Each mistake is a ConfigError (exit 2) in one line that begins with the file's name."""
    with pytest.raises(ConfigError, match=message) as caught:
        load(place, text)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_file_that_is_not_utf_8_is_refused(place: Path) -> None:
    """The file is text; a wrong encoding is named as such."""
    (place / "t.toml").write_bytes(b"[stream]\nname = '\xff'\n")
    with pytest.raises(ConfigError, match=r"t\.toml:2:9: byte 17 is not UTF-8"):
        load_settings(place / "t.toml", Overrides(), directory=place)


def test_an_unreadable_configuration_is_named(place: Path) -> None:
    """A directory, as any file the system will not read, is one line with the system's reason."""
    with pytest.raises(ConfigError, match=r"in: cannot be read: Is a directory: check the path"):
        load_settings(place / "in", Overrides(), directory=place)


def test_an_unreadable_contract_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing permission on a file the settings point at is found before anything starts."""
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "rules.toml")
    with pytest.raises(ConfigError, match=r":6:8: rules\.file: .*rules\.toml cannot be read: check its permissions"):
        load(place, MINIMAL)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("policy_order", "admitt", r"--policy-order: unknown value \"admitt\": allowed: halt, quarantine, admit"),
        ("stream_name", "a b", r"--stream-name: \"a b\" is not a stream name"),
        ("contract", Path("gone.toml"), r"--contract: .*gone\.toml does not exist"),
    ],
)
def test_a_mistake_on_the_command_line_names_the_option(place: Path, option: str, value: object, message: str) -> None:
    """An override is checked like the file, and the message names the option, not the file."""
    with pytest.raises(ConfigError, match=message):
        load(place, MINIMAL, **{option: value})


# -- the stream ----------------------------------------------------------------------------------------------------


def test_a_stream_may_appear_late_but_its_directory_must_exist(place: Path) -> None:
    """Waiting for a file is normal; waiting in a directory that nobody made is a mistake."""
    check_stream_readable(load(place, MINIMAL, stream=Path("in/later.jsonl")))
    with pytest.raises(ConfigError, match=r"gone/x\.jsonl: its directory does not exist: create .*gone"):
        check_stream_readable(load(place, MINIMAL, stream=Path("gone/x.jsonl")))


def test_nobody_waits_for_a_stream_that_is_read_once(place: Path) -> None:
    """A misspelt file is no empty stream; a directory, and the older files of a rotation, are there."""
    later = load(place, MINIMAL, stream=Path("in/later.jsonl"))
    with pytest.raises(ConfigError, match=r"in/later\.jsonl does not exist: correct the path; without --once"):
        check_stream_readable(later, once=True)
    (place / "in" / "later.jsonl.1").write_text("")
    check_stream_readable(later, once=True)
    check_stream_readable(load(place, MINIMAL, stream=Path("in")), once=True)
    with pytest.raises(ConfigError, match=r"segments does not exist"):
        check_stream_readable(load(place, MINIMAL.replace("events.jsonl", "segments/")), once=True)


def test_a_producer_makes_the_stream_s_directory(place: Path) -> None:
    """The demo starts in a fresh clone."""
    text = MINIMAL.replace("in/", "made/") + '[producer]\nkind = "generator"\n'
    check_stream_readable(load(place, text))


def test_an_unreadable_stream_is_one_line(place: Path) -> None:
    """What the system refuses is said in its words, with what to do; what is no file is not waited on."""
    (place / "in" / "loop.jsonl").symlink_to("loop.jsonl")
    with pytest.raises(ConfigError, match=r"loop\.jsonl cannot be read: .*: check the path and its permissions"):
        check_stream_readable(load(place, MINIMAL, stream=Path("in/loop.jsonl")))
    with pytest.raises(ConfigError, match=r"is no regular file"):
        check_stream_readable(load(place, MINIMAL, stream=Path("/dev/null")))


# -- what can change results ---------------------------------------------------------------------------------------


def test_the_governing_text_is_canonical_and_says_all_that_changes_results(place: Path) -> None:
    """Sorted keys, integers only; equal for equal meaning, and it turns back into the policy."""
    settings = load(place, MINIMAL)
    text = settings.governing()
    assert text.text == (
        b'{"allowed_skew":5000000,"duplicate":"halt","duplicate_horizon":86400000000,"invalid":"halt",'
        b'"line_limit":1048576,"max_forward_jump":2592000000000,"order":"halt"}'
    )
    assert text.policy == settings.policy
    same = load(place, with_section("policy", 'duplicate_horizon = "1d"')).governing()
    assert (same, same.digest) == (text, GoverningText(text.text).digest)
    assert load(place, with_section("stream", 'line_limit = "2MiB"')).governing() != text
    assert load(place, with_section("batch", 'max_bytes = "2MiB"')).governing() == text


# -- reload --------------------------------------------------------------------------------------------------------


def test_a_reload_reads_the_same_file_under_the_same_command_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Policies and rules follow the file, overrides stay, and the current directory no longer matters."""
    old = load(place, MINIMAL, policy_invalid="quarantine", state_dir=Path("st"))
    monkeypatch.chdir("/")
    (place / "tidewaiter.toml").write_text(with_section("policy", 'order = "admit"'))
    new = old.reload()
    assert (new.policy.order, new.policy.invalid, new.state.dir) == ("admit", "quarantine", place / "st")
    assert old.policy.order == "halt"


@pytest.mark.parametrize(
    ("section", "line", "key"),
    [
        ("stream", 'name = "other"', "stream.name, state.dir"),
        ("stream", 'poll_interval = "1s"', "stream.poll_interval"),
        ("stream", 'line_limit = "2MiB"', "stream.line_limit"),
        ("state", "snapshot_events = 5", "state.snapshot_events"),
        ("batch", 'max_bytes = "2KiB"', "batch.max_bytes"),
        ("log", 'level = "debug"', "log.level"),
        ("producer", 'kind = "generator"', "producer"),
    ],
)
def test_a_reload_refuses_what_needs_a_restart(place: Path, section: str, line: str, key: str) -> None:
    """A change that cannot take force is said, not ignored."""
    old = load(place, MINIMAL)
    (place / "tidewaiter.toml").write_text(with_section(section, line))
    with pytest.raises(ConfigError, match=rf"{key}: cannot change while the daemon runs: restart it instead"):
        old.reload()


def test_a_reload_of_a_broken_file_leaves_the_old_settings(place: Path) -> None:
    """What `check` does not accept is refused."""
    old = load(place, MINIMAL)
    (place / "tidewaiter.toml").write_text("[stream")
    with pytest.raises(ConfigError):
        old.reload()
    assert old.stream.path == place / "in" / "events.jsonl"


# -- units ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0s", "1us", "500ms", "5s", "15m", "72h", "7d", "1001ms"])
def test_a_duration_survives_being_read_and_shown(text: str) -> None:
    """What `check` shows means the same as what the file says."""
    convert = duration("0s", "3650d")
    assert convert(duration_text(convert(text))) == convert(text)


@pytest.mark.parametrize(
    ("text", "count"), [("0B", 0), ("512B", 512), ("1KiB", 1024), ("3MiB", 3 << 20), ("1GiB", 1 << 30)]
)
def test_a_size_survives_being_read_and_shown(text: str, count: int) -> None:
    """Sizes are binary and exact."""
    convert = size("0B", "64GiB")
    assert convert(text) == count
    assert size_text(count) == text


def test_the_examples_in_the_reference_are_toml(repository: Path) -> None:
    """The shipped file parses with the standard library alone."""
    tomllib.loads((repository / "config" / "tidewaiter.toml").read_text())
