"""Key files: nobody else can read them, a wrong line is named and never shown, and a crash loses no key."""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING

import pytest

from tidewaiter.core.errors import ConfigError
from tidewaiter.edges.durable import Disk
from tidewaiter.edges.key_files import (
    CREDENTIAL,
    CREDENTIALS_VARIABLE,
    MAX_BYTES,
    add_key,
    create_key_file,
    find_key_file,
    make_key,
    read_key_file,
)

if TYPE_CHECKING:
    from pathlib import Path

ORIGIN = "example.com/log"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A key file with one key."""
    path = tmp_path / "log.key"
    create_key_file(Disk(), path, make_key(ORIGIN), None)
    return path


def vkeys(path: Path) -> list[str]:
    """The vkeys of a key file, in its order."""
    return [str(key.verifier) for key in read_key_file(path)]


# -- who can read a key --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o644, 0o601])
def test_key_that_others_can_get_at_is_refused(file: Path, mode: int) -> None:
    """Whoever can read it can sign; whoever can write it can put his own there. The message says what to do."""
    file.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}") as refused:
        read_key_file(file)
    assert f"chmod 600 {file}" in refused.value.hint


@pytest.mark.parametrize(("mode", "accepted"), [(0o400, True), (0o440, True), (0o640, True), (0o444, False)])
@pytest.mark.parametrize("name", [CREDENTIAL, "tidewaiter-witness-key"])
def test_credential_may_be_readable_for_its_group(
    tmp_path: Path, file: Path, name: str, mode: int, accepted: bool
) -> None:
    """The service manager lets in whom it must, and never everybody, whatever the key is for."""
    credential = file.rename(tmp_path / name)
    credential.chmod(mode)
    environment = {CREDENTIALS_VARIABLE: str(tmp_path)}
    if accepted:
        assert len(read_key_file(credential, environment)) == 1
        return
    with pytest.raises(ConfigError, match="others can get at"):
        read_key_file(credential, environment)


def test_only_what_lies_in_the_credentials_directory_is_a_credential(tmp_path: Path, file: Path) -> None:
    """A key beside or below it, or with no such directory, must be closed to the group as any other file."""
    file.chmod(0o640)
    for directory in ("", str(tmp_path / "other"), str(tmp_path.parent)):
        with pytest.raises(ConfigError, match="others can get at"):
            read_key_file(file, {CREDENTIALS_VARIABLE: directory})


def test_configured_file_goes_before_the_credential(tmp_path: Path, file: Path) -> None:
    """What the configuration names is meant; a credential without that; and nothing where there is neither."""
    environment = {CREDENTIALS_VARIABLE: str(tmp_path)}
    (tmp_path / CREDENTIAL).touch()
    assert find_key_file(file, environment) == file
    assert find_key_file(None, environment) == tmp_path / CREDENTIAL
    assert find_key_file(None, {CREDENTIALS_VARIABLE: str(tmp_path / "none")}) is None
    assert find_key_file(None, {}) is None


@pytest.mark.parametrize("kind", ["directory", "pipe", "missing"])
def test_what_is_no_file_is_no_key(tmp_path: Path, kind: str) -> None:
    """It is refused at once, with its path."""
    path = tmp_path / "log.key"
    match kind:
        case "directory":
            path.mkdir(mode=0o700)
        case "pipe":
            os.mkfifo(path, 0o600)
    with pytest.raises(ConfigError, match=str(path)):
        read_key_file(path)


# -- what is in a key file -----------------------------------------------------------------------------------------


def test_comments_and_empty_lines_are_no_keys(file: Path) -> None:
    """A person may write down what a key is for; the keys keep their order."""
    second = make_key(ORIGIN)
    first = vkeys(file)
    file.write_text(
        f"# a note\n\n{file.read_text()}\n  # the new one: ü\r\n  {second.encode()}  \n\n", encoding="utf-8"
    )
    assert vkeys(file) == [*first, str(second.verifier)]


def test_wrong_line_is_named_and_never_shown(file: Path) -> None:
    """File and line are enough to find it; the secret is in no message, hint or traceback."""
    secret = make_key(ORIGIN).encode()
    for wrong in (secret[:-6] + "AAAAA=", secret[:-1], "x" + secret, f"{secret} {secret}", secret.replace("+", " ")):
        file.write_text(f"# first\n{wrong}\n")
        with pytest.raises(ConfigError, match=f"{file}:2: is no private key") as refused:
            read_key_file(file)
        shown = "".join(traceback.format_exception(refused.value)) + repr(refused.value) + str(refused.value)
        assert secret[-20:-6] not in shown
        assert refused.value.__suppress_context__


def test_bytes_that_are_no_text_are_a_wrong_line(file: Path) -> None:
    """A file of another kind is refused like a wrong line, not with a traceback."""
    file.write_bytes(b"\xff\xfe\x00\n")
    with pytest.raises(ConfigError, match=f"{file}:1: is no private key"):
        read_key_file(file)


def test_key_that_stands_twice_is_refused(file: Path) -> None:
    """Two equal lines are a mistake in a copy: one of them was to be another key."""
    line = file.read_text().splitlines()[-1]
    file.write_text(f"{line}\n# again\n{line}\n")
    with pytest.raises(ConfigError, match=f"{file}:3: is the key of line 1 again") as refused:
        read_key_file(file)
    assert line not in str(refused.value)


@pytest.mark.parametrize("content", ["", "# nothing\n", "\n\n", "#" * (MAX_BYTES + 1)])
def test_file_without_a_key_is_refused(file: Path, content: str) -> None:
    """An emptied file must not make a log that goes on unsigned; a huge one is not read to its end."""
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"holds no key|is larger than"):
        read_key_file(file)


# -- writing -------------------------------------------------------------------------------------------------------


def test_new_key_file_is_closed_to_others_whatever_the_umask(tmp_path: Path) -> None:
    """Mode 0600 from the first moment on, which a watching disk sees, to the last."""
    modes: list[int] = []

    class Watching(Disk):
        def _pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
            modes.append(os.fstat(fd).st_mode & 0o777)
            return super()._pwrite(fd, data, offset)

    for umask in (0o000, 0o277):
        before = os.umask(umask)
        try:
            create_key_file(Watching(), tmp_path / f"{umask}.key", make_key(ORIGIN), None)
        finally:
            os.umask(before)
        modes.append((tmp_path / f"{umask}.key").stat().st_mode & 0o777)
    assert modes == [0o600] * 4


def test_leftover_of_a_killed_call_is_not_written_into(tmp_path: Path) -> None:
    """A temporary file that others can read, or a link to somewhere, never receives a key."""
    path, elsewhere = tmp_path / "log.key", tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    path.with_name(".log.key.tmp").symlink_to(elsewhere)
    create_key_file(Disk(), path, make_key(ORIGIN), None)
    assert elsewhere.read_text() == "mine"
    assert not path.is_symlink()
    assert len(read_key_file(path)) == 1


def test_key_is_never_overwritten(file: Path) -> None:
    """What signed a log is not lost by a second `keys new`; neither is a link that points nowhere yet."""
    before = file.read_bytes()
    dangling = file.with_name("dangling.key")
    dangling.symlink_to(file.with_name("not there"))
    for path in (file, dangling):
        with pytest.raises(ConfigError, match="is there already"):
            create_key_file(Disk(), path, make_key(ORIGIN), None)
    assert file.read_bytes() == before


class DiesAt(Disk):
    """A disk under a process that dies at its nth write-like call."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.left = call

    def _count(self) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1

    def _pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        self._count()
        return super()._pwrite(fd, data, offset)

    def _fsync(self, fd: int) -> None:
        self._count()
        super()._fsync(fd)

    def _replace(self, source: Path, target: Path) -> None:
        self._count()
        super()._replace(source, target)

    def _fsync_directory(self, path: Path) -> None:
        self._count()
        super()._fsync_directory(path)


@pytest.mark.parametrize("call", range(4))
def test_killed_while_adding_a_key_leaves_the_old_file_or_the_new(file: Path, call: int) -> None:
    """The old key is in the file at every moment, and the file can be read at every moment."""
    old, new = vkeys(file), make_key(ORIGIN)
    with pytest.raises(KeyboardInterrupt):
        add_key(DiesAt(call), file, new, (), None)
    assert vkeys(file) in (old, [*old, str(new.verifier)])
    assert (vkeys(file) == old) == (call < 3), "renamed only when it is durable"
    add_key(Disk(), file, make_key(ORIGIN), (), None)
    assert vkeys(file)[0] == old[0]


def test_two_new_keys_are_never_equal() -> None:
    """They come from the system's random source."""
    assert len({make_key(ORIGIN).encode() for _ in range(50)}) == 50


@pytest.mark.parametrize("name", ["", "two words", "a+b", "a\nb"])
def test_name_that_a_note_cannot_carry_is_refused(name: str) -> None:
    """Before anything is written."""
    with pytest.raises(ConfigError, match="cannot be the name of a key"):
        make_key(name)
