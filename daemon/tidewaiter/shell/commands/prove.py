"""``tidewaiter prove``: a folder with which a third party can check one flag.

Owns: its options and what is said at the end. Leaves to `shell.prove` what goes into the folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidewaiter.shell.commands.options import (
    ConfigOption,
    MovedStreamOption,
    StateDirOption,
    StreamNameOption,
    plain,
    show,
)

EXAMPLE = (
    "Example: [bold]tidewaiter prove e48213:velocity --out e48213[/bold]\n\n"
    "[bold]e48213/VERIFY.md[/bold] then says how to check it, with sha256sum and openssl alone."
)


def prove(
    flag_id: Annotated[
        str,
        typer.Argument(
            metavar="FLAG_ID",
            help="The flag_id of a line of flags.jsonl, suppressed.jsonl or shadow_flags.jsonl.",
            show_default=False,
        ),
    ],
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="A new directory for it.", show_default=False)
    ],
    stream: MovedStreamOption = None,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    stream_name: StreamNameOption = None,
) -> None:
    """Write the evidence of one flag: its entry, the input and the rules, with proofs that lead to a checkpoint.

    Reads only, takes no lock, and works while the daemon runs. The flag must be covered by a checkpoint, which the
    daemon writes within a second.
    """
    from tidewaiter.shell.audit_reading import reading
    from tidewaiter.shell.commands.status import locate
    from tidewaiter.shell.prove import prove as gather
    from tidewaiter.shell.prove import write
    from tidewaiter.shell.prove_page import page

    place = None if stream is None else stream.absolute()
    target = locate(place if state_dir is None else None, config, state_dir, stream_name)
    if place is not None:
        target = type(target)(state=target.state, name=target.name, stream=place)
    with reading(target.state):
        proved = gather(target, flag_id)
    write(proved, page(proved), out.absolute())
    head, entry = proved.checkpoint.head, proved.entries.flag.head
    by = "signed by the log" if proved.checkpoint.keys else "[yellow]not signed[/yellow]: the log has no key"
    if proved.checkpoint.witnesses:
        by += plain(f" and by {', '.join(proved.checkpoint.witnesses)}")
    show(
        plain(f"{out}: entry {entry.index} of {head.size} of the log {head.origin}, the checkpoint is ") + by,
        *(f"[yellow]note[/yellow]: {plain(note)}" for note in proved.notes),
        plain(f"{out}/VERIFY.md says how to check it"),
    )
