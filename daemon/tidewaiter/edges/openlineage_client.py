"""Handing one OpenLineage event to one server over HTTP.

Owns: the URL, the API key's header, and what an answer means: taken, refused, or to be asked again. Leaves to
`edges.http_post` the connection, and to `shell.openlineage_shipping` when to send, and for how long to wait.

Every call blocks, for a few times `timeout` at most; one thread at a time. Nothing that a server answers is believed or
kept but its status. No message and no repr shows the key.
"""

from __future__ import annotations

import http
import ipaddress
from typing import Final
from urllib.parse import urlsplit

from tidewaiter.core.errors import ConfigError
from tidewaiter.edges.http_post import HttpPost, NoAnswer

DEFAULT_PATH: Final = "/api/v1/lineage"
"""Where a server of OpenLineage takes events, unless the URL says more than its host."""
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
            _ = parts.port  # raises ValueError for what is none
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
        headers = {"Content-Type": "application/json"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
        self._server = HttpPost(parts, f"{path}?{parts.query}" if parts.query else path, headers, timeout=timeout)

    def send(self, event: bytes) -> None:
        """Hand over one event, JSON without a newline. Raises Unreachable or Refused."""
        try:
            status = self._server.post(event).status
        except NoAnswer as error:
            raise Unreachable(str(error)) from error
        if http.HTTPStatus.OK <= status < http.HTTPStatus.MULTIPLE_CHOICES:
            return
        client_error = http.HTTPStatus.BAD_REQUEST <= status < http.HTTPStatus.INTERNAL_SERVER_ERROR
        if client_error and status not in _ABOUT_US:
            raise Refused(status)
        raise Unreachable(f"answers {status}")

    def abandon(self) -> None:
        """Make the call that another thread is in end soon, however slowly the server drips its answer."""
        self._server.abandon()

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        self._server.close()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _without_user(url: str) -> str:
    """Return the URL as it may be shown: what stands before an @ could be a password."""
    scheme, found, rest = url.partition("://")
    return f"{scheme}{found}{rest.rpartition('@')[2]}"
