"""The errors a user can meet, named by whose fault they are, each with its exit code (daemon/README.md).

Owns: the exception classes and the exit codes. Leaves to the neighbours: `shell.commands` prints them as one line and
turns them into the exit status; everything else only raises them.

Every message says what happened, where, and what to do; `hint` is the last part, printed after the message.
"""

from __future__ import annotations

from typing import ClassVar, Final

EXIT_CLEAN: Final = 0
EXIT_UNEXPECTED: Final = 1
EXIT_USAGE: Final = 2
EXIT_HALTED: Final = 3
EXIT_INTEGRITY: Final = 4
EXIT_DURABILITY: Final = 5
EXIT_UNANCHORED: Final = 6
EXIT_UNDECIDABLE: Final = 7


class TidewaiterError(Exception):
    """Base of every error that ends in one clear line instead of a traceback."""

    exit_code: ClassVar[int] = EXIT_UNEXPECTED

    def __init__(self, message: str, *, hint: str = "") -> None:
        """`message` says what happened and where; `hint` says what to do about it."""
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return message and hint as one line."""
        return f"{self.message}: {self.hint}" if self.hint else self.message


class ConfigError(TidewaiterError):
    """The configuration, contract, ruleset or command line is wrong (exit 2).

    Messages have the form ``FILE:LINE:COLUMN: KEY: what is wrong``; the hint names what is allowed.
    """

    exit_code = EXIT_USAGE


class SourceHalt(TidewaiterError):  # noqa: N818 - a halt is the promised outcome of a data policy, not a defect
    """The stream cannot go on without an operator's decision: bad data under a `halt` policy, or a gap (exit 3)."""

    exit_code = EXIT_HALTED


class IntegrityRefusal(TidewaiterError):  # noqa: N818 - named for what the daemon does
    """What is on disk contradicts the audit log or the stream already read; nothing is guessed (exit 4)."""

    exit_code = EXIT_INTEGRITY


class DurabilityError(TidewaiterError):
    """The disk did not confirm what had to be durable (exit 5); the next start recovers by rewriting."""

    exit_code = EXIT_DURABILITY
