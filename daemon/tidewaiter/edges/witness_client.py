"""Asking one witness for its cosignature: C2SP tlog-witness v1.0.0, the log's side of it.

Owns: the URL of one witness, the size it last knew of this log, and what its answers mean. Leaves to `edges.http_post`
the connection, and to `shell.cosigning` when to ask, whom else, and what to do about a witness that says no.

Every call blocks, for a few times `timeout` at most; one thread at a time. Nothing an answer says is believed but a
cosignature that verifies, and a size or a refusal, which can only keep this log from going on.
"""

from __future__ import annotations

import http
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.tlog.notes import NoteError, parse_note, verified
from tidewaiter.core.tlog.witnessing import SIZE_TYPE, AddCheckpoint
from tidewaiter.edges.http_post import HttpPost, NoAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidewaiter.core.tlog.notes import Signature, VerifierKey

TIMEOUT_SECONDS: Final = 2.0
_UNKNOWN: Final[dict[int, str]] = {403: "a key that signed this checkpoint", 404: "this log's origin"}
_SIZE: Final = re.compile(rb"(0|[1-9][0-9]{0,18})\n")


class WitnessError(Exception):
    """A witness did not cosign. The message says why, without its name."""


class WitnessUnreachable(WitnessError):  # noqa: N818 - named for what happened
    """No usable answer: no connection, a time-out, a server's error, whatever the answer made fail in here, or no
    cosignature of its key. Ask again later.
    """  # noqa: D205 - one sentence


class WitnessNotConfigured(WitnessError):  # noqa: N818 - named for what happened
    """The witness does not know this log (404) or not this key of it (403): its operator has to be asked."""


class WitnessAhead(WitnessError):  # noqa: N818 - named for what happened
    """The witness has cosigned a larger tree of this log than the one it was shown: this log was rolled back."""

    def __init__(self, size: int) -> None:
        """`size` is that of the newest checkpoint the witness cosigned."""
        super().__init__(f"has cosigned {size} entries")
        self.size = size


class WitnessRefused(WitnessError):  # noqa: N818 - named for what happened
    """The witness finds this checkpoint inconsistent with the one it cosigned (422): one of the two was forked."""


class WitnessClient:
    """One witness, as a log sees it."""

    def __init__(self, url: str, key: VerifierKey, *, timeout: float = TIMEOUT_SECONDS) -> None:
        """`url` is the submission prefix, http or https; `key` is the witness's. Raises ConfigError."""
        try:
            parts = urlsplit(url)
            _ = parts.port  # raises ValueError for what is none
        except ValueError as error:
            raise ConfigError(f"{url}: {error}", hint="name the witness's submission prefix") from error
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.username is not None:
            raise ConfigError(f"{url}: is no URL of a witness", hint="name http://HOST:PORT or https://HOST/PREFIX")
        self.key = key
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        self._server = HttpPost(parts, f"{parts.path.rstrip('/')}/add-checkpoint", headers, timeout=timeout)
        self._size = 0

    def cosign(self, note: bytes, size: int, proof_from: Callable[[int], list[bytes]]) -> list[Signature]:
        """Return the witness's verified cosignatures on the checkpoint `note`, of a tree of `size` entries.

        `proof_from(old)` gives the consistency proof from `old` to `size`. Where the witness knows another size than
        expected it is asked once more, with the right proof. Raises one of the WitnessErrors.
        """
        old = min(self._size, size)
        status, kind, answer = self._submit(note, old, size, proof_from)
        if status == http.HTTPStatus.CONFLICT:
            found = _SIZE.fullmatch(answer)
            if found is None or kind != SIZE_TYPE:
                raise WitnessUnreachable("answers 409 without a size")
            self._size = old = int(found[1])
            if old > size:
                raise WitnessAhead(old)
            status, _, answer = self._submit(note, old, size, proof_from)
        if status == http.HTTPStatus.UNPROCESSABLE_ENTITY:
            raise WitnessRefused(f"has cosigned a checkpoint of {old} entries that this log is not consistent with")
        if status in _UNKNOWN:
            raise WitnessNotConfigured(f"answers {status}: it does not know {_UNKNOWN[status]}")
        if status != http.HTTPStatus.OK:
            raise WitnessUnreachable(f"answers {status}")
        signatures = self._verified(note, answer)
        self._size = size
        return signatures

    def abandon(self) -> None:
        """Make the call that another thread is in end soon, however slowly the witness drips its answer."""
        self._server.abandon()

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        self._server.close()

    def _verified(self, note: bytes, answer: bytes) -> list[Signature]:
        """Put the answer's lines below the checkpoint's own text, and let the note's rules say what counts."""
        try:
            signed = parse_note(parse_note(note).text + b"\n" + answer)
            if not verified(signed, [self.key]):
                raise NoteError(f"no signature of {self.key.name}")
        except NoteError as error:
            raise WitnessUnreachable(f"answers with no cosignature of its key: {error}") from error
        return [one for one in signed.signatures if (one.name, one.key_id) == (self.key.name, self.key.key_id)]

    def _submit(
        self, note: bytes, old: int, size: int, proof_from: Callable[[int], list[bytes]]
    ) -> tuple[int, str, bytes]:
        proof = proof_from(old) if 0 < old < size else []
        return self._post(AddCheckpoint(old=old, proof=tuple(proof), note=note).encode())

    def _post(self, body: bytes) -> tuple[int, str, bytes]:
        """Return status, content type and body."""
        try:
            answer = self._server.post(body)
        except NoAnswer as error:
            raise WitnessUnreachable(str(error)) from error
        if answer.body is None:
            raise WitnessUnreachable("cannot be reached: the answer is too long")
        return answer.status, answer.content_type, answer.body
