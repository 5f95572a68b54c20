"""tidewaiter: a compliance stream monitor with exactly-once flags and a tamper-evident audit log.

For Python programs: `AuditLogger` writes the audit log of a pipeline, `AuditReader` reads any audit file of tidewaiter,
`AuditEntry` is what they give. `LineageTracker` records what was made from what; it gives `LineageRecord`s. What they
raise beside TypeError and ValueError is here, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidewaiter.core.errors import ConfigError, DurabilityError, IntegrityRefusal
    from tidewaiter.core.lineage.records import LineageRecord
    from tidewaiter.edges.durable import NoSpace
    from tidewaiter.shell.audit_entries import AuditEntry, AuditReader
    from tidewaiter.shell.audit_logger import AuditLogger
    from tidewaiter.shell.lineage import LineageTracker

__all__ = [
    "AuditEntry",
    "AuditLogger",
    "AuditReader",
    "ConfigError",
    "DurabilityError",
    "IntegrityRefusal",
    "LineageRecord",
    "LineageTracker",
    "NoSpace",
    "__version__",
]

__version__: str

_HOMES = {
    "AuditEntry": "shell.audit_entries",
    "AuditLogger": "shell.audit_logger",
    "AuditReader": "shell.audit_entries",
    "ConfigError": "core.errors",
    "DurabilityError": "core.errors",
    "IntegrityRefusal": "core.errors",
    "LineageRecord": "core.lineage.records",
    "LineageTracker": "shell.lineage",
    "NoSpace": "edges.durable",
}


if not TYPE_CHECKING:  # a type checker that saw this function would take any name for one of the package's

    def __getattr__(name: str) -> object:
        """Look a name up when somebody asks for it: importing the package alone must cost next to nothing."""
        if name in _HOMES:
            from importlib import import_module  # noqa: PLC0415 - see above

            return getattr(import_module(f"tidewaiter.{_HOMES[name]}"), name)
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - reading metadata is slow

        try:
            return version("tidewaiter")
        except PackageNotFoundError:  # running from a source tree that was never installed
            return "0+source"
