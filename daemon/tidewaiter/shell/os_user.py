"""Accounts of the operating system, as the audit log names them, and whom new files must belong to.

Owns: their text form. Leaves to `edges.inbox` whose account a request came from.
"""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def os_user(uid: int | None = None) -> str:
    """Return the account as ``1000 (alice)``, ``1000`` where it has no name; None: the one this process acts as."""
    uid = os.geteuid() if uid is None else uid
    try:
        return f"{uid} ({pwd.getpwuid(uid).pw_name})"
    except KeyError:
        return str(uid)


def owner_for(path: Path) -> tuple[int, int] | None:
    """Return whom files made at `path` must belong to: root keeps its owner, others can only be themselves."""
    if os.geteuid() != 0:
        return None
    status = path.stat()
    return status.st_uid, status.st_gid
