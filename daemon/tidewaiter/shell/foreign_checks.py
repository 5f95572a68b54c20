"""The shell functions of VERIFY.md: what somebody needs who checks evidence without tidewaiter.

Owns: their text. They use POSIX shell, coreutils, find, grep and openssl only, leave no file behind, and end with an
error wherever something does not hold. Leaves to `shell.prove_page` and `shell.bundle_page` when which of them is
called. Bodies in round brackets run in a shell of their own, so that they can be pasted into a terminal.
"""

from __future__ import annotations

from typing import Final

BASICS: Final = r"""
export LC_ALL=C
fail() { echo "NOT VERIFIED: $*" >&2; return 1; }
number() { case $1 in '' | *[!0-9]* | 0?*) return 1 ;; esac; }

# RFC 6962, section 2.1: the hash of a file as a leaf, and of two nodes; hashes are in base64
digest() { openssl dgst -sha256 -binary | base64; }
bytes() { printf %s "$1" | base64 -d; }
leaf() { { printf '\000'; cat "$1"; } | digest; }
node() { { printf '\001'; bytes "$1"; bytes "$2"; } | digest; }

# pem VKEY: the public key as openssl reads it
pem() {
  echo '-----BEGIN PUBLIC KEY-----'
  { printf '\060\052\060\005\006\003\053\145\160\003\041\000'; bytes "${1#*+*+}" | tail -c 32; } | base64
  echo '-----END PUBLIC KEY-----'
}

# verified PEM FILE SIGNATURE: the key made this Ed25519 signature of the file
verified() { openssl pkeyutl -verify -pubin -inkey "$1" -rawin -in "$2" -sigfile "$3"; }

# signed NOTE VKEY: the key signed the checkpoint in the file NOTE (C2SP signed-note; cosignatures of witnesses as well)
signed() (
  work=$(mktemp -d) && trap 'rm -r "$work"' EXIT || exit 1
  rest=${2#*+}
  kind=$(bytes "${rest#*+}" | head -c 1 | od -An -tu1)
  while IFS= read -r line && [ -n "$line" ]; do printf '%s\n' "$line"; done <"$1" >"$work/text"
  pem "$2" >"$work/pem"
  while IFS= read -r line; do
    case $line in "— ${2%%+*} "*) ;; *) continue ;; esac
    bytes "${line##* }" >"$work/blob"
    id=$(head -c 4 "$work/blob" | od -An -v -tx1 | tr -d ' \n')
    [ "$id" = "${rest%%+*}" ] || continue
    : >"$work/head"
    if [ "$kind" -eq 4 ]; then
      time=0
      for byte in $(tail -c +5 "$work/blob" | head -c 8 | od -An -v -tu1); do time=$((time * 256 + byte)); done
      printf 'cosignature/v1\ntime %s\n' "$time" >"$work/head"
    fi
    cat "$work/head" "$work/text" >"$work/message"
    tail -c 64 "$work/blob" >"$work/signature"
    verified "$work/pem" "$work/message" "$work/signature" && exit 0
  done <"$1"
  fail "$1 is not signed by $2"
)
"""
"""`fail`, `number`, `bytes`, `leaf`, `node`, `pem`, `verified` and `signed`."""

LISTED: Final = r"""
# sealed FILE VKEY: FILE.sig is the key's signature of the file
sealed() (
  work=$(mktemp -d) && trap 'rm -r "$work"' EXIT || exit 1
  pem "$2" >"$work/pem" && verified "$work/pem" "$1" "$1.sig" || { fail "$1.sig was not made by $2"; exit 1; }
)

# listed: the files are as SHA256SUMS says, and there is no other file but the list and its signature
listed() (
  sha256sum --check --strict --quiet SHA256SUMS || exit 1
  { cut -c 67- SHA256SUMS; cut -c 67- SHA256SUMS; find . ! -type d | cut -c 3-; } | sort | uniq -u |
    while IFS= read -r name; do
      case $name in SHA256SUMS | SHA256SUMS.sig) ;; *) fail "SHA256SUMS does not list $name"; exit 1 ;; esac
    done
)
"""
"""`sealed` and `listed`; need BASICS."""

