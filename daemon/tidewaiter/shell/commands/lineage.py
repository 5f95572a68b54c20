"""``tidewaiter lineage``: what was made from what, for a person, a script, or a program that draws.

Owns: the options of its commands and what a terminal shows. Leaves to `core.lineage` the answers, to
`edges.lineage_file` the file, which it only reads.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from tidewaiter.shell.commands.options import plain, show
from tidewaiter.shell.commands.output import output

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from tidewaiter.core.lineage.finding import Found
    from tidewaiter.core.lineage.graph import LineageGraph, Reached
    from tidewaiter.core.lineage.impact import Impact, Summary
    from tidewaiter.core.lineage.pictures import PictureFormat
    from tidewaiter.core.lineage.records import EdgeKind, LineageRecord

ANCESTORS_EXAMPLE: Final = (
    "Examples: [bold]tidewaiter lineage ancestors out/claims.csv[/bold]\n\n"
    "[bold]tidewaiter lineage ancestors out/claims.csv@3f2a91 --edges data --json[/bold]"
)
DESCENDANTS_EXAMPLE: Final = "Example: [bold]tidewaiter lineage descendants data/claims.csv --depth 3[/bold]"
IMPACT_EXAMPLE: Final = "Example: [bold]tidewaiter lineage impact config/contracts/claim.toml[/bold]"
PATH_EXAMPLE: Final = "Example: [bold]tidewaiter lineage path data/claims.csv reports/total.csv[/bold]"
SUMMARY_EXAMPLE: Final = "Example: [bold]tidewaiter lineage summary --file lineage_graph.jsonl[/bold]"
EXPORT_EXAMPLE: Final = (
    "Examples: [bold]tidewaiter lineage export --format dot --of out/claims.csv | dot -Tsvg > claims.svg[/bold]\n\n"
    "[bold]tidewaiter lineage export --format csv --out lineage.csv[/bold]"
)

_LISTED: Final = 20
"""How many of a list a person is shown."""

lineage = typer.Typer(no_args_is_help=True)

NodeArgument = Annotated[
    str,
    typer.Argument(
        metavar="NODE",
        help="A location, location@HASH with the beginning of a hash for one version of it, a run's id or its "
        "beginning (6 characters or more), or a record's id.",
        show_default=False,
    ),
]
FileOption = Annotated[
    Path | None,
    typer.Option(
        "--file", "-f", metavar="FILE", show_default=False,
        help="The lineage file; default lineage_graph.jsonl under the current directory.",
    ),
]  # fmt: skip
StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state-dir", metavar="DIR", help="Read the lineage of the daemon that keeps its state there.",
        show_default=False,
    ),
]  # fmt: skip
EdgesOption = Annotated[
    str, typer.Option("--edges", metavar="KIND,KIND", help="Which edges to follow: data, config, state.")
]
DepthOption = Annotated[
    int, typer.Option("--depth", metavar="N", min=0, help="How many edges deep the tree is shown; --json gives all.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the records as JSON lines, nearest first.")]


@lineage.command("ancestors", epilog=ANCESTORS_EXAMPLE)
def ancestors(
    node: NodeArgument,
    *,
    file: FileOption = None,
    state_dir: StateOption = None,
    edges: EdgesOption = "data,config",
    depth: DepthOption = 12,
    as_json: JsonOption = False,
) -> None:
    """Show what something was made from, and under what, back to the beginning.

    The tree reads downwards into the past; in brackets is what was done on the way.
    """
    graph = _graph(file, state_dir)
    found = _find(graph, node)
    _print(graph, graph.upstream(found.up, _edges(edges)), found, depth, as_json)


@lineage.command("descendants", epilog=DESCENDANTS_EXAMPLE)
def descendants(
    node: NodeArgument,
    *,
    file: FileOption = None,
    state_dir: StateOption = None,
    edges: EdgesOption = "data,config",
    depth: DepthOption = 12,
    as_json: JsonOption = False,
) -> None:
    """Show what was made from something, or under it, up to now."""
    graph = _graph(file, state_dir)
    found = _find(graph, node)
    _print(graph, graph.downstream(found.down, _edges(edges)), found, depth, as_json)


@lineage.command("impact", epilog=IMPACT_EXAMPLE)
def impact(
    node: NodeArgument,
    *,
    file: FileOption = None,
    state_dir: StateOption = None,
    edges: EdgesOption = "data,config",
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Show what would have to be made again if something changed."""
    from tidewaiter.core.lineage.impact import impact_of

    graph = _graph(file, state_dir)
    answer = impact_of(graph, _find(graph, node).down, _edges(edges))
    if as_json:
        _json(answer)
        return
    rows = [
        ("changed", _listed(answer.start)),
        ("affected", f"{len(answer.affected):,}: {_counted(answer.by_kind)}" if answer.affected else "nothing"),
        ("make again", _listed(answer.destinations)),
        ("runs", _listed(answer.runs)),
        ("through", _counted(answer.transformations)),
        ("farthest", f"{answer.depth:,} edges away" if answer.depth else ""),
    ]
    _table(rows)


