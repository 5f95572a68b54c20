"""What a log and its entries are called: the time they are made at, and a name for a log that has none.

Owns: the wall clock as text, and made-up origins. Leaves to whoever begins a log which name it takes.
"""

from __future__ import annotations

import datetime as dt
import re
import secrets
import socket


def utc_now() -> str:
    """Return the wall-clock time as UTC text with microseconds; for audit entries and run logs, never for a flag."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def generated_origin(what: str) -> str:
    """Return a name that no other log has, as a URL without its scheme: host, `what` is logged, and a random part."""
    host, what = (re.sub(r"[^A-Za-z0-9._-]", "", part) for part in (socket.gethostname(), what))
    return f"{host or 'localhost'}/{what or 'log'}/{secrets.token_hex(4)}"
