"""Tree heads as C2SP tlog-checkpoint v1.0.0 writes them: origin, size and root, one line each.

Owns: the text of a checkpoint. Leaves to `notes` the signatures behind it.
"""

from __future__ import annotations

from msgspec import Struct

from tidewaiter.core.tlog.texts import NoteError, decode_hash, decode_number, decoded, encode_base64


class TreeHead(Struct, frozen=True):
    """What a log says of itself: its name, how many leaves it has, and the root over them."""

    origin: str
    size: int
    root: bytes

    def text(self) -> bytes:
        """Return the note text: three lines."""
        return b"%b\n%d\n%b\n" % (self.origin.encode(), self.size, encode_base64(self.root))


def parse_tree_head(text: bytes) -> TreeHead:
    """Return the tree head in a note's text. Extension lines of other logs are allowed and left out.

    Raises NoteError.
    """
    if not decoded(text).endswith("\n"):
        raise NoteError("the checkpoint does not end with a newline")
    lines = text[:-1].split(b"\n")
    if len(lines) < 3:  # noqa: PLR2004 - origin, size, root
        raise NoteError(f"a checkpoint has at least three lines, found {len(lines)}")
    if not all(lines):
        raise NoteError(f"line {lines.index(b'') + 1} of the checkpoint is empty")
    return TreeHead(lines[0].decode(), decode_number(lines[1], "tree size"), decode_hash(lines[2], "root hash"))