@lineage.command("path", epilog=PATH_EXAMPLE)
def path(
    begin: Annotated[str, typer.Argument(metavar="FROM", help="Where the way begins.", show_default=False)],
    end: Annotated[str, typer.Argument(metavar="TO", help="Where it ends.", show_default=False)],
    *,
    file: FileOption = None,
    state_dir: StateOption = None,
    edges: EdgesOption = "data,config",
    as_json: JsonOption = False,
) -> None:
    """Show a shortest way by which something came from something else. Exit code 1 where there is none."""
    graph = _graph(file, state_dir)
    start, goal = _find(graph, begin).down, _find(graph, end).up
    way = graph.path(start, goal, _edges(edges))
    if not way and not set(start) & set(goal):
        typer.echo(f"tidewaiter: no way leads from {begin} to {end} by {edges.replace(',', ' and ')} edges", err=True)
        raise typer.Exit(1)
    records = [graph.records[number] for number in way]
    if as_json:
        _json_lines(records)
        return
    from tidewaiter.core.lineage.trees import by, name_of

    rows = [name_of(records[0].source)] if records else [f"{begin} and {end} are the same"]
    rows += [f"  → {name_of(record.destination)}{by(record)}" for record in records]
    _lines(rows)


@lineage.command("summary", epilog=SUMMARY_EXAMPLE)
def summary(
    *,
    file: FileOption = None,
    state_dir: StateOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Show how much lineage there is, and of what."""
    from tidewaiter.core.lineage.impact import summary_of

    answer = summary_of(_graph(file, state_dir))
    if as_json:
        _json(answer)
        return
    rows = [
        ("records", f"{answer.records:,}" + (f": {_counted(answer.by_edge)}" if answer.records else "")),
        (
            "nodes",
            f"{answer.nodes:,} at {answer.locations:,} locations"
            + f": {_counted(answer.by_kind)}" * bool(answer.nodes),
        ),
        ("data", f"from {answer.sources:,} sources to {answer.results:,} results" if answer.sources else ""),
        ("runs", f"{answer.runs:,}"),
        ("through", _counted(answer.transformations)),
        ("counts", f"{answer.balanced:,} records add up, {answer.unbalanced:,} do not (joins and aggregates need not)"),
        (
            "recorded",
            f"from {answer.first:%Y-%m-%d %H:%M:%SZ} to {answer.last:%Y-%m-%d %H:%M:%SZ}" if answer.first else "",
        ),
    ]
    _table(rows)


@lineage.command("export", epilog=EXPORT_EXAMPLE)
def export(
    *,
    form: Annotated[
        Literal["jsonl", "json", "csv", "dot", "mermaid", "graphml", "graph"],
        typer.Option(
            "--format",
            help="The records: jsonl, json (one array) or csv. The graph: dot, mermaid, graphml, or graph (JSON).",
        ),
    ] = "jsonl",
    of: Annotated[
        str | None,
        typer.Option("--of", metavar="NODE", help="Only what it came from and what came of it.", show_default=False),
    ] = None,
    edges: EdgesOption = "data,config",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="A new file, instead of standard output.", show_default=False),
    ] = None,
    file: FileOption = None,
    state_dir: StateOption = None,
) -> None:
    """Write the lineage, all or that of one node (for which --edges says what is followed).

    In a table, cells that a spreadsheet would take for formulas begin with an apostrophe.
    """
    from tidewaiter.core.lineage.pictures import picture_of
    from tidewaiter.shell.lineage_export import exported

    graph = _graph(file, state_dir)
    numbers: list[int] | None = None
    if of is not None:
        found = _find(graph, of)
        up, down = graph.upstream(found.up, _edges(edges)), graph.downstream(found.down, _edges(edges))
        numbers = sorted({*up.records(), *down.records(), *graph.numbers([found.record])})
    records = graph.records if numbers is None else [graph.records[number] for number in numbers]
    with output(out) as write:
        if form == "jsonl" or form == "json" or form == "csv":  # noqa: PLR1714 - narrows the type
            for part in exported(records, form):
                write(part)
        else:
            picture: PictureFormat = "json" if form == "graph" else form
            write(picture_of(graph, picture, records).encode())


# -- what the commands have in common ------------------------------------------------------------------------------


def _graph(file: Path | None, state_dir: Path | None) -> LineageGraph:
    """Read the file that the options name. Raises ConfigError and IntegrityRefusal."""
    from tidewaiter.core.errors import ConfigError
    from tidewaiter.core.invisible import visible
    from tidewaiter.core.lineage.graph import LineageGraph
    from tidewaiter.edges.lineage_file import Reading
    from tidewaiter.shell.lineage import DEFAULT_NAME

    if file is not None and state_dir is not None:
        raise ConfigError("--file and --state-dir both name a lineage", hint="name one of them")
    place = file or (state_dir or Path()) / DEFAULT_NAME
    if file is None and not place.exists():
        what = "no lineage was recorded there" if state_dir else "there is none in the current directory"
        raise ConfigError(
            f"{place}: {what}", hint="name the file with --file, or a daemon's directory with --state-dir"
        )
    graph = LineageGraph()
    reading = Reading(place)
    for records in reading:
        graph.add_read(records)
    if reading.incomplete:
        typer.echo(
            f"tidewaiter: {visible(str(place))}: left out the last {reading.incomplete:,} bytes, which are no whole "
            "record: one is being written there, or its writer died",
            err=True,
        )
    return graph


def _find(graph: LineageGraph, name: str) -> Found:
    """Find what is named; a relative path means the same file as its absolute one."""
    from tidewaiter.core.lineage.finding import find

    return find(graph, [name] if "://" in name else [name, os.path.abspath(name)])  # noqa: PTH100 - keeps symbolic links


def _edges(kinds: str) -> Collection[EdgeKind]:
    from tidewaiter.core.errors import ConfigError
    from tidewaiter.core.lineage.records import EDGE_KINDS
    from tidewaiter.core.toml_source import nearest

    wanted = [kind.strip() for kind in kinds.split(",")]
    for kind in wanted:
        if kind not in EDGE_KINDS:
            raise ConfigError(f'--edges: "{kind}" is no kind of edge', hint=nearest(kind, EDGE_KINDS))
    return [kind for kind in EDGE_KINDS if kind in wanted]


def _print(graph: LineageGraph, reached: Reached, found: Found, depth: int, as_json: bool) -> None:
    from tidewaiter.core.lineage.trees import by, name_of, tree_lines

    numbers = reached.records()
    if found.record is not None:
        numbers = [number for number in numbers if graph.records[number] is not found.record]
    if as_json:
        _json_lines(graph.records[number] for number in numbers)
        return
    rows = tree_lines(graph, reached, depth)
    if found.record is not None:
        record = found.record
        head = f"{record.lineage_id}: {name_of(record.source)} → {name_of(record.destination)}{by(record)}"
        rows = itertools.chain([head, ""], rows)
    _lines(rows)
    if not numbers:
        typer.echo("tidewaiter: nothing is recorded beyond that", err=True)


def _lines(rows: Iterable[str]) -> None:
    """Print each row on a line of its own, on a terminal cut to its width."""
    from tidewaiter.core.invisible import visible

    width = shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else None
    with output(None) as write:
        for row in rows:
            text = visible(row)
            short = text if width is None or len(text) <= width else text[: width - 1] + "…"
            write(f"{short}\n".encode())


def _json_lines(records: Iterable[LineageRecord]) -> None:
    from tidewaiter.edges.lineage_file import lines_of

    with output(None) as write:
        write(lines_of(records))


def _json(answer: Impact | Summary) -> None:
    """Print the answer, each node with the names of its members."""
    import msgspec

    from tidewaiter.core.lineage.records import Node

    said = {
        name: [msgspec.structs.asdict(each) if isinstance(each, Node) else each for each in value]
        if isinstance(value, list)
        else value
        for name, value in msgspec.structs.asdict(answer).items()
    }
    with output(None) as write:
        write(msgspec.json.format(msgspec.json.encode(said), indent=2) + b"\n")


def _table(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and values; a value may have several lines, none leaves the row out."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value:
            table.add_row(name, "\n".join(map(plain, value.split("\n"))))
    show(table)


def _listed(things: Sequence[object]) -> str:
    """Return the first of them, one a line, and how many more there are."""
    rest = len(things) - _LISTED
    lines = [str(thing).replace("\n", "\\n") for thing in things[:_LISTED]]
    return "\n".join([*lines, f"… {rest:,} more; --json gives all"] if rest > 0 else lines)


def _counted(counts: Mapping[str, int]) -> str:
    """Return the commonest with their counts."""
    ordered = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    said = [f"{count:,} {name}" for name, count in ordered[:_LISTED]]
    rest = len(ordered) - _LISTED
    return ", ".join([*said, f"and {rest:,} others"] if rest > 0 else said)
