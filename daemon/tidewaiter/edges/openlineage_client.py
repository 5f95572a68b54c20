"""Handing one OpenLineage event to one server over HTTP.

Owns: the connection, the API key's header, and what an answer means: taken, refused, or to be asked again. Leaves to
`shell.openlineage_shipping` when to send, and for how long to wait.

Every call blocks, for a few times `timeout` at most; one thread at a time. Nothing that a server answers is believed or
kept but its status. No message and no repr shows the key.
"""

from __future__ import annotations

import contextlib
import http
import http.client
import ipaddress
import socket
import ssl
from typing import Final
from urllib.parse import urlsplit

from tidewaiter.core.errors import ConfigError

DEFAULT_PATH: Final = "/api/v1/lineage"
"""Where a server of OpenLineage takes events, unless the URL says more than its host."""
_ANSWER_BYTES: Final = 64 << 10
_ABOUT_US: Final = frozenset(
    {
        http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN, http.HTTPStatus.NOT_FOUND,
        http.HTTPStatus.METHOD_NOT_ALLOWED, http.HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
        http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.MISDIRECTED_REQUEST, http.HTTPStatus.TOO_EARLY,
        http.HTTPStatus.UPGRADE_REQUIRED, http.HTTPStatus.TOO_MANY_REQUESTS,
    }
)  # fmt: skip
"""Answers of 4xx that speak of address, key or load: every event would get them, so none is set aside for them."""


class Unreachable(Exception):  # noqa: N818 - named for what happened
    """The event was not taken, and not refused either: to be sent again later. The message says why."""


class Refused(Exception):  # noqa: N818 - named for what happened
    """The server does not want this event, and never will."""

    def __init__(self, status: int) -> None:
        """`status` is what it answered."""
        super().__init__(f"answers {status}")
        self.status = status


class LineageClient:
    """One server of OpenLineage events."""

    def __init__(self, url: str, key: str | None, *, timeout: float) -> None:
        """`url` is http or https; `key` an API key, sent as a bearer token; `timeout` in seconds for each step.

        Raises ConfigError for what is no such URL, and for a key that would cross a network unencrypted.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"{url}: {error}", hint="name the server that takes the events") from error
        host = parts.hostname
        if parts.scheme not in {"http", "https"} or not host or parts.username is not None or parts.fragment:
            raise ConfigError(
                f"{_without_user(url)}: is no URL of an OpenLineage server",
                hint="name http://HOST:PORT or https://HOST/PATH; an API key goes into a file of its own",
            )
        if key is not None and parts.scheme == "http" and not _is_loopback(host):
            raise ConfigError(
                f"{url}: an API key would cross the network unencrypted", hint="use https, or leave out the key"
            )
        path = parts.path if parts.path.strip("/") else DEFAULT_PATH
        self.shown = f"{parts.scheme}://{parts.netloc}{path}"
        """The URL for messages: a query may hold what nobody should read."""
        self._path = f"{path}?{parts.query}" if parts.query else path
        self._headers = {"Content-Type": "application/json", "User-Agent": "tidewaiter"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            self._connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=timeout)

    def send(self, event: bytes) -> None:
        """Hand over one event, JSON without a newline. Raises Unreachable or Refused."""
        status = self._post(event)
        if http.HTTPStatus.OK <= status < http.HTTPStatus.MULTIPLE_CHOICES:
            return
        client_error = http.HTTPStatus.BAD_REQUEST <= status < http.HTTPStatus.INTERNAL_SERVER_ERROR
        if client_error and status not in _ABOUT_US:
            raise Refused(status)
        raise Unreachable(f"answers {status}")

    def abandon(self) -> None:
        """Make the call that another thread is in end soon, however slowly the server drips its answer."""
        current = self._connection.sock
        if current is not None:
            with contextlib.suppress(OSError):
                current.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        self._connection.close()

    def _post(self, body: bytes) -> int:
        """Return the status. A kept connection may have been closed meanwhile: then a new one."""
        kept = self._connection.sock is not None
        try:
            return self._exchange(body)
        except Exception as error:
            # besides its own errors, http.client raises ValueError and others for some bytes that a server may send
            if kept and isinstance(error, ConnectionError):
                return self._post(body)
            raise Unreachable(f"cannot be reached: {str(error) or type(error).__name__}") from error

    def _exchange(self, body: bytes) -> int:
        try:
            self._connection.request("POST", self._path, body, self._headers)
            response = self._connection.getresponse()
            if len(response.read(_ANSWER_BYTES + 1)) > _ANSWER_BYTES or not response.isclosed():
                self._connection.close()  # what is left of it must not be taken for the next answer
        except BaseException:
            self._connection.close()
            raise
        return response.status


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _without_user(url: str) -> str:
    """Return the URL as it may be shown: what stands before an @ could be a password."""
    scheme, found, rest = url.partition("://")
    return f"{scheme}{found}{rest.rpartition('@')[2]}"
