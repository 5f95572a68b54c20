"""What a process of `edges.worker` runs: one answer after the other, for as long as anybody asks.

It must be cheap to start: this module, and every module that calls it, imports next to nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO


def answer_all(answer_next: Callable[[BinaryIO], bytes | None]) -> None:
    """Write what `answer_next` makes of the next question until it says None, or nobody is there any more.

    It may end with an error, too: who asks finds out why by itself. What stops the daemon may be sent to all its
    processes, and it may still want an answer then.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        while (text := answer_next(sys.stdin.buffer)) is not None:
            sys.stdout.buffer.write(text)
            sys.stdout.buffer.flush()
            del text  # a large answer is not to be kept until the next
    except ConnectionError:
        os._exit(0)  # the interpreter's own end would write again
