"""What throughput is compared with: `decode_lines` alone, with the contract's own decoder, and nothing done with it.

Started as ``python -m bench_tool.bare_decode FILE CONTRACT``; prints seconds and processor seconds of the calls alone,
in a process of its own as the daemon is. Chunks are 1 MiB, cut at the last newline; reading and cutting do not count.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tidewaiter.core.contract import compile_contract

if TYPE_CHECKING:
    from collections.abc import Sequence

CHUNK_BYTES: Final = 1 << 20


def main(arguments: Sequence[str]) -> int:
    """Decode the file and print how long that took."""
    file, contract_file = map(Path, arguments)
    decode = compile_contract(contract_file.read_bytes(), contract_file.name).decoder.decode_lines
    seconds = cpu = 0.0
    events = 0
    rest = b""
    with file.open("rb") as stream:
        while data := stream.read(CHUNK_BYTES):
            end = data.rfind(b"\n") + 1
            chunk, rest = rest + data[:end], data[end:]
            began, began_cpu = time.perf_counter(), time.process_time()
            events += len(decode(chunk))
            cpu += time.process_time() - began_cpu
            seconds += time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "cpu": cpu, "events": events}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
