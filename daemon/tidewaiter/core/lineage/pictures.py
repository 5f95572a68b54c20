"""The graph as a text for programs that draw or compute: dot, Mermaid, GraphML and JSON.

Owns: the four formats and their quoting. Leaves to `core.lineage.trees` the picture for a terminal. Nodes are named
``n0``, ``n1`` … by their numbers in the graph, so the same graph is always the same text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, get_args
from xml.sax.saxutils import escape

import msgspec

from tidewaiter.core.invisible import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tidewaiter.core.lineage.graph import LineageGraph
    from tidewaiter.core.lineage.records import LineageRecord, Node

PictureFormat = Literal["dot", "mermaid", "json", "graphml"]
PICTURE_FORMATS: Final[tuple[PictureFormat, ...]] = get_args(PictureFormat)
_SHAPES: Final = {
    "file": "note", "table": "cylinder", "slice": "folder", "flags": "note", "run": "ellipse", "transform": "box",
    "contract": "component", "pipeline": "component", "ruleset": "component", "audit": "tab",
}  # fmt: skip
_STYLES: Final = {"data": "solid", "config": "dashed", "state": "dotted"}
_ARROWS: Final = {"data": "-->", "config": "-.->", "state": "==>"}
_HASH_SHOWN: Final = 12
_COUNTS: Final = (("input_records", "in"), ("output_records", "out"), ("records_filtered", "filtered"))
# What XML 1.0 cannot hold at all, escaped or not.
_NO_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NO_MERMAID: Final = re.compile("[^A-Za-z0-9 ./:_,;=@+-]")
_NODE_KEYS: Final = ("kind", "location", "hash")
_EDGE_KEYS: Final = ("lineage_id", "edge", "transformation", "run_id")


def counts_of(record: LineageRecord) -> str:
    """Return the counts of a record in words; nothing where none is known."""
    said = ((getattr(record, name), word) for name, word in _COUNTS)
    return ", ".join(f"{value:,} {word}" for value, word in said if value is not None)


def picture_of(graph: LineageGraph, form: PictureFormat, records: Sequence[LineageRecord] | None = None) -> str:
    """Return the graph, or these records of it with their nodes, in a format. Raises ValueError for an unknown one."""
    writers = {"dot": _dot, "mermaid": _mermaid, "graphml": _graphml, "json": _json}
    if form not in writers:
        raise ValueError(f"format: {form!r} is unknown: allowed are {', '.join(PICTURE_FORMATS)}")
    wanted = graph.records if records is None else records
    edges = [(*graph.ends(record), record) for record in wanted]
    numbers = sorted({number for source, destination, _ in edges for number in (source, destination)})
    return "".join(writers[form](_Part([(number, graph.nodes[number]) for number in numbers], edges)))


class _Part(NamedTuple):
    """The nodes to be drawn, with their numbers, and the edges: source, destination, and the record."""

    nodes: list[tuple[int, Node]]
    edges: list[tuple[int, int, LineageRecord]]


def _lines(node: Node) -> tuple[str, str]:
    return visible(node.location), f"{node.kind} {visible(node.hash[:_HASH_SHOWN])}".strip()


def _words(record: LineageRecord) -> str:
    return visible("; ".join(filter(None, (record.transformation, counts_of(record)))))


def _dot(part: _Part) -> Iterator[str]:
    yield "digraph lineage {\n  rankdir=LR;\n"
    for number, node in part.nodes:
        label = "\\n".join(map(_dot_text, _lines(node)))
        yield f'  n{number} [label="{label}", shape={_SHAPES[node.kind]}];\n'
    for source, destination, record in part.edges:
        yield f'  n{source} -> n{destination} [label="{_dot_text(_words(record))}", style={_STYLES[record.edge]}];\n'
    yield "}\n"


def _dot_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _mermaid(part: _Part) -> Iterator[str]:
    yield "flowchart LR\n"
    for number, node in part.nodes:
        yield f'  n{number}["{"<br/>".join(map(_mermaid_text, _lines(node)))}"]\n'
    for source, destination, record in part.edges:
        words = _mermaid_text(_words(record))
        label = f'|"{words}"|' if words else ""
        yield f"  n{source} {_ARROWS[record.edge]}{label} n{destination}\n"


def _mermaid_text(text: str) -> str:
    """Write out, by its number, every character that Mermaid or Markdown gives a meaning."""
    return _NO_MERMAID.sub(lambda found: f"#{ord(found[0])};", text)


def _graphml(part: _Part) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="UTF-8"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n'
    for name in _NODE_KEYS:
        yield f'  <key id="{name}" for="node" attr.name="{name}" attr.type="string"/>\n'
    for name in _EDGE_KEYS:
        yield f'  <key id="{name}" for="edge" attr.name="{name}" attr.type="string"/>\n'
    for name, _ in _COUNTS:
        yield f'  <key id="{name}" for="edge" attr.name="{name}" attr.type="long"/>\n'
    yield '  <graph id="lineage" edgedefault="directed">\n'
    for number, node in part.nodes:
        yield f'    <node id="n{number}">{_data(node, _NODE_KEYS)}</node>\n'
    names = (*_EDGE_KEYS, *(name for name, _ in _COUNTS))
    for source, destination, record in part.edges:
        yield f'    <edge source="n{source}" target="n{destination}">{_data(record, names)}</edge>\n'
    yield "  </graph>\n</graphml>\n"


def _data(of: Node | LineageRecord, names: tuple[str, ...]) -> str:
    said = ((name, getattr(of, name)) for name in names)
    return "".join(f'<data key="{name}">{_xml_text(value)}</data>' for name, value in said if value not in (None, ""))


def _xml_text(value: str | int) -> str:
    return escape(_NO_XML.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), str(value)))


def _json(part: _Part) -> Iterator[str]:
    nodes = [
        {"id": number, "kind": node.kind, "location": node.location, "hash": node.hash} for number, node in part.nodes
    ]
    edges = []
    for source, destination, record in part.edges:
        said: dict[str, Any] = {"source": source, "destination": destination}
        for name in (*_EDGE_KEYS, *(name for name, _ in _COUNTS)):
            if (value := getattr(record, name)) not in (None, ""):
                said[name] = value
        edges.append(said)
    yield msgspec.json.encode({"nodes": nodes, "edges": edges}).decode() + "\n"
