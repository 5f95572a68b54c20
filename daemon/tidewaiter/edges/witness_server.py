"""The witness's HTTP interface: C2SP tlog-witness v1.0.0, add-checkpoint and the monitor's GET, with strict limits.

Owns: sockets, threads, requests and their limits. Leaves to `edges.witness_state` what is cosigned, and to
`shell.witness` the start and the end of the process.

A request has a line and headers of 64 KiB at most, a body of 64 KiB at most, and `REQUEST_SECONDS` from its first
moment (for a connection that is kept alive: from the answer before) to its last byte, however slowly they drip. There
are at most `CONNECTIONS` of them at once; more are turned away with 503. Whoever talks to us is nobody: what a
checkpoint is worth, its signature says.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, Final, cast

from tidewaiter.core.errors import ConfigError, TidewaiterError
from tidewaiter.edges import logs
from tidewaiter.edges.durable import NoSpace

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidewaiter.core.tlog.witnessing import Verdict
    from tidewaiter.edges.witness_state import WitnessState

log = logs.get_logger()

HEAD_BYTES: Final = 64 << 10
BODY_BYTES: Final = 64 << 10
REQUEST_SECONDS: Final = 15.0
ANSWER_SECONDS: Final = 5.0
CONNECTIONS: Final = 32
ADD_CHECKPOINT: Final = "/add-checkpoint"

_MONITORING: Final = re.compile(r"/([0-9a-f]{64})/checkpoint")
_READ_AHEAD: Final = 8 << 10
_SHOWN_NOTE: Final = 4 << 10  # characters of a refused checkpoint in a log line
_TURNED_AWAY: Final = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class WitnessServer(ThreadingHTTPServer):
    """Listens as soon as it is made; `serve_forever` answers until `shutdown`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(
        self,
        address: tuple[str, int],
        state: WitnessState,
        failed: Callable[[TidewaiterError], None],
        *,
        request_seconds: float = REQUEST_SECONDS,
        connections: int = CONNECTIONS,
    ) -> None:
        """`failed` is called, on some thread, with an error after which the process must end. Raises ConfigError."""
        self.state = state
        self.failed = failed
        self.request_seconds = request_seconds
        self._slots = threading.BoundedSemaphore(connections)
        host, port = address
        try:
            # the first of what a name stands for: a witness has one address
            self.address_family, *_, resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            super().__init__(cast("tuple[str, int]", resolved[:2]), _Handler)
        except OSError as error:
            raise ConfigError(
                f"--listen {host}:{port}: {error.strerror or error}",
                hint="name an address of this machine that is free",
            ) from error

    @property
    def url(self) -> str:
        """The submission and monitoring prefix."""
        host, port = self.server_address[:2]
        name = str(host)
        return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"

    def server_bind(self) -> None:
        """Bind, without asking DNS for our own name as the standard library does."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as in the standard library
        """Give the connection a thread, or turn it away where there are too many."""
        if not self._slots.acquire(blocking=False):
            request.settimeout(0)
            request.send(_TURNED_AWAY)  # the empty buffer of a new connection takes it at once
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - see above
        """Answer one connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002 - see above
        """A connection that broke is the client's affair; anything else is a defect worth a traceback in the log."""
        error = sys.exception()
        if isinstance(error, OSError | http.client.HTTPException):
            log.debug("witness.connection_lost", client=str(client_address[0]), reason=str(error))
        else:
            log.error("witness.request_failed", client=str(client_address[0]), exc_info=error)


