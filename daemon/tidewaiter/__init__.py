"""tidewaiter: a compliance stream monitor with exactly-once flags and a tamper-evident audit log.

For Python programs: `AuditLogger` writes the audit log of a pipeline, `AuditReader` reads any audit file of tidewaiter,
`AuditEntry` is what they give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidewaiter.shell.audit_entries import AuditEntry, AuditReader
    from tidewaiter.shell.audit_logger import AuditLogger

__all__ = ["AuditEntry", "AuditLogger", "AuditReader", "__version__"]

__version__: str

_HOMES = {"AuditEntry": "audit_entries", "AuditReader": "audit_entries", "AuditLogger": "audit_logger"}


if not TYPE_CHECKING:  # a type checker that saw this function would take any name for one of the package's

    def __getattr__(name: str) -> object:
        """Look a name up when somebody asks for it: importing the package alone must cost next to nothing."""
        if name in _HOMES:
            from importlib import import_module  # noqa: PLC0415 - see above

            return getattr(import_module(f"tidewaiter.shell.{_HOMES[name]}"), name)
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - reading metadata is slow

        try:
            return version("tidewaiter")
        except PackageNotFoundError:  # running from a source tree that was never installed
            return "0+source"
