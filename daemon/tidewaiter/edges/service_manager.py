"""What the service manager (systemd) is told: the sd_notify protocol, without a library.

Owns: the notification socket and the few environment variables that announce it. Leaves to `shell.supervisor` when
to say what, above all that the watchdog is fed only after real progress or a verified idle pass.

Invariants:
- Nothing here raises, blocks or delays: a message that cannot be sent at once is dropped and counted. READY, RELOADING
  and STOPPING are the exception: the manager would wait for them in vain, so they are sent again before the next
  message.
- Without the socket every call does nothing.
- The variables are taken out of the environment, so that a child process cannot speak in the daemon's name.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import MutableMapping

STATUS_LIMIT: Final = 1_000
"""Longest status text in bytes; the manager drops messages over 4096 bytes."""
OWED_LIMIT: Final = 4
"""How many undelivered announcements are kept; older ones mean nothing any more."""

_LONGEST_NUMBER: Final = 20  # digits of a 64-bit number


class ServiceManager:
    """The service manager of this process, or nobody. Each method returns whether the message was sent."""

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        """Take NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID out of `environment` (default: that of the process)."""
        variables = os.environ if environment is None else environment
        self._address = _address(variables.pop("NOTIFY_SOCKET", ""))
        self._watchdog = _watchdog(variables.pop("WATCHDOG_USEC", ""), variables.pop("WATCHDOG_PID", ""))
        self._socket: socket.socket | None = None
        self._owed: list[bytes] = []
        self._shown: str | None = None
        self.dropped = 0
        if self._address:
            try:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.settimeout(0.0)
            except OSError:  # forbidden by a sandbox, or out of descriptors
                self.dropped += 1

    @property
    def present(self) -> bool:
        """Whether somebody asked to be notified."""
        return self._socket is not None

    def ready(self, status: str = "") -> bool:
        """Tell that start-up, or the reload announced before, is done."""
        text = _status(status) if status else b""
        self._shown = None
        return self._send(b"READY=1\n" + text, must_arrive=True)

    def status(self, text: str) -> bool:
        """Show one line in `systemctl status`; control characters become spaces, the end is cut at `STATUS_LIMIT`.

        What is shown already is not sent again.
        """
        if text == self._shown and not self._owed:
            return True
        sent = self._send(_status(text))
        self._shown = text if sent else None
        return sent

    def watchdog(self) -> bool:
        """Tell that the daemon is alive; only after it has proved so to itself."""
        return self._send(b"WATCHDOG=1\n")

    def stopping(self, status: str = "") -> bool:
        """Tell that the daemon is on its way out."""
        text = _status(status) if status else b""
        self._shown = None
        return self._send(b"STOPPING=1\n" + text, must_arrive=True)

    def reloading(self) -> bool:
        """Tell that a reload began; `ready` ends it. Carries the monotonic clock, as ``Type=notify-reload`` wants."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000
        return self._send(b"RELOADING=1\nMONOTONIC_USEC=%d\n" % now, must_arrive=True)

    def extend_timeout(self, microseconds: int) -> bool:
        """Ask for this much more time, from now, for the start or stop in hand."""
        return self._send(b"EXTEND_TIMEOUT_USEC=%d\n" % microseconds)

    def watchdog_interval(self) -> float | None:
        """Seconds between two calls of `watchdog`: half of what the manager tolerates; None where it does not watch."""
        return None if self._watchdog is None else self._watchdog / 2_000_000

    def close(self) -> None:
        """Close the socket; later calls do nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: bytes, *, must_arrive: bool = False) -> bool:
        if self._socket is None:
            return False
        if must_arrive:
            self._owed = [*self._owed[1 - OWED_LIMIT :], message]
        try:
            while self._owed:
                # By address, not connected: the manager's socket may have been replaced since (daemon-reexec).
                self._socket.sendto(self._owed[0], self._address)
                del self._owed[0]
            if not must_arrive:
                self._socket.sendto(message, self._address)
        except OSError:  # nobody listens, or the queue is full
            self.dropped += 1
            return False
        return True


def _address(name: str) -> str | bytes:
    """The socket's address: a path, or ``@`` and a name in the abstract namespace; other families are not for us."""
    if name.startswith("@") and len(name) > 1:
        return b"\0" + os.fsencode(name[1:])
    return name if name.startswith("/") else ""


def _watchdog(microseconds: str, pid: str) -> int | None:
    if pid and pid != str(os.getpid()):
        return None  # meant for another process, whose environment was inherited
    if not (microseconds.isascii() and microseconds.isdigit() and len(microseconds) <= _LONGEST_NUMBER):
        return None
    return int(microseconds) or None


def _status(text: str) -> bytes:
    """One assignment: a newline in the text would begin another one."""
    line = "".join(" " if character < " " or character == "\x7f" else character for character in text)
    return b"STATUS=" + line.encode(errors="replace")[:STATUS_LIMIT].decode(errors="ignore").encode() + b"\n"
