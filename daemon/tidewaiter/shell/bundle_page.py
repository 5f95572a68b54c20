"""VERIFY.md of a bundle: what is in it, what it shows and does not, and the commands that check it.

Owns: the words, and the commands with the numbers of this bundle in them. Leaves to `shell.foreign_checks` the
functions they call, and to `shell.bundle` what is in it. Every block that begins with ```sh is to be run, in order.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from tidewaiter.shell import foreign_checks
from tidewaiter.shell.bundle_file import kept_name
from tidewaiter.shell.prove_page import NEEDS, TAKE_KEY, cell

if TYPE_CHECKING:
    from tidewaiter.shell.bundle import Bundle


def page(bundle: Bundle, unsigned: str) -> str:
    """Return the page. `unsigned` says why the sums bear no signature of `bundle.signer`; "": they bear one."""
    parts = [_opening(bundle, unsigned), _functions(), _key(bundle), _files(signed=not unsigned)]
    parts += [_entries(bundle), _history(bundle), _named(bundle), _rest(bundle)]
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def _opening(bundle: Bundle, unsigned: str) -> str:
    head = bundle.newest.head
    by = "signed by the log" if bundle.newest.keys else "**not signed**"
    witnesses = f" and by {cell(', '.join(bundle.newest.witnesses))}" if bundle.newest.witnesses else ""
    sums = f"**not signed**: {unsigned}" if unsigned else "signed by the log's key"
    return f"""
# Checking a bundle of evidence

| | |
|---|---|
| log | {cell(head.origin)} |
| asked for | {_asked(bundle)} |
| entries | {bundle.first} to {bundle.end - 1}, of {cell(bundle.begins)} to {cell(bundle.ends)} |
| flags | {bundle.flags} |
| newest checkpoint | of {head.size} entries, {by}{witnesses} |
| list of files | {sums} |

- `audit/` the log: one entry a line, whole segments; `flags.jsonl` the flags that are in them, as they were issued.
- `checkpoint` the newest checkpoint; `checkpoints` all of this time; `kept/` some of them, linked by `consistency/`.
- `range/` the hashes that lead from these entries to the newest checkpoint; `tile/` what further proofs are made of.
- `rules/` what was in force, each file named by its SHA-256; `runs/` and `reports/` what each run reported.
- `before.jsonl`, where it is there, the entry that says what was in force when this began; `keys/` changes of the key.

{NEEDS}
"""


def _asked(bundle: Bundle) -> str:
    begin, end = bundle.wanted.begin, bundle.wanted.end
    if not begin and not end:
        return "all there is"
    return f"{f'from {begin}' if begin else 'from the beginning'} {f'to before {end}' if end else 'on'}; whole segments"


def _functions() -> str:
    parts = (
        foreign_checks.BASICS, foreign_checks.LISTED, foreign_checks.INCLUDED, foreign_checks.SUCCEEDED,
        foreign_checks.CONSISTENT, foreign_checks.ROOT, foreign_checks.ENTRIES,
    )  # fmt: skip
    return f"""
## 1. The functions

They follow RFC 6962 and the C2SP specifications signed-note, tlog-checkpoint and tlog-proof. Read them, or compare them
with a copy that you have: they are the same in every bundle, and whoever makes up a bundle can make up this page too.

```sh
{"".join(parts).strip()}
```
"""


def _key(bundle: Bundle) -> str:
    if bundle.signer is None:
        why = "no key of the log signs any more" if bundle.log_keys else "the log has no key"
        return f"""
## 2. The key

**The newest checkpoint is not signed**: {why}. What follows shows that everything here belongs to one tree. Compare its
size and root, the second and third line of `checkpoint`, with a note of them that you trust, kept by somebody else at
the time.
{_revoked(bundle)}"""
    return f"""
## 2. The key

A key that lies in here shows nothing: whoever makes up a bundle makes up a key. **Compare `log.vkey` with the verifier
key of this log that you were given before**, on another way. Where that one is in the file `../held.vkey`, it is the
one that is used. If the log changed its key since, `keys/` leads from yours to the one that signs now, the first in
`log.vkey`: each change stands in an entry that the key before it signed for.

```sh
{TAKE_KEY} &&
newest_key "$(head -n 1 log.vkey)"
```
{_revoked(bundle)}"""


def _revoked(bundle: Bundle) -> str:
    said = ""
    for key in bundle.log_keys:
        last = key.named.revoked_after
        if last is not None:
            counts = f"what it signed counts up to entry {last} only" if last >= 0 else "nothing that it signed counts"
            said += (
                f"\n**Revoked:** `{cell(key.named.vkey)}`; {counts}, and a later key must come to you on another way.\n"
            )
    return said


def _files(*, signed: bool) -> str:
    check = "listed && echo 'all files are as listed, and there are no others'"
    if not signed:
        return f"""
## 3. The files are whole

```sh
{check}
```

The list is not signed: this finds damage, not deceit. The steps below do not need it.
"""
    return f"""
## 3. The files are whole, and the list of them is signed

```sh
sealed SHA256SUMS "$vkey" && {check}
```
"""


def _entries(bundle: Bundle) -> str:
    signed = 'signed checkpoint "$vkey" &&\n' if bundle.signer is not None else ""
    witness = ""
    if bundle.newest.witnesses or bundle.witnessed is not None:
        witness = """
