"""tidewaiter: a compliance stream monitor with exactly-once flags and a tamper-evident audit log."""

from __future__ import annotations

__version__: str


def __getattr__(name: str) -> str:
    """Look the version up when somebody asks: reading package metadata takes longer than most commands."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - see above

    try:
        return version("tidewaiter")
    except PackageNotFoundError:  # running from a source tree that was never installed
        return "0+source"
