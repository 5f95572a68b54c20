#!/bin/sh
# Checks a checkpoint's signature with openssl, and with sha256sum that one entry is in its tree (RFC 6962).
# usage: verify.sh KEY_NAME KEY_ID KEY.pem PROOF.tlog-proof ENTRY WORK_FOLDER
# Says "accepted" (exit 0) or "refused: why" (exit 1).
set -eu
name=$1 key_id=$2 key=$3 proof=$4 entry=$5 work=$6

refuse() { echo "refused: $*"; exit 1; }
hex() { od -An -v -tx1 | tr -d ' \n'; }
# shellcheck disable=SC2046,SC2059 # printf repeats its format for each byte; the outer format is made of octal escapes
bytes() { printf "$(printf '\\%03o' $(printf %s "$1" | sed 's/../0x& /g'))"; }
sha256() { sha256sum | cut -d' ' -f1; }
node() { { printf '\001'; bytes "$1$2"; } | sha256; }

# the proof: head, empty line, checkpoint; the checkpoint: text, empty line, signatures
sed '/^$/,$d' "$proof" >"$work/head"
sed '1,/^$/d' "$proof" >"$work/checkpoint"
sed '/^$/,$d' "$work/checkpoint" >"$work/text"

# the signature of this key
: >"$work/signature"
sed '1,/^$/d' "$work/checkpoint" | while read -r dash signer signature; do
  if [ "$dash" != — ] || [ "$signer" != "$name" ]; then continue; fi
  printf %s "$signature" | base64 -d >"$work/signed"
  if [ "$(head -c4 "$work/signed" | hex)" = "$key_id" ]; then tail -c+5 "$work/signed" >"$work/signature"; fi
done
openssl pkeyutl -verify -rawin -pubin -inkey "$key" -in "$work/text" -sigfile "$work/signature" >/dev/null 2>&1 ||
  refuse "the signature does not hold"
{ read -r origin; read -r size; read -r root; } <"$work/text"
[ "$origin" = "$name" ] || refuse "a checkpoint of another log"

# the way from the entry's leaf to the root
index=$(sed -n 's/^index //p' "$work/head")
last=$((size - 1))
if [ "$index" -lt 0 ] || [ "$index" -gt "$last" ]; then refuse "the tree has no such entry"; fi
hash=$({ printf '\000'; cat "$entry"; } | sha256)
# shellcheck disable=SC2013 # one hash a line, and none has blanks
for sibling in $(sed '1,/^index /d' "$work/head"); do
  [ "$last" -gt 0 ] || refuse "too many hashes"
  sibling=$(printf %s "$sibling" | base64 -d | hex)
  if [ $((index % 2)) -eq 1 ] || [ "$index" -eq "$last" ]; then
    hash=$(node "$sibling" "$hash")
    while [ $((index % 2)) -eq 0 ] && [ "$index" -gt 0 ]; do index=$((index / 2)) last=$((last / 2)); done
  else
    hash=$(node "$hash" "$sibling")
  fi
  index=$((index / 2)) last=$((last / 2))
done
[ "$last" -eq 0 ] || refuse "too few hashes"
[ "$hash" = "$(printf %s "$root" | base64 -d | hex)" ] || refuse "the proof does not lead to the root"
echo accepted
