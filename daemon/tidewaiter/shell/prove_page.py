"""VERIFY.md of a proved flag: what the folder shows, what it does not, and the commands that check it.

Owns: the words, and the commands with the numbers of this flag in them. Leaves to `shell.foreign_checks` the functions
they call, and to `shell.prove` what is in the folder. Every block that begins with ```sh is meant to be run, in order.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

import msgspec

from tidewaiter.core.audit import BATCH_COMMITTED, DECISION_RECORDED, PROJECTIONS
from tidewaiter.core.invisible import visible
from tidewaiter.shell import foreign_checks

if TYPE_CHECKING:
    from tidewaiter.shell.prove import Proved

NEEDS: Final = """\
You need a POSIX shell, GNU coreutils (sha256sum, base64, od and so on), find, grep and openssl 3; tidewaiter is not
needed. Open a shell in this folder and run the blocks in order, each by pasting it whole. A block that finds something
wrong says `NOT VERIFIED` or `FAILED`, and does not say what it says when all is well. The blocks leave no file behind;
keep notes of your own beside this folder, for a file that the list does not name is refused."""


TAKE_KEY: Final = """\
vkey=$(head -n 1 log.vkey) && { [ ! -s ../held.vkey ] || vkey=$(head -n 1 ../held.vkey); } &&
echo "checking with $vkey\""""


def page(proved: Proved) -> str:
    """Return the page."""
    return "\n".join(
        part.strip("\n") + "\n"
        for part in (
            _opening(proved),
            _functions(),
            _files(),
            _key(proved),
            _tree(proved),
            _input(proved),
            _rest(proved),
        )
    )


def _opening(proved: Proved) -> str:
    flag, head, entry = proved.found.flag, proved.checkpoint.head, proved.entries.flag.head
    kind = {"flags": "flag", "suppressed": "suppressed flag", "shadow_flags": "flag of a shadow scenario"}
    return f"""
# Checking one {kind[proved.found.kind]}

| | |
|---|---|
| flag | {cell(flag["flag_id"])} |
| recorded | {cell(entry.timestamp)}, as entry {entry.index} of the log |
| log | {cell(head.origin)} |
| checkpoint | of {head.size} entries, {_signed_by(proved)} |

The commands below show that `entry.jsonl`, which carries the flag, is in the log of that name exactly as it stands
here, which bytes of the input it comes from, and which rules were in force.

{NEEDS}
"""


def _signed_by(proved: Proved) -> str:
    if not proved.checkpoint.keys:
        return "not signed"
    witnesses = proved.checkpoint.witnesses
    return "signed by the log" + (f" and by {cell(', '.join(witnesses))}" if witnesses else ", by no witness")


def _files() -> str:
    return """
## 2. The files are whole

```sh
listed && echo 'all files are as listed, and there are no others'
```

That finds damage, not deceit: whoever changes a file can change the list.
"""


def _key(proved: Proved) -> str:
    if not proved.checkpoint.keys:
        return """
## 3. The key

**This log has no key.** The proof shows that the entry belongs to the tree with the root in the checkpoint, and nobody
has signed that root: compare size and root with a note of them that you trust, kept by somebody else at the time.

```sh
vkey=
```
"""
    return f"""
## 3. The key

A key that lies in this folder shows nothing: whoever makes up a folder makes up a key. **Compare `log.vkey` with the
verifier key of this log that you were given before**, on another way. Where that one is in the file `../held.vkey`, it
is the one that is used. If the log changed its key since, ask for a bundle: its page leads from one key to the next.

```sh
{TAKE_KEY}
```
"""


def _functions() -> str:
    return f"""
## 1. The functions

They follow RFC 6962 and the C2SP specifications signed-note, tlog-checkpoint and tlog-proof. Read them, or compare them
with a copy that you have: they are the same for every flag, and whoever makes up a folder can make up this page too.

```sh
{(foreign_checks.BASICS + foreign_checks.LISTED + foreign_checks.INCLUDED + foreign_checks.NAMED).strip()}
```
"""