INCLUDED: Final = r"""
# included ENTRY PROOF [VKEY]: the entry is in the tree of the checkpoint in PROOF, and the key signed that
included() (
  work=$(mktemp -d) && trap 'rm -r "$work"' EXIT || exit 1
  {
    IFS= read -r title && IFS= read -r index && index=${index#index }
    while IFS= read -r line && [ -n "$line" ]; do printf '%s\n' "$line"; done >"$work/path"
    cat >"$work/checkpoint"
  } <"$2"
  { IFS= read -r origin && IFS= read -r size && IFS= read -r root; } <"$work/checkpoint"
  [ "$title" = c2sp.org/tlog-proof@v1 ] && number "$index" && number "$size" && [ "$index" -lt "$size" ] ||
    { fail "$2 is no proof"; exit 1; }
  at=$index last=$((size - 1)) found=$(leaf "$1")
  while IFS= read -r hash; do
    [ "$last" -gt 0 ] || { fail "$2 is too long"; exit 1; }
    if [ $((at & 1)) -eq 1 ] || [ "$at" -eq "$last" ]; then
      found=$(node "$hash" "$found")
      while [ $((at & 1)) -eq 0 ] && [ "$at" -gt 0 ]; do at=$((at >> 1)) last=$((last >> 1)); done
    else
      found=$(node "$found" "$hash")
    fi
    at=$((at >> 1)) last=$((last >> 1))
  done <"$work/path"
  [ "$last" -eq 0 ] && [ "$found" = "$root" ] || { fail "$1 is not entry $index of the log $origin"; exit 1; }
  echo "$1 is entry $index of the $size that the checkpoint of $origin covers, with the root $root"
  [ -z "${3-}" ] || signed "$work/checkpoint" "$3" || { fail "the checkpoint in $2 is not signed by $3"; exit 1; }
)
"""
"""`included`; needs BASICS."""

SUCCEEDED: Final = r"""
# newest_key VKEY: goes from the key $vkey on to VKEY: each entry in keys/ says which key takes over, and a checkpoint
# that the key before it signed covers that entry
newest_key() {
  for entry in keys/*.jsonl; do
    [ "$vkey" != "$1" ] && [ -e "$entry" ] || break
    line=$(cat "$entry")
    case $line in
      *'"action":"key.recorded","decision":"rotated","vkey":"'*"\"replaces\":\"$vkey\","*) ;;
      *) continue ;;
    esac
    included "$entry" "${entry%.jsonl}.tlog-proof" "$vkey" || return 1
    line=${line#*'"decision":"rotated","vkey":"'} && vkey=${line%%\"*} && echo "it was followed by $vkey"
  done
  [ "$vkey" = "$1" ] || fail "nothing here leads from the key $vkey to $1"
}
"""
"""`newest_key`; needs BASICS and INCLUDED."""

NAMED: Final = r"""
# holds ENTRY TEXT: the entry says this; names ENTRY TEXT FILE: the entry gives the file's SHA-256 right behind the text
holds() { case $(cat "$1") in *"$2"*) ;; *) fail "$1 does not say $2" ;; esac; }
names() { sum=$(sha256sum <"$3") && holds "$1" "$2\"${sum%% *}\"" && echo "$3 is the file that $1 names"; }
"""
"""`holds` and `names`; need `fail`."""

ENTRIES: Final = r"""
# of ACTION: the entries of this action (a regular expression), the oldest first
of() {
  text='"([^"\\]|\\.)*"'
  grep -aEh "^\{\"prev\":$text,\"index\":[0-9]+,\"timestamp\":$text,\"level\":$text,\"run_id\":$text,\"actor\":$text,\
\"action\":\"($1)\"[,}]" audit/*.jsonl || [ $? -eq 1 ]
}

# governing: the SHA-256 of all that the entries which come in put or found in force
governing() {
  sum='"[0-9a-f]{64}"' text='"([^"\\]|\\.)*"'
  grep -aoE "\"decisions\":\{($text:$sum,)+\"lists\":\{($text:$sum,?)*\}\}" | grep -aoE ":$sum" | cut -c 3-66 | sort -u
}

# in_force FILE: rules/ has what has the SHA-256 that stand in FILE, and nothing else
in_force() (
  for rule in rules/*; do
    [ -e "$rule" ] || continue
    sum=$(sha256sum <"$rule") && [ "$rule" = "rules/${sum%% *}" ] && echo "${sum%% *}" || echo "$rule"
  done | sort | comm -3 --output-delimiter=+ "$1" - | {
    odd=
    while IFS= read -r name; do
      case $name in
        +*) fail "rules/ has what was not in force: ${name#+}" ;;
        *) fail "rules/$name was in force and is not here" ;;
      esac
      odd=$name
    done
    [ -z "$odd" ]
  }
)

# reported FILE REPORTS: runs/ and reports/ have what the entries of run.started and run.ended in FILE name. What they
# do not name is said; a run log that they name otherwise, and one of REPORTS that they do not name, is refused
reported() (
  for file in runs/* reports/*; do
    [ -e "$file" ] || continue
    sum=$(sha256sum <"$file")
    case $(tr '{' '\n' <"$1" | grep -aF "\"file\":\"$file\"," | tail -n 1) in
      *"\"sha256\":\"${sum%% *}\""*) continue ;;
      '"file":"runs/'*) fail "$file is not the one that the log names"; exit 1 ;;
    esac
    case " $2 " in *" $file "*) fail "$file is not the one that the log names"; exit 1 ;; esac
    echo "no entry here names $file as it is: only the list of files vouches for it, where that is signed"
  done
)
"""
"""`of`, `governing`, `in_force` and `reported`; need `fail`."""

