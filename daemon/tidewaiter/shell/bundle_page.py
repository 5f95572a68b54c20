"""VERIFY.md of a bundle: what is in it, what it shows and does not, and the commands that check it.

Owns: the words, and the commands with the numbers of this bundle in them. Leaves to `shell.foreign_checks` the
functions they call, and to `shell.bundle` what is in it. Every block that begins with ```sh is to be run, in order.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from tidewaiter.shell import foreign_checks
from tidewaiter.shell.prove_page import NEEDS, cell

if TYPE_CHECKING:
    from tidewaiter.shell.bundle import Bundle


def page(bundle: Bundle, *, signed: bool) -> str:
    """Return the page. `signed`: the sums bear a signature of the log's newest key."""
    parts = [_opening(bundle, signed=signed), _functions(), _key(bundle), _files(bundle, signed=signed)]
    parts += [_entries(bundle), _history(bundle), _named(bundle), _rest(bundle)]
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def _opening(bundle: Bundle, *, signed: bool) -> str:
    head = bundle.newest.head
    by = "signed by the log" if bundle.newest.keys else "**not signed**"
    witnesses = f" and by {cell(', '.join(bundle.newest.witnesses))}" if bundle.newest.witnesses else ""
    sums = "signed by the log's key" if signed else "**not signed**: the key was not at hand when this was made"
    return f"""
# Checking a bundle of evidence

| | |
|---|---|
| log | {cell(head.origin)} |
| entries | {bundle.first} to {bundle.end - 1}, of {cell(bundle.begins)} to {cell(bundle.ends)} |
| flags | {bundle.flags} |
| newest checkpoint | of {head.size} entries, {by}{witnesses} |
| list of files | {sums} |

- `audit/` the log: one entry a line, whole segments; `flags.jsonl` the flags that are in them, as they were issued.
- `checkpoint` the newest checkpoint; `checkpoints` all of this time; `kept/` some of them, linked by `consistency/`.
- `range/` the hashes that lead from these entries to the newest checkpoint; `tile/` what further proofs are made of.
- `rules/` what was in force, each file named by its SHA-256; `runs/` and `reports/` what each run reported.

{NEEDS}
"""


def _functions() -> str:
    return f"""
## 1. The functions

They follow RFC 6962 and the C2SP specifications signed-note and tlog-checkpoint. Read them, or compare them with a copy
that you have: they are the same in every bundle, and whoever makes up a bundle can make up this page as well.

```sh
{(foreign_checks.BASICS + foreign_checks.CONSISTENT + foreign_checks.ROOT).strip()}
```
"""


def _key(bundle: Bundle) -> str:
    if not bundle.newest.keys:
        return """
## 2. The key

**The newest checkpoint is not signed**, because the log has no key. What follows shows that everything here belongs to
one tree. Compare its size and root, the second and third line of `checkpoint`, with a note of them that you trust, kept
by somebody else at the time.
"""
    return """
## 2. The key

A key that lies in here shows nothing: whoever makes up a bundle makes up a key. **Compare `log.vkey` with the verifier
key of this log that you were given before**, on another way, or put that one in its place. Where the log changed its
key there are several lines, the newest first.

```sh
vkey=$(head -n 1 log.vkey) && echo "checking with $vkey"
```
"""


def _files(bundle: Bundle, *, signed: bool) -> str:
    check = "sha256sum --check --strict --quiet SHA256SUMS && echo 'all files are as listed'"
    if not (signed and bundle.newest.keys):
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
pem=$(mktemp) && pem "$vkey" >"$pem" && verified "$pem" SHA256SUMS SHA256SUMS.sig &&
{check}
```
"""


def _entries(bundle: Bundle) -> str:
    signed = 'signed checkpoint "$vkey" &&\n' if bundle.newest.keys else ""
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
    signed = ""
    if bundle.newest.keys:
        signed = """
  one= && for key in $(cat log.vkey); do signed "$new" "$key" >"$said" 2>&1 && one=$key; done
  [ -n "$one" ] || { fail "$new is not signed by a key of the log"; break; }"""
    return f"""
## 5. The checkpoints are of one log

Each of the {len(bundle.kept)} kept checkpoints is signed, and is the beginning of the next.

```sh
said=$(mktemp) && old= && links=0
for new in kept/*; do{signed}
  if [ -n "$old" ]; then
    consistent "$old" "$new" "consistency/${{old#kept/}}-${{new#kept/}}" || break
    links=$((links + 1))
  fi
  old=$new
done
{{ [ "$links" -eq {len(bundle.kept) - 1} ] || fail "not all checkpoints are linked"; }} &&
{{ [ "$(sha256sum <"$old")" = "$(sha256sum <checkpoint)" ] || fail "$old is not the newest"; }} &&
echo "$((links + 1)) checkpoints are of one log"
```
"""


def _named(bundle: Bundle) -> str:
    rules = documents = ""
    if bundle.in_force:
        rules = """
{ of batch.committed; of decision.recorded; } | tr '"' '\\n' | sort -u >"$work/named" &&
for file in rules/*; do
  sum=$(sha256sum <"$file") && [ "$file" = "rules/${sum%% *}" ] && printf '%s\\n' "${sum%% *}" || echo "$file"
done | sort -u | comm -23 - "$work/named" >"$work/foreign" &&
{ [ ! -s "$work/foreign" ] || fail "rules/ has what was not in force: $(head -n 1 "$work/foreign")"; } &&"""
    if bundle.covered:
        documents = f"""
{{ of run.started; of run.ended; }} | tr '"' '\\n' | sort -u >"$work/named" &&
for file in {shlex.join(bundle.covered)}; do
  sum=$(sha256sum <"$file") && printf '%s\\n' "${{sum%% *}}" || echo "$file"
done | sort -u | comm -23 - "$work/named" >"$work/foreign" &&
{{ [ ! -s "$work/foreign" ] || fail "a run log or report is not the one that the log names"; }} &&"""
    others = ""
    if bundle.uncovered:
        listed = ", ".join(f"`{cell(name)}`" for name in bundle.uncovered)
        others = f"\nNo entry of this time gives the hash of {listed}: only the list of files covers them.\n"
    return f"""
## 6. Rules, run logs and flags are those that the entries name

```sh
work=$(mktemp -d) &&
cut -d , -f 7- audit/*.jsonl | sort -s -t , -k 1,1 >"$work/said" &&
of() {{ printf '"action":"%s"\\n' "$1" | join -t , - "$work/said"; }} &&{rules}{documents}
of flag.emitted | cut -d , -f 2- | cut -c 10- | sha256sum >"$work/carried" &&
paste -d '}}' flags.jsonl /dev/null | sha256sum | comm -3 - "$work/carried" >"$work/foreign" &&
{{ [ ! -s "$work/foreign" ] || fail "flags.jsonl is not what the entries carry"; }} &&
rm -r "$work" && echo 'rules, run logs and flags are those that the entries name'
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
Whether the rules give these flags for this input, `tidewaiter replay` with the input recomputes.
{f"{chr(10)}Missing or wrong:{chr(10)}{chr(10)}{missing}" if missing else ""}"""
