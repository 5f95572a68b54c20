"""[openlineage]: whether events are written, what the jobs are called, and where the events are shipped to.

Owns: the section's keys and bounds, the API key, and the client that they make. Leaves to `shell.settings_file` the
other sections, and to `edges.key_files` who may read a secret.

Without the section nothing is written: events tell others what runs, on which files and how much of it, and that is for
somebody to decide. Without `url` they stay in the file.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tidewaiter.core.errors import ConfigError
from tidewaiter.edges.key_files import find_key_file, is_credential, read_closed
from tidewaiter.shell.setting_values import BadValue, duration, text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tidewaiter.edges.openlineage_client import LineageClient
    from tidewaiter.shell.setting_values import Section

CREDENTIAL: Final = "tidewaiter-openlineage-key"
"""The name under which systemd hands the API key over: ``LoadCredential=tidewaiter-openlineage-key:FILE``."""
_NAMESPACE: Final = re.compile(r"[!-~]{1,200}")
_KEY: Final = re.compile(rb"[!-~]{1,4096}")


@dataclass(frozen=True, kw_only=True)
class OpenLineagePart:
    """The namespace of the jobs, the server (None: none), the file of its API key, and how long an event may take.

    `api_key_file` None: the service manager's credential, if it gave one; else no key is sent.
    """

    namespace: str = "tidewaiter"
    url: str | None = None
    api_key_file: Path | None = None
    timeout_us: int = 10_000_000

    @property
    def timeout(self) -> float:
        """The timeout in seconds."""
        return self.timeout_us / 1e6


def read_openlineage(section: Section, resolve: Callable[[str], Path]) -> OpenLineagePart | None:
    """Return what a section says, None where it is absent. `resolve` makes a path absolute. Raises ConfigError."""
    namespace = section.take("namespace", _namespace, OpenLineagePart.namespace)
    url = section.take("url", text, None)
    key = section.take("api_key_file", text, None)
    timeout = section.take("timeout", duration("100ms", "5m"), OpenLineagePart.timeout_us)
    section.finish()
    if not section.present:
        return None
    if key is not None and url is None:
        raise section.error("api_key_file", "is of no use without url", "name the server, or remove the line")
    path = None if key is None else resolve(key)
    part = OpenLineagePart(namespace=namespace, url=url, api_key_file=path, timeout_us=timeout)
    if url is not None:
        try:
            _client(url, None, part.timeout)
        except ConfigError as error:
            raise section.error("url", error.message, error.hint) from error
    return part


def client_of(part: OpenLineagePart | None) -> LineageClient | None:
    """Return the client for the server, None where there is none. Raises ConfigError for its URL or key."""
    if part is None or part.url is None:
        return None
    return _client(part.url, _api_key(part), part.timeout)


def _client(url: str, key: str | None, timeout: float) -> LineageClient:
    from tidewaiter.edges.openlineage_client import LineageClient  # noqa: PLC0415 - only who ships pays for HTTP and TLS

    return LineageClient(url, key, timeout=timeout)


def _api_key(part: OpenLineagePart) -> str | None:
    path = find_key_file(part.api_key_file, name=CREDENTIAL)
    if path is None:
        return None
    if not os.path.lexists(path):  # it may be the key itself: it is not shown
        raise ConfigError(
            "openlineage.api_key_file: names no file", hint="put the key into a file that only its owner can read"
        )
    hint = "replace it on the server"
    key = read_closed(path, "API key", credential=is_credential(path), hint=hint).strip()
    if not _KEY.fullmatch(key):
        raise ConfigError(f"{path}: is no API key", hint="one line of letters and signs, no spaces")
    return key.decode()


def _namespace(value: object) -> str:
    name = text(value)
    if not _NAMESPACE.fullmatch(name):
        raise BadValue(f'"{name}" is no namespace', "up to 200 letters, digits and signs, no spaces")
    return name
