"""The inbox: decisions that other commands hand to the daemon that holds the lock, and its answers.

Owns: ``inbox/ID.json`` and ``inbox/ID.answer``, who may leave a request, and what a crash between the two means. Leaves
to `shell.deciding` what a request asks for, and to the consumer the batch boundary at which it is taken.

A request is durable before anybody waits for its answer. The daemon takes requests one by one: it records the decision
in the audit log, where the entry carries the request's id, and then writes the answer. If it dies between the two,
the last id in the ledger is that request's, and it is only answered: nothing is ever done twice. Who asked is the owner
of the request's file, which the kernel vouches for; a request's own words are not asked.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from tidewaiter.core.errors import ConfigError, TidewaiterError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tidewaiter.edges.durable import Disk

DIRECTORY: Final = "inbox"
MAX_BYTES: Final = 16 << 10
DEADLINE_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.05
FORGOTTEN_SECONDS: Final = 600.0
"""What is older was left by a command that was killed: nobody waits for it, and it must not be done now."""
_FILE_MODE: Final = 0o644  # the directory keeps strangers out; root's request must be readable for the daemon
_NAME: Final = re.compile(r"([0-9A-Za-z][0-9A-Za-z-]{0,63})\.(json|answer)", re.ASCII)
_LONGEST_ACTOR: Final = 128


class Request(Struct, frozen=True):
    """A decision asked for: `kind` says by which command, `members` what. `uid` is the owner of the file."""

    id: str
    kind: str
    members: dict[str, Any]
    actor: str
    uid: int = -1


class Answer(Struct, frozen=True):
    """What became of a request: `message` is a sentence for whoever asked."""

    ok: bool
    message: str


class _Asked(Struct, frozen=True, forbid_unknown_fields=True):
    """A request as it is written."""

    id: str
    kind: str
    members: dict[str, Any]
    actor: str


_asked: Final = msgspec.json.Decoder(_Asked)
_answer: Final = msgspec.json.Decoder(Answer)


# -- the command that asks ---------------------------------------------------------------------------------------


def new_id() -> str:
    """Return the id of a request: later ones sort behind earlier ones."""
    return f"{time.time_ns():020d}-{secrets.token_hex(4)}"


def ask(
    disk: Disk,
    state: Path,
    request: Request,
    gone: Callable[[], bool],
    *,
    deadline: float = DEADLINE_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Answer | None:
    """Hand a request to the daemon and return its answer; None when the daemon is `gone`. No file is left behind.

    Where it is gone, it may have recorded the decision all the same; then `Ledger.answered` is the request's id.
    Raises ConfigError where this user may not ask, or where nobody answered for `deadline` seconds.
    """
    path, answer = _paths(state, request.id)
    _leave(disk, path, msgspec.json.encode(_Asked(request.id, request.kind, request.members, request.actor)))
    end = clock() + deadline
    try:
        while (found := _read_answer(answer)) is None and not (left := gone()) and clock() < end:
            sleep(POLL_SECONDS)
        _withdraw(disk, path)
        # once more: it may have been answered just before it was withdrawn
        found = found or _read_answer(answer)
    finally:
        # If we die before this, the daemon removes both when they are old.
        _withdraw(disk, path)
        _withdraw(disk, answer)
    if found is None and not left:
        raise ConfigError(
            f"{state}: the daemon did not answer within {deadline:g} s; the request was withdrawn",
            hint="it may be starting, or taking the decision now: see `tidewaiter status`, then try again",
        )
    return found


def _withdraw(disk: Disk, path: Path) -> None:
    with contextlib.suppress(TidewaiterError):
        disk.unlink(path)


def _leave(disk: Disk, path: Path, data: bytes) -> None:
    """Write the request as a file of the user who asks, all or nothing."""
    disk.make_directory(path.parent)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        # not Disk.open, which hands new files to the daemon's user: the owner says who asked
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE)
    except OSError as error:
        raise ConfigError(
            f"{path.parent}: cannot hand a request to the daemon: {error.strerror}",
            hint="run this as root or as the daemon's user",
        ) from error
    try:
        os.fchmod(fd, _FILE_MODE)
        disk.write_at(fd, data, 0, temporary)
        disk.sync(fd, temporary)
    finally:
        disk.close(fd)
    disk.rename(temporary, path)


def _read_answer(path: Path) -> Answer | None:
    try:
        return _answer.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: the answer cannot be read: {error}", hint="the request was taken: see `tidewaiter status`"
        ) from error


# -- the daemon --------------------------------------------------------------------------------------------------


def waiting(state: Path) -> bool:
    """Return whether a request is there that has no answer: one look at the directory, for each batch boundary."""
    try:
        names = set(os.listdir(state / DIRECTORY))  # noqa: PTH208 - names are all that is needed
    except FileNotFoundError:
        return False
    found = (_NAME.fullmatch(name) for name in names)
    return any(one is not None and one[2] == "json" and f"{one[1]}.answer" not in names for one in found)


def take(disk: Disk, state: Path, answered: str | None, now: Callable[[], float] = time.time) -> list[Request]:
    """Return the requests that wait for a decision, oldest first; what has an answer does not.

    `answered` is the last request that the audit log has decided (`Ledger.answered`): where it is still here, the
    daemon died before it could say so, and says so now. What is broken is answered and removed; what is no regular
    file of one name and at most MAX_BYTES is left alone. Raises as Disk does.
    """
    directory = state / DIRECTORY
    try:
        names = sorted(os.listdir(directory))  # noqa: PTH208 - as in `waiting`
    except FileNotFoundError:
        return []
    present = set(names)
    requests: list[Request] = []
    for name in names:
        found = _NAME.fullmatch(name)
        if found is None or _forgotten(disk, directory / name, now()) or found[2] != "json":
            continue
        number = found[1]
        if f"{number}.answer" in present:
            continue
        if number == answered:
            give_answer(disk, state, number, Answer(ok=True, message="recorded"))
            continue
        taken = _take(directory / name, number)
        if isinstance(taken, Request):
            requests.append(taken)
        elif taken is not None:
            give_answer(disk, state, number, taken)
            disk.unlink(directory / name)
    return requests


def give_answer(disk: Disk, state: Path, number: str, answer: Answer) -> None:
    """Write the answer to the request `number`, behind the entry that it tells of.

    If we die here, the next start finds the request's id in the ledger and answers it; see `take`.
    """
    disk.replace_file(_paths(state, number)[1], msgspec.json.encode(answer) + b"\n")


def _take(path: Path, number: str) -> Request | Answer | None:
    """Return the request, the answer to a broken one, or None for what is left alone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None  # withdrawn, a symbolic link, or not for us
    try:
        status = os.fstat(fd)
        # a second name could lend a request the owner of somebody else's file
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_size > MAX_BYTES:
            return None
        data = os.read(fd, MAX_BYTES)
    except OSError:
        return None
    finally:
        os.close(fd)
    try:
        asked = _asked.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Answer(ok=False, message=f"{path.name}: is no request: {error}")
    if asked.id != number:
        return Answer(ok=False, message=f"{path.name}: is the request {asked.id[:64]}")
    if not 0 < len(asked.actor.strip()) <= _LONGEST_ACTOR:
        return Answer(ok=False, message=f"{path.name}: says not, or too longly, who decided")
    return Request(number, asked.kind, asked.members, asked.actor.strip(), status.st_uid)


def _forgotten(disk: Disk, path: Path, now: float) -> bool:
    """Remove what nobody waits for any more, and return whether it was that."""
    try:
        if now - path.lstat().st_mtime <= FORGOTTEN_SECONDS:
            return False
    except FileNotFoundError:
        return True  # withdrawn just now
    if path.is_file() or path.is_symlink():
        disk.unlink(path)
    return True


def _paths(state: Path, number: str) -> tuple[Path, Path]:
    return state / DIRECTORY / f"{number}.json", state / DIRECTORY / f"{number}.answer"