def _tree(proved: Proved) -> str:
    signed = ' "$vkey"' if proved.checkpoint.keys else ""
    checks = [
        f"included {name}.jsonl {name}.tlog-proof{signed}"
        for name in ("entry", "batch", "decision")
        if f"{name}.jsonl" in proved.files
    ]
    witness = ""
    if proved.checkpoint.witnesses:
        witness = f"""
The checkpoint carries signatures under other names: {cell(", ".join(proved.checkpoint.witnesses))}. Where you hold the
verifier key of one of them, `included entry.jsonl entry.tlog-proof VKEY` checks it: then the log is the one which that
witness saw.
"""
    return f"""
## 4. The entries are in the log

```sh
{_all_of(checks)}
```
{witness}"""


def _input(proved: Proved) -> str:
    batch, found = proved.batch, proved.found
    record = f'"action":"{PROJECTIONS[found.kind]}","record":{{"flag_id":{_json(found.flag["flag_id"])},'
    first = batch.position.start + batch.first
    checks = [
        shlex.join(["holds", "entry.jsonl", record]),
        f"""holds entry.jsonl '"offset":{found.offset},'""",
        f"""holds batch.jsonl '"action":"{BATCH_COMMITTED}","cause":"{batch.cause}",'""",
        f"""holds batch.jsonl '"start":{batch.position.start},'""",
        f"""holds batch.jsonl '"first":{batch.first},"offset":{batch.offset},"sha256":"{batch.sha256}","counts":'""",
    ]
    text = f"""
The event stands at byte {found.offset} of the stream, and the batch covers bytes {first} to {batch.offset} (the segment
`{cell(batch.position.segment.name)}` begins at {batch.position.start}; the batch at byte {batch.first} of it).
"""
    if "slice.jsonl" in proved.files:
        checks += [
            f"""names batch.jsonl '"first":{batch.first},"offset":{batch.offset},"sha256":' slice.jsonl""",
            f"tail -c +{found.offset - first + 1} slice.jsonl | head -n 1",
        ]
        text += "`slice.jsonl` holds these bytes; the last line printed is the event.\n"
    else:
        text += f"""They are not in this folder. If you get them from elsewhere, their SHA-256 must be
`{batch.sha256}`.
"""
    decided = f'"decisions":{msgspec.json.encode(batch.decisions).decode()}'
    entries = ["batch.jsonl"]
    checks.append(shlex.join(["holds", "batch.jsonl", decided]))
    if "decision.jsonl" in proved.files:
        entries.append("decision.jsonl")
        checks.append(f"""holds decision.jsonl '"action":"{DECISION_RECORDED}","decision":'""")
        checks.append(shlex.join(["holds", "decision.jsonl", decided]))
    named = [
        shlex.join(["names", entry, f"{_json(member)}:", file]) for entry in entries for member, file in proved.archived
    ]
    return f"""
## 5. The input and the rules

{text.strip()}

```sh
{_all_of([*checks, *named])}
```
"""


def _rest(proved: Proved) -> str:
    parts = [
        """
## What this shows, and what it does not

The tree's root is that of a log which holds the entry. Whether everybody was shown this log, and whether it is the same
one as last year, a signature alone does not say: the holder of the key can sign another history. Compare with a
checkpoint that you or a witness kept.

Whether the rules give this flag, this folder cannot show: what they count lies in windows that reach back further than
the input here. Deriving it again takes the whole stream: `tidewaiter verify --replay`, where log and stream are.
"""
    ]
    if "decision.jsonl" in proved.files:
        parts.append(
            "`decision.jsonl` is the entry that put the rules named above into force, with reason and actor.\n"
        )
    if proved.notes:
        parts.append("Missing here:\n\n" + "".join(f"- {cell(note)}\n" for note in proved.notes))
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def _json(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _all_of(commands: list[str]) -> str:
    return " &&\n".join(commands)


def cell(text: str) -> str:
    """Return text from the log so that it stays one line of text, whatever it holds."""
    return visible(text).replace("\\", "\\\\").replace("`", "'").replace("|", "\\|").replace("<", "&lt;")
