"""The service manager is told what happens, and can never hold the daemon up."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tidewaiter.edges.service_manager import STATUS_LIMIT, ServiceManager

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """A notification socket like the service manager's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(0.0)
        yield listening


@pytest.fixture
def manager(listener: socket.socket) -> Iterator[ServiceManager]:
    """A ServiceManager that talks to the listener."""
    manager = ServiceManager({"NOTIFY_SOCKET": listener.getsockname()})
    yield manager
    manager.close()


def received(listener: socket.socket) -> list[bytes]:
    """Return the messages that have arrived."""
    messages = []
    while True:
        try:
            messages.append(listener.recv(65_536))
        except BlockingIOError:
            return messages


def test_messages_have_the_protocol_s_form(manager: ServiceManager, listener: socket.socket) -> None:
    """Each call is one datagram of assignments."""
    assert manager.present
    assert manager.extend_timeout(1_500_000)
    assert manager.ready("position 0")
    assert manager.ready()
    assert manager.status("lag 12 bytes")
    assert manager.watchdog()
    assert manager.stopping()
    assert received(listener) == [
        b"EXTEND_TIMEOUT_USEC=1500000\n",
        b"READY=1\nSTATUS=position 0\n",
        b"READY=1\n",
        b"STATUS=lag 12 bytes\n",
        b"WATCHDOG=1\n",
        b"STOPPING=1\n",
    ]
    assert manager.dropped == 0


def test_status_that_is_shown_is_not_sent_again(manager: ServiceManager, listener: socket.socket) -> None:
    """Only another text is a message, or the same one behind a text that came with an announcement."""
    assert manager.status("lag 0 bytes")
    assert manager.status("lag 0 bytes")
    assert manager.ready("configuration refused")
    assert manager.status("lag 0 bytes")
    assert manager.status("lag 1 bytes")
    assert received(listener) == [
        b"STATUS=lag 0 bytes\n",
        b"READY=1\nSTATUS=configuration refused\n",
        b"STATUS=lag 0 bytes\n",
        b"STATUS=lag 1 bytes\n",
    ]


def test_reload_carries_the_monotonic_clock(manager: ServiceManager, listener: socket.socket) -> None:
    """The manager matches a reload with its request by the monotonic clock in microseconds."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert manager.reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    (message,) = received(listener)
    announcement, clock = message.splitlines()
    assert announcement == b"RELOADING=1"
    assert before <= int(clock.removeprefix(b"MONOTONIC_USEC=")) <= after


def test_abstract_socket_is_reached() -> None:
    """A name that begins with @ is in the abstract namespace."""
    name = f"tidewaiter-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        manager = ServiceManager({"NOTIFY_SOCKET": f"@{name}"})
        assert manager.ready()
        assert listening.recv(100) == b"READY=1\n"
        manager.close()


def test_status_is_one_assignment(manager: ServiceManager, listener: socket.socket) -> None:
    """Text cannot smuggle in another assignment, and a long one is cut at a character."""
    manager.status("bad\nREADY=1\x00\x7f\x1b end")
    manager.status("\u20ac" * 1000 + "\udc80")
    hostile, long = received(listener)
    assert hostile == b"STATUS=bad READY=1    end\n"
    assert len(long) <= STATUS_LIMIT + len(b"STATUS=\n")
    assert set(long.decode().removeprefix("STATUS=")) == {"\u20ac", "\n"}


@pytest.mark.parametrize("address", ["", "@", "vsock:2:1234", "relative/path"])
def test_without_a_socket_nothing_happens(address: str) -> None:
    """Outside the service manager every call is a no-op, not an error."""
    manager = ServiceManager({"NOTIFY_SOCKET": address} if address else {})
    assert not manager.present
    assert not manager.ready()
    assert not manager.status("x")
    assert not manager.watchdog()
    assert not manager.stopping()
    assert not manager.reloading()
    assert not manager.extend_timeout(1)
    assert manager.watchdog_interval() is None
    assert manager.dropped == 0
    manager.close()


@pytest.mark.parametrize("address", ["/nonexistent/notify", "/" + "x" * 300])
def test_manager_that_is_gone_is_survived(address: str) -> None:
    """A socket nobody listens on, or of an impossible name, costs the message only."""
    manager = ServiceManager({"NOTIFY_SOCKET": address})
    assert not manager.ready()
    assert not manager.watchdog()
    assert manager.dropped == 2
    manager.close()


def test_manager_that_does_not_read_never_blocks(manager: ServiceManager, listener: socket.socket) -> None:
    """With the queue full, status and watchdog messages are dropped; READY and STOPPING go before the next one."""
    while manager.watchdog():
        pass
    assert not manager.status("lost")
    assert not manager.ready()
    assert not manager.stopping()
    received(listener)
    assert manager.status("back")
    assert received(listener) == [b"READY=1\n", b"STOPPING=1\n", b"STATUS=back\n"]
    assert manager.dropped == 4


def test_restarted_manager_is_found_again(tmp_path: Path, manager: ServiceManager, listener: socket.socket) -> None:
    """A manager that was replaced listens on a new socket of the same name."""
    listener.close()
    (tmp_path / "notify").unlink()
    assert not manager.watchdog()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        assert manager.watchdog()
        assert listening.recv(100) == b"WATCHDOG=1\n"


def test_owed_announcements_are_bounded() -> None:
    """With nobody listening, reloads for years do not pile up."""
    manager = ServiceManager({"NOTIFY_SOCKET": "/nonexistent/notify"})
    for _ in range(100):
        manager.reloading()
    manager.stopping()
    assert len(manager._owed) <= 4
    assert manager._owed[-1] == b"STOPPING=1\n"
    manager.close()


def test_children_inherit_neither_variables_nor_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A child process cannot speak in the daemon's name."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    manager = ServiceManager()
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)
    assert manager._socket is not None
    assert not manager._socket.get_inheritable()
    assert manager.watchdog_interval() == 1.0
    manager.close()


@pytest.mark.parametrize(
    ("variables", "interval"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
        ({"WATCHDOG_USEC": "\u0663"}, None),
        ({}, None),
    ],
)
def test_watchdog_interval_is_half_of_what_is_tolerated(variables: dict[str, str], interval: float | None) -> None:
    """The variables count only for the process they are meant for, and only if they make sense."""
    assert ServiceManager(dict(variables)).watchdog_interval() == interval
