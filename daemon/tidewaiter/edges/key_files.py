"""Private keys on the disk: where they are looked for, who may read them, and how they are written.

Owns: the key file, UTF-8 text with one ``PRIVATE+KEY+…`` a line and comments behind ``#``. Leaves to `core.tlog.notes`
what such a line says, to `core.key_decisions` which key signs, and to `shell.keys` when a key is made.

No message, repr or file name of this module ever shows a secret: a wrong line is named by its number.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.tlog.notes import NoteError, SigningKey, parse_skey, signing_key

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tidewaiter.edges.durable import Disk

CREDENTIAL: Final = "tidewaiter-log-key"
"""The name under which systemd hands a log's key over: ``LoadCredential=tidewaiter-log-key:FILE``."""
CREDENTIALS_VARIABLE: Final = "CREDENTIALS_DIRECTORY"
FILE_MODE: Final = 0o600
MAX_BYTES: Final = 64 << 10
SEED_BYTES: Final = 32
KEY_ITSELF_HINT: Final = (
    "name the file that holds it, readable for its owner only; this key has been seen, so let another take its place"
)
_KEY_BEGINS: Final = "PRIVATE+KEY+"
_HEADER: Final = "# Private keys, for tidewaiter. Whoever can read this file can sign in their name.\n"


def is_key_itself(value: object) -> bool:
    """Return whether `value`, which should name a file or a public key, is a secret that must not be shown."""
    return _KEY_BEGINS in str(value)


def refuse_key_itself(where: str, value: object) -> None:
    """Raise ConfigError, which does not show `value`, where that is a private key."""
    if is_key_itself(value):
        raise ConfigError(f"{where}: is a private key itself", hint=KEY_ITSELF_HINT)


def find_key_file(
    configured: Path | None, environment: Mapping[str, str] = os.environ, *, name: str = CREDENTIAL
) -> Path | None:
    """Return where a key is: the `configured` file, else the credential `name` where systemd passed it, else None."""
    if configured is not None:
        return configured
    directory = environment.get(CREDENTIALS_VARIABLE)
    credential = Path(directory) / name if directory else None
    return credential if credential is not None and os.path.lexists(credential) else None


def is_credential(path: Path, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether this is a copy that systemd made when the service started: nobody writes it or changes it."""
    directory = environment.get(CREDENTIALS_VARIABLE)
    return bool(directory and path.parent == Path(directory))


def read_key_file(path: Path, environment: Mapping[str, str] = os.environ) -> list[SigningKey]:
    """Return the keys in the order of the file, at least one.

    Raises ConfigError where somebody else could read them, and with file and line for what is no key.
    """
    return [key for _, key in _parsed(path, credential=is_credential(path, environment)) if key is not None]


def make_key(name: str) -> SigningKey:
    """Return a new Ed25519 key. Raises ConfigError where `name` cannot be a key's name."""
    try:
        return signing_key(name, secrets.token_bytes(SEED_BYTES))
    except NoteError as error:
        raise ConfigError(f"{name}: cannot be the name of a key: {error}", hint="no spaces, no plus sign") from None


def create_key_file(disk: Disk, path: Path, key: SigningKey, owner: tuple[int, int] | None) -> None:
    """Write a new key file that holds `key`, for `owner` (uid, gid) if given. Raises ConfigError where one is there."""
    refuse_key_itself("the key file's name", path)
    if os.path.lexists(path):
        raise ConfigError(
            f"{path}: is there already, a key is never overwritten",
            hint="name another file; a log's next key: tidewaiter keys rotate",
        )
    _replace(disk, path, _HEADER + key.encode() + "\n", owner)


def add_key(disk: Disk, path: Path, key: SigningKey, retired: Collection[str], owner: tuple[int, int] | None) -> int:
    """Put `key` behind the others and take out those whose vkeys are `retired`; return how many these were.

    Comments stay. If we die here, the old file or the new one is found. Raises ConfigError as `read_key_file` does.
    """
    lines = _parsed(path, credential=False)
    kept = [line for line, old in lines if old is None or str(old.verifier) not in retired]
    _replace(disk, path, "".join(f"{line}\n" for line in [*kept, key.encode()]), owner)
    return len(lines) - len(kept)


def _parsed(path: Path, *, credential: bool) -> list[tuple[str, SigningKey | None]]:
    """Return each line with its key; None for a comment or an empty line."""
    parsed: list[tuple[str, SigningKey | None]] = []
    seen: dict[str, int] = {}
    for number, raw in enumerate(_read(path, credential=credential).splitlines(), start=1):
        # `from None` below: the exception that is translated could quote the line
        try:
            line = raw.decode().strip()
            key = None if not line or line.startswith("#") else parse_skey(line)
        except (NoteError, UnicodeDecodeError):
            raise ConfigError(
                f"{path}:{number}: is no private key", hint="a line is PRIVATE+KEY+… or begins with #"
            ) from None
        if key is not None:
            first = seen.setdefault(str(key.verifier), number)
            if first != number:
                raise ConfigError(f"{path}:{number}: is the key of line {first} again", hint="remove one of them")
        parsed.append((line, key))
    if not seen:
        raise ConfigError(f"{path}: holds no key", hint="make one: tidewaiter keys new, for a witness: witness new")
    return parsed


def _read(path: Path, *, credential: bool) -> bytes:
    hint = "replace it: a log's key with tidewaiter keys rotate, a witness with a new one"
    return read_closed(path, "private key", credential=credential, hint=hint)


def read_closed(path: Path, what: str, *, credential: bool, hint: str) -> bytes:
    """Return the content of a file that holds a secret, a `what`; `hint` says what to do where others could read it.

    `credential`: systemd made the file, as `is_credential` tells. Raises ConfigError where somebody else than the owner
    can get at it.
    """
    refuse_key_itself("the key file's name", path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(
            f"{path}: the key cannot be read: {error.strerror}", hint="check its path and owner"
        ) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path}: is not a regular file", hint="name the file that holds the key")
        # the service manager may let its group in; nobody ever lets everybody in
        others = stat.S_IRWXO if credential else stat.S_IRWXG | stat.S_IRWXO
        if status.st_mode & others:
            raise ConfigError(
                f"{path}: others can get at the {what} (mode {stat.S_IMODE(status.st_mode):04o})",
                hint=f"chmod 600 {path}; if somebody may have read it, {hint}",
            )
        data = os.read(fd, MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: the key cannot be read: {error.strerror}", hint="check the disk") from error
    finally:
        os.close(fd)
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_BYTES} bytes", hint="name the file that holds the key")
    return data


def _replace(disk: Disk, path: Path, text: str, owner: tuple[int, int] | None) -> None:
    """Put `text` under the name `path`, all or nothing; at no moment can anybody but the owner open it."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)  # noqa: PTH108 - of a call that died: with whatever mode it has
        # Disk.open would let the group in for a moment, and whoever opened it then could read on
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written: {error.strerror}",
            hint="its directory must exist and be writable for this user",
        ) from error
    try:
        os.fchmod(fd, FILE_MODE)
        if owner is not None:
            os.fchown(fd, *owner)
        disk.write_at(fd, text.encode(), 0, temporary)
        disk.sync(fd, temporary)
    finally:
        disk.close(fd)
    # If we die here, the temporary file is left, as closed as the key itself.
    disk.rename(temporary, path)