CONSISTENT: Final = r"""
# consistent OLD NEW PROOF: the tree of the checkpoint OLD is the beginning of the tree of NEW (RFC 9162, 2.1.4.2)
consistent() (
  { IFS= read -r origin && IFS= read -r old && IFS= read -r oldroot; } <"$1"
  { IFS= read -r neworigin && IFS= read -r new && IFS= read -r newroot; } <"$2"
  number "$old" && number "$new" && [ "$origin" = "$neworigin" ] && [ "$old" -gt 0 ] && [ "$old" -le "$new" ] ||
    { fail "$1 and $2 are not of one log"; exit 1; }
  {
    IFS= read -r title && IFS= read -r said
    [ "$title $said" = "consistency $old $new" ] || { fail "$3 is not the proof from $old to $new"; exit 1; }
    if [ "$old" -eq "$new" ]; then
      [ "$oldroot" = "$newroot" ] || { fail "$1 and $2 are two trees of one size"; exit 1; }
      exit 0
    fi
    at=$((old - 1)) last=$((new - 1))
    while [ $((at & 1)) -eq 1 ]; do at=$((at >> 1)) last=$((last >> 1)); done
    if [ "$at" -eq 0 ]; then first=$oldroot; else IFS= read -r first; fi
    one=$first two=$first
    while IFS= read -r hash; do
      [ "$last" -gt 0 ] || { fail "$3 is too long"; exit 1; }
      if [ $((at & 1)) -eq 1 ] || [ "$at" -eq "$last" ]; then
        one=$(node "$hash" "$one") two=$(node "$hash" "$two")
        while [ $((at & 1)) -eq 0 ] && [ "$at" -gt 0 ]; do at=$((at >> 1)) last=$((last >> 1)); done
      else
        two=$(node "$two" "$hash")
      fi
      at=$((at >> 1)) last=$((last >> 1))
    done
    [ "$last" -eq 0 ] && [ "$one" = "$oldroot" ] && [ "$two" = "$newroot" ] ||
      { fail "$1 is not the beginning of $2: the log was written anew"; exit 1; }
  } <"$3"
)
"""
"""`consistent`; needs BASICS."""

ROOT: Final = r"""
# root FIRST END SIZE: the root of the tree of SIZE entries, where those from FIRST up to END come in, one a line;
# range/left and range/right have the hashes of what is left and right of them
fast=${TMPDIR:-/tmp} && { [ ! -w /dev/shm ] || fast=/dev/shm; }
root() (
  work=$(mktemp -d -p "$fast") && trap 'rm -r "$work"' EXIT && here=$PWD && cd "$work" || exit 1
  at=$1 end=$2 size=$3 SHELL=/bin/sh
  export one="$(printf '\001')" SHELL
  split -l 4096 --filter='
    paste -d "$one" /dev/null - | tr "$one" "\000" | split -a 4 -l 1 - leaf. &&
    openssl dgst -sha256 -binary leaf.* && rm leaf.*' - >row || exit 1
  [ "$(wc -c <row)" -eq $(((end - at) * 32)) ] || { fail "there are $(($(wc -c <row) / 32)) entries"; exit 1; }
  exec 3<"$here/range/left" 4<"$here/range/right"
  while [ "$size" -gt 1 ]; do
    if [ $((at & 1)) -eq 1 ]; then
      IFS= read -r hash <&3 && bytes "$hash" | cat - row >next && mv next row && at=$((at - 1)) || exit 1
    fi
    if [ $((end & 1)) -eq 1 ] && [ "$end" -lt "$size" ]; then
      IFS= read -r hash <&4 && bytes "$hash" >>row && end=$((end + 1)) || exit 1
    fi
    head -c $(((end - at) / 2 * 64)) row | od -An -v -to1 -w64 | tr ' ' '\\' | split -l 4096 --filter='
      n=10000
      while IFS= read -r pair; do printf "\001$pair" >node.$n; n=$((n + 1)); done
      openssl dgst -sha256 -binary node.* && rm node.*' - >next || exit 1
    if [ $((end & 1)) -eq 1 ]; then tail -c 32 row >>next; fi
    mv next row
    at=$((at / 2)) end=$(((end + 1) / 2)) size=$(((size + 1) / 2))
  done
  base64 <row
)
"""
"""`root`; needs BASICS."""
