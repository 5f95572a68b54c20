"""The transparency log: a Merkle tree over the audit log's lines, and the notes that sign its head.

RFC 6962 section 2.1 and the C2SP specifications, written down once each. From the ground up: `merkle` (hashes and
proofs), `tiles` (the growing tree), `texts` (strict spelling), `checkpoints` (tree heads), `cosignatures` (what they
sign), `notes` (text, signatures, keys), `policies` (whom to trust), `proofs` (one entry, offline), `witnessing` (what a
witness is asked and answers). Nothing here reads a clock, a file or random numbers.
"""