class _Wire(io.RawIOBase):
    """What arrives on a connection: by a deadline, and so many bytes."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._deadline = 0.0
        self._left = 0

    def readable(self) -> bool:
        return True

    def begin(self) -> None:
        """A new request; part of the body may come along with its head."""
        self._deadline = time.monotonic() + self._seconds
        self._left = HEAD_BYTES + _READ_AHEAD

    def expect(self, count: int) -> None:
        self._left += count

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        if self._left <= 0:
            raise http.client.HTTPException("larger than allowed")  # which http.server answers with 431
        self._connection.settimeout(remaining)
        count = self._connection.recv_into(buffer, min(len(buffer), self._left))
        self._left -= count
        return count


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep-alive
    server_version = "tidewaiter-witness"
    sys_version = ""
    disable_nagle_algorithm = True
    server: WitnessServer

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._wire = _Wire(self.connection, self.server.request_seconds)
        self.rfile = io.BufferedReader(self._wire, _READ_AHEAD)

    def handle_one_request(self) -> None:
        self._wire.begin()
        super().handle_one_request()

    # -- the two calls -------------------------------------------------------------------------------------------

    def do_POST(self) -> None:
        if self.path != ADD_CHECKPOINT:
            # what the body is does not matter, so it is not read
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED if _MONITORING.fullmatch(self.path) else HTTPStatus.NOT_FOUND)
            return
        body = self._body()
        if body is None:
            return
        try:
            verdict = self.server.state.add_checkpoint(body)
        except NoSpace as error:
            log.warning("disk.full", reason=str(error))
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        except TidewaiterError as error:
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR)
            self.server.failed(error)
            return
        self._tell(verdict, body)
        self._reply(verdict.status, verdict.body, verdict.content_type)

    def do_GET(self) -> None:
        if "content-length" in self.headers or "transfer-encoding" in self.headers:
            self.close_connection = True  # a body nobody reads must not be taken for the next request
        found = _MONITORING.fullmatch(self.path)
        note = self.server.state.checkpoint(found[1]) if found is not None else None
        if note is not None:
            self._reply(HTTPStatus.OK, note)
        elif self.path == ADD_CHECKPOINT:
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED)
        else:
            self._reply(HTTPStatus.NOT_FOUND, b"no such checkpoint\n")

    # -- the rest ------------------------------------------------------------------------------------------------

    def _body(self) -> bytes | None:
        """Return the body; None where the request was refused or ended early."""
        lengths = self.headers.get_all("content-length", [])
        if "transfer-encoding" in self.headers or not lengths:
            self._refuse(HTTPStatus.LENGTH_REQUIRED)
        elif len(lengths) > 1 or not re.fullmatch(r"[0-9]{1,9}", lengths[0]):
            self._refuse(HTTPStatus.BAD_REQUEST)
        elif int(lengths[0]) > BODY_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            length = int(lengths[0])
            self._wire.expect(length)
            body = self.rfile.read(length)
            if len(body) == length:
                return body
            self.close_connection = True
        return None

    def _tell(self, verdict: Verdict, body: bytes) -> None:
        client = str(self.client_address[0])
        head = verdict.head
        if verdict.status == HTTPStatus.OK and head is not None:
            log.info("witness.cosigned", origin=head.origin, size=head.size, client=client)
        elif verdict.inconsistent:
            # signed by the log and not consistent with what it showed before: the proof of a roll-back or a fork
            note = body.partition(b"\n\n")[2][:_SHOWN_NOTE].decode(errors="backslashreplace")
            log.error("witness.inconsistent", checkpoint=note, reason=verdict.inconsistent, client=client)
        else:
            reason = _words(verdict.body)
            if verdict.status == HTTPStatus.CONFLICT:  # how a log learns where to go on from
                reason = f"has cosigned {reason} entries, which is not the old size"
            log.info("witness.refused", status=verdict.status, reason=reason, client=client)

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer a request that is not for us; its body may be unread, so the connection ends."""
        self.close_connection = True
        self._reply(status, f"{status.phrase}\n".encode())

    def _reply(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        self.connection.settimeout(ANSWER_SECONDS)
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "POST" if self.path == ADD_CHECKPOINT else "GET")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Refuse what the standard library could not parse, in plain text and without quoting it."""
        self.request_version = self.protocol_version  # a request line that makes no sense names none
        self._refuse(HTTPStatus(code))

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing: `_tell` does."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by the standard library
        """Log time-outs and the like at level debug: anybody can cause them."""
        log.debug("witness.connection_lost", client=str(self.client_address[0]), reason=format % args)


def _words(body: bytes) -> str:
    return body.decode(errors="backslashreplace").strip()
