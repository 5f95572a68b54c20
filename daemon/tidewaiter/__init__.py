"""tidewaiter: a compliance stream monitor with exactly-once flags and a tamper-evident audit log."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tidewaiter")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0+source"

__all__ = ["__version__"]
