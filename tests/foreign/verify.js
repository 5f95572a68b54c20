// Checks checkpoints' signatures and inclusion proofs with @sigstore/verify, which is taken from the folder in the first
// argument. Questions are JSON objects on standard input, one a line. Answers each with a line, "accepted" or
// "refused: why"; another exit than 0 is a defect of the test.
'use strict';

const crypto = require('crypto');
const fs = require('fs');
const path = require('path');

const library = path.join(process.argv[2], 'node_modules', '@sigstore', 'verify');
const { VerificationError } = require(path.join(library, 'dist', 'error.js'));
const { verifyTLogInclusion } = require(path.join(library, 'dist', 'tlog', 'index.js'));

const bytes = (text) => Buffer.from(text, 'base64');

function answer(asked) {
  const log = {
    logID: bytes(asked.KeyId),
    baseURL: asked.Name,
    publicKey: crypto.createPublicKey(asked.Pem),
  };
  const entry = {
    canonicalizedBody: bytes(asked.Leaf),
    inclusionProof: {
      logIndex: String(asked.Index),
      hashes: asked.Hashes.map(bytes),
      checkpoint: { envelope: asked.Checkpoint },
    },
  };
  try {
    verifyTLogInclusion(entry, [log]);
    return 'accepted';
  } catch (error) {
    if (error instanceof VerificationError) return `refused: ${error.message}`;
    throw error;
  }
}

for (const line of fs.readFileSync(0, 'utf8').split('\n')) {
  if (line) console.log(answer(JSON.parse(line)));
}
