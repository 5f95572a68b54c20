"""One HTTP connection to one server, to post to: kept open, with a deadline, and nothing believed that need not be.

Owns: connecting, a kept connection that the server has closed meanwhile, and answers that are too long. Leaves to
`edges.witness_client` and `edges.openlineage_client` which URLs there are, what is posted, and what an answer means.

Every call blocks, for a few times `timeout` at most; one thread at a time, but for `abandon`.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from urllib.parse import SplitResult

ANSWER_BYTES: Final = 64 << 10
"""So much of an answer is read."""


class NoAnswer(Exception):  # noqa: N818 - named for what happened
    """No connection, a time-out, or an answer that is none. The message says why."""


class Answer(NamedTuple):
    """`body` is None where it is longer than ANSWER_BYTES."""

    status: int
    content_type: str
    body: bytes | None


class HttpPost:
    """Posts to the host of a URL, http or https."""

    def __init__(self, parts: SplitResult, path: str, headers: Mapping[str, str], *, timeout: float) -> None:
        """`parts` names host and port, `path` what is posted to; `timeout` in seconds for each step."""
        self._path, self._headers = path, {"User-Agent": "tidewaiter", **headers}
        host, port = parts.hostname or "", parts.port
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            self._connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=timeout)

    def post(self, body: bytes) -> Answer:
        """Return the answer. A kept connection may have been closed meanwhile: then a new one. Raises NoAnswer."""
        kept = self._connection.sock is not None
        try:
            return self._exchange(body)
        except Exception as error:
            # besides its own errors, http.client raises ValueError and others for some bytes that a server may send
            if kept and isinstance(error, ConnectionError):
                return self.post(body)
            raise NoAnswer(f"cannot be reached: {str(error) or type(error).__name__}") from error

    def abandon(self) -> None:
        """Make the call that another thread is in end soon, however slowly the server drips its answer."""
        current = self._connection.sock
        if current is not None:
            with contextlib.suppress(OSError):
                current.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        self._connection.close()

    def _exchange(self, body: bytes) -> Answer:
        try:
            self._connection.request("POST", self._path, body, self._headers)
            response = self._connection.getresponse()
            answer = response.read(ANSWER_BYTES + 1)
            whole = len(answer) <= ANSWER_BYTES
            if not whole or not response.isclosed():
                self._connection.close()  # what is left of it must not be taken for the next answer
        except BaseException:
            self._connection.close()
            raise
        return Answer(response.status, response.headers.get_content_type(), answer if whole else None)
