"""The witness: a process of its own that cosigns other machines' checkpoints, and the making of its key.

Owns: the order of its start (key, policy, lock, state, socket, READY) and its orderly end. Leaves what it cosigns to
`edges.witness_state`, and the requests to `edges.witness_server`.
"""

from __future__ import annotations

import ipaddress
import secrets
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import tidewaiter
from tidewaiter.core.errors import ConfigError
from tidewaiter.core.tlog.cosignatures import COSIGNATURE_ED25519
from tidewaiter.core.tlog.notes import ED25519, NoteError, signing_key
from tidewaiter.core.tlog.policies import parse_policy
from tidewaiter.edges import logs as logs_module
from tidewaiter.edges.durable import Disk
from tidewaiter.edges.key_files import SEED_BYTES, create_key_file, read_key_file
from tidewaiter.edges.lock import StateLock
from tidewaiter.edges.service_manager import ServiceManager
from tidewaiter.edges.witness_server import WitnessServer
from tidewaiter.edges.witness_state import WitnessState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tidewaiter.core.errors import TidewaiterError
    from tidewaiter.core.tlog.notes import SigningKey, VerifierKey

log = logs_module.get_logger()

DEFAULT_LISTEN: Final = "127.0.0.1:8650"


@dataclass(frozen=True, kw_only=True)
class WitnessOptions:
    """What `tidewaiter witness serve` is told."""

    state: Path
    key: Path
    policy: Path
    listen: str = DEFAULT_LISTEN


def new_key(path: Path, name: str) -> str:
    """Make a cosigning key in a new file that only its owner can read; return its vkey. Raises ConfigError."""
    try:
        key = signing_key(name, secrets.token_bytes(SEED_BYTES), COSIGNATURE_ED25519)
    except NoteError as error:
        raise ConfigError(f"--name {name}: {error}", hint="name it like a host: witness.example.org/w1") from None
    create_key_file(Disk(), path, key, None)
    return str(key.verifier)


def serve(options: WitnessOptions, *, disk: Disk | None = None, clock: Callable[[], float] = time.time) -> int:
    """Answer until SIGTERM or SIGINT; return the exit code. `disk` and `clock` are replaced in tests only.

    Raises ConfigError, IntegrityRefusal for a damaged state directory, and DurabilityError when the disk fails.
    """
    disk = disk or Disk()
    address = parse_address(options.listen)
    key = _cosigning_key(options.key)
    known = known_logs(options.policy)
    stop = threading.Event()
    errors: list[TidewaiterError] = []

    def failed(error: TidewaiterError) -> None:
        errors.append(error)
        stop.set()

    logs = logs_module.configure(None, stderr="auto")
    services = ServiceManager()
    try:
        disk.make_directory(options.state)
        with StateLock(options.state / "lock"):
            # from here on a signal ends it in order; before, there is nothing to end
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stop.set())
            state = WitnessState(disk, options.state, key, known, lambda: int(clock()))
            with WitnessServer(address, state, failed) as server:
                _serve_until(stop, server, services, key, known)
            state.close()  # waits for the checkpoint that is being made durable
    finally:
        services.close()
        logs.close()
    if errors:
        raise errors[0]
    return 0


def _serve_until(
    stop: threading.Event,
    server: WitnessServer,
    services: ServiceManager,
    key: SigningKey,
    known: dict[str, tuple[VerifierKey, ...]],
) -> None:
    host = str(server.server_address[0])
    if not ipaddress.ip_address(host).is_loopback:
        log.warning("witness.exposed", url=server.url)
    thread = threading.Thread(target=server.serve_forever, name="witness", daemon=True)
    thread.start()
    log.info(
        "witness.started",
        version=tidewaiter.__version__,
        url=server.url,
        key=str(key.verifier),
        logs=sorted(known),
        sizes=server.state.sizes,
    )
    services.ready(f"witness {key.name} on {server.url}, {len(known)} logs")
    stop.wait()
    services.stopping()
    server.shutdown()
    log.info("witness.stopped")


def parse_address(listen: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT`` or ``[HOST]:PORT``. Raises ConfigError."""
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:  # noqa: PLR2004 - ports
        raise ConfigError(f"--listen {listen}: is no address", hint=f"write HOST:PORT, as in {DEFAULT_LISTEN}")
    return host, int(port)


def known_logs(policy: Path) -> dict[str, tuple[VerifierKey, ...]]:
    """Return the keys of each log in a tlog-policy file, by origin: the name of its keys. Raises ConfigError."""
    try:
        data = policy.read_bytes()
    except OSError as error:
        raise ConfigError(f"{policy}: cannot be read: {error.strerror}", hint="see --policy") from error
    known: dict[str, tuple[VerifierKey, ...]] = {}
    for one in parse_policy(data, str(policy)).logs:
        known[one.key.name] = (*known.get(one.key.name, ()), one.key)
    if not known:
        raise ConfigError(f"{policy}: names no log", hint="add a line for each log to witness: log VKEY")
    return known


def _cosigning_key(path: Path) -> SigningKey:
    keys = read_key_file(path)
    if len(keys) != 1 or keys[0].verifier.type == ED25519:
        raise ConfigError(
            f"{path}: is not the key of a witness", hint="make one: tidewaiter witness new --key FILE --name NAME"
        )
    return keys[0]