Witnesses signed as well, in `checkpoint` or `witnessed`. Where you hold the verifier key of one,
`signed witnessed VKEY` checks it: then the log is the one which that witness saw.
"""
    first, end, size = bundle.first, bundle.end, bundle.newest.head.size
    return f"""
## 4. The entries are those of the newest checkpoint

This hashes every entry and puts the tree together. It says nothing meanwhile; a million entries take some minutes.

```sh
{signed}root=$(cat audit/*.jsonl | root {first} {end} {size}) &&
{{ IFS= read -r origin && IFS= read -r size && IFS= read -r expected; }} <checkpoint &&
{{ [ "$size $root" = "{size} $expected" ] || fail "the entries give another root: $root"; }} &&
echo "entries {first} to {end - 1} are those of the checkpoint of $size entries"
```

**The step that counts most:** do you hold a checkpoint of this log, or a note of size and root, from a time that this
bundle covers? With N as its size, more than {first} and at most {end}, this must give its root; then nothing before it
was written anew since:

    cat audit/*.jsonl | head -n $((N - {first})) | root {first} $N $N
{witness}"""


def _history(bundle: Bundle) -> str:
    if len(bundle.kept) == 1:
        return """
## 5. The checkpoints are of one log

There is one checkpoint only.
"""
    signed = limits = counts = ""
    ends = [(key.named.vkey, key.named.revoked_after) for key in bundle.keys]
    cases = [f'{shlex.quote(vkey)}) [ "$2" -le {last + 1} ] ;;' for vkey, last in ends if last is not None]
    if cases:
        limits = f"\n  counts() {{ case $1 in {' '.join(cases)} esac; }}"
        counts = 'counts "$key" "$(head -n 2 "$new" | tail -n 1)" && '
    if len(bundle.kept) > 1 and bundle.kept[0].keys:
        unsigned = '[ "$new" = "$last" ] || ' if bundle.signer is None else ""
        signed = f"""
    one= && for key in $(cat log.vkey); do
      {counts}signed "$new" "$key" >/dev/null 2>&1 && one=$key
    done
    [ -n "$one" ] || {unsigned}{{ fail "$new is not signed by a key of the log that counts"; exit 1; }}"""
    return f"""
## 5. The checkpoints are of one log

Each of the {len(bundle.kept)} kept checkpoints is signed, and is the beginning of the next.

```sh
( old= links=0 last={kept_name(bundle.newest.head.size)}{limits}
  for new in kept/*; do{signed}
    if [ -n "$old" ]; then
      consistent "$old" "$new" "consistency/${{old#kept/}}-${{new#kept/}}" || exit 1
      links=$((links + 1))
    fi
    old=$new
  done
  {{ [ "$links" -eq {len(bundle.kept) - 1} ] || fail "not all checkpoints are linked"; }} &&
  {{ [ "$(sha256sum <"$old")" = "$(sha256sum <checkpoint)" ] || fail "$old is not the newest"; }} &&
  echo "$((links + 1)) checkpoints are of one log" )
```
"""


def _named(bundle: Bundle) -> str:
    before = earlier = ""
    if bundle.before is not None:
        earlier = "cat before.jsonl; "
        signed = ' "$vkey"' if bundle.signer is not None else ""
        before = f"included before.jsonl before.tlog-proof{signed} &&\n  "
    reports = " ".join(name for name in bundle.covered if name.startswith("reports/"))
    others = ""
    if bundle.uncovered:
        listed = ", ".join(f"`{cell(name)}`" for name in bundle.uncovered)
        others = f"\nNo entry of this time gives the hash of {listed}: only the list of files covers them.\n"
    return f"""
## 6. Rules, run logs and flags are those that the entries name

```sh
( work=$(mktemp -d) && trap 'rm -r "$work"' EXIT &&
  {before}{{ of 'batch[.]committed|decision[.]recorded'; {earlier}}} | governing >"$work/named" &&
  in_force "$work/named" && of 'run[.](started|ended)' >"$work/ran" &&
  reported "$work/ran" {shlex.quote(reports)} &&
  of 'flag[.]emitted' | cut -d , -f 8- | cut -c 10- | sha256sum >"$work/carried" &&
  paste -d '}}' flags.jsonl /dev/null | sha256sum | comm -3 - "$work/carried" >"$work/foreign" &&
  {{ [ ! -s "$work/foreign" ] || fail "flags.jsonl is not what the entries carry"; }} &&
  echo 'rules, run logs and flags are those that the entries name' )
```

| in `rules/` | what it is |
|---|---|
{_table(bundle)}
{others}"""


def _table(bundle: Bundle) -> str:
    return "\n".join(f"| `{digest}` | {cell(what)} |" for digest, what in sorted(bundle.in_force.items()))


def _rest(bundle: Bundle) -> str:
    missing = "".join(f"- {cell(note)}\n" for note in bundle.notes)
    return f"""
## What this shows, and what it does not

All entries of this time are here, in order and unchanged, as the holder of the key signed them. Whether everybody was
shown this log, and whether it is the same one as last year, a signature alone does not say: the holder of the key can
sign another history, back-dated entries included. Only a checkpoint that somebody else kept, or a witness, shows that.
Whether the rules give these flags for this input, `tidewaiter verify --replay` recomputes where log and stream are.
{f"{chr(10)}Missing or wrong:{chr(10)}{chr(10)}{missing}" if missing else ""}"""
