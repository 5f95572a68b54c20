"""The graph of lineage: what is reached, in which order, and that no circle, depth or order of recording matters."""

from __future__ import annotations

import datetime as dt
import gc
import itertools
import random
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewaiter.core.errors import ConfigError
from tidewaiter.core.lineage.finding import find
from tidewaiter.core.lineage.graph import LineageGraph
from tidewaiter.core.lineage.impact import impact_of, summary_of
from tidewaiter.core.lineage.ordering import circles
from tidewaiter.core.lineage.pictures import picture_of
from tidewaiter.core.lineage.records import (
    EDGE_KINDS,
    FOLLOWED,
    Derivation,
    EdgeKind,
    LineageRecord,
    Node,
    entry_of,
    part_of,
    whole_of,
)
from tidewaiter.core.lineage.trees import tree_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WHEN: Final = dt.datetime(2026, 1, 31, 10, 0, tzinfo=dt.UTC)
Edge = tuple[int, int, EdgeKind]


def file(number: int) -> Node:
    """Return a node."""
    return Node("file", f"f{number}", "x")


def record(number: int, edge: Edge) -> LineageRecord:
    """Return the record of one edge."""
    source, destination, kind = edge
    return LineageRecord(
        lineage_id=f"r{number}", timestamp=WHEN, source=file(source), destination=file(destination), edge=kind
    )


def graph_of(edges: Iterable[Edge]) -> LineageGraph:
    """Return a graph with the records r0, r1 … for the edges."""
    graph = LineageGraph()
    graph.add(record(number, edge) for number, edge in enumerate(edges))
    return graph


def data(*pairs: tuple[int, int]) -> list[Edge]:
    """Return data edges."""
    return [(source, destination, "data") for source, destination in pairs]


def names(graph: LineageGraph, nodes: Iterable[int]) -> list[str]:
    """Return where the nodes are."""
    return [graph.nodes[node].location for node in nodes]


def ids(graph: LineageGraph, numbers: Iterable[int]) -> list[str]:
    """Return the ids of records."""
    return [graph.records[number].lineage_id for number in numbers]


def number_of(graph: LineageGraph, node: int) -> int:
    """Return the number that the graph gave to file `node`."""
    return graph.at(f"f{node}")[0]


# -- against a reference that is too simple to be wrong ----------------------------------------------------------------


def naive_closure(edges: Sequence[Edge], start: int, kinds: Iterable[str], *, up: bool) -> tuple[set[int], set[int]]:
    """Return the files and records reached, by trying every edge until nothing is new."""
    nodes = {start}
    numbers: set[int] = set()
    while True:
        found = {
            number
            for number, (source, destination, kind) in enumerate(edges)
            if kind in kinds and (destination if up else source) in nodes
        }
        if found == numbers:
            return nodes, numbers
        numbers = found
        nodes |= {edges[number][0] if up else edges[number][1] for number in found}


def naive_distance(edges: Sequence[Edge], start: int, kinds: Iterable[str], *, up: bool) -> dict[int, int]:
    """Return the shortest distances, by relaxing every edge as often as there are edges."""
    distance = {start: 0}
    for _ in range(len(edges) + 1):
        for source, destination, kind in edges:
            near, far = (destination, source) if up else (source, destination)
            if kind in kinds and near in distance:
                distance[far] = min(distance.get(far, 1 << 30), distance[near] + 1)
    return distance


def leads_to(edges: Sequence[Edge], kinds: Iterable[str]) -> dict[int, set[int]]:
    """Return for each file the files that can be reached from it."""
    return {start: naive_closure(edges, start, kinds, up=False)[0] for edge in edges for start in edge[:2]}


EDGES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from(EDGE_KINDS)), min_size=1, max_size=30)


@settings(max_examples=150, deadline=None)
@given(edges=EDGES, kinds=st.sets(st.sampled_from(EDGE_KINDS), min_size=1), up=st.booleans(), cut=st.integers(0, 30))
def test_a_traversal_finds_what_a_naive_one_finds(edges: list[Edge], kinds: set[EdgeKind], up: bool, cut: int) -> None:
    """Nodes, records and distances are those of the reference, with circles and loops, recorded in one go or two."""
    graph = graph_of(edges[:cut])
    assert len(graph.nodes) <= 2 * cut
    graph.add(record(number, edge) for number, edge in enumerate(edges))
    start = edges[0][0]
    reached = (graph.upstream if up else graph.downstream)([number_of(graph, start)], kinds)
    nodes, numbers = naive_closure(edges, start, kinds, up=up)
    assert sorted(names(graph, reached.nodes)) == sorted(f"f{node}" for node in nodes)
    assert sorted(ids(graph, reached.records())) == sorted(f"r{number}" for number in numbers)
    distance = {graph.nodes[node].location: far for node, far in reached.distance.items()}
    assert distance == {f"f{node}": far for node, far in naive_distance(edges, start, kinds, up=up).items()}


@settings(max_examples=150, deadline=None)
@given(edges=EDGES, up=st.booleans())
def test_each_node_comes_behind_all_that_lead_to_it_except_within_a_circle(edges: list[Edge], up: bool) -> None:
    """The order is topological wherever one node leads to another and not back, and circles stand together."""
    graph = graph_of(edges)
    reached = (graph.upstream if up else graph.downstream)([number_of(graph, edges[0][0])], EDGE_KINDS)
    order = [int(name[1:]) for name in names(graph, reached.nodes)]
    turned = [(b, a, kind) if up else (a, b, kind) for a, b, kind in edges]
    beyond = leads_to(turned, EDGE_KINDS)
    for first, second in itertools.combinations(order, 2):
        assert first not in beyond[second] or second in beyond[first]
    circle_of = [min(other for other in beyond[node] if node in beyond[other]) for node in order]
    assert len(list(itertools.groupby(circle_of))) == len(set(circle_of))


@settings(max_examples=100, deadline=None)
@given(edges=EDGES)
def test_a_way_is_a_shortest_one(edges: list[Edge]) -> None:
    """Each record of a way goes on where the last one ended, and no way is shorter."""
    graph = graph_of(edges)
    begin = edges[0][0]
    distance = naive_distance(edges, begin, FOLLOWED, up=False)
    for goal in range(10):
        if not graph.at(f"f{goal}"):
            continue
        way = graph.path([number_of(graph, begin)], [number_of(graph, goal)])
        assert len(way) == (distance.get(goal, 0) if goal in distance else 0)
        places = [f"f{begin}"]
        for number in way:
            assert graph.records[number].source.location == places[-1]
            places.append(graph.records[number].destination.location)
        assert places[-1] == (f"f{goal}" if goal in distance else f"f{begin}")


# -- order -------------------------------------------------------------------------------------------------------------


def test_a_longer_way_puts_a_node_behind_all_that_lead_to_it() -> None:
    """What is reached by one edge and by three comes behind both, for it is further in the past."""
    graph = graph_of(data((1, 9), (3, 1), (4, 3), (4, 9)))
    reached = graph.upstream([number_of(graph, 9)])
    assert names(graph, reached.nodes) == ["f9", "f1", "f3", "f4"]
    assert ids(graph, reached.records()) == ["r0", "r3", "r1", "r2"]


def test_the_order_does_not_depend_on_how_the_records_were_handed_over() -> None:
    """One by one, all at once, with questions in between or repetitions: the answer is the same."""
    chance = random.Random(7)
    edges = data(*((chance.randrange(40), chance.randrange(40)) for _ in range(120)))
    whole, single, mixed = graph_of(edges), LineageGraph(), LineageGraph()
    for number, edge in enumerate(edges):
        single.add_one(record(number, edge))
        if number % 10 == 0:
            mixed.add(record(again, each) for again, each in enumerate(edges[: number + 1]))
            mixed.upstream([0])
    mixed.add(record(number, edge) for number, edge in enumerate(edges))
    answers = [ids(graph, graph.upstream([5]).records()) for graph in (whole, single, mixed)]
    assert answers[0] == answers[1] == answers[2] != []


def test_a_record_with_a_known_id_is_the_same_record() -> None:
    """The first of two records with one id counts, within one call and between calls."""
    graph = LineageGraph()
    assert graph.add([record(0, (1, 2, "data")), record(0, (3, 4, "data")), record(1, (5, 6, "data"))]) == 2
    assert graph.add([record(1, (7, 8, "data")), record(2, (9, 9, "data"))]) == 1
    assert [each.source.location for each in graph.records] == ["f1", "f5", "f9"]
    same = record(3, (1, 2, "data"))
    assert graph.add([same, same, record(4, (2, 3, "data"))]) == 2
    assert [graph.record(f"r{number}") for number in range(5)] == graph.records
    assert list(graph.numbers(graph.records)) == [0, 1, 2, 3, 4]


# -- circles and depth -------------------------------------------------------------------------------------------------


def test_a_file_updated_in_place_traps_no_question() -> None:
    """With the same hash, with other hashes, and by way of other files: each record is found once."""
    same = graph_of(data((1, 1), (1, 2)))
    assert ids(same, same.downstream([number_of(same, 1)]).records()) == ["r0", "r1"]
    there_and_back = graph_of(data((1, 2), (2, 3), (3, 1), (3, 4)))
    for node in (1, 2, 3):
        assert len(there_and_back.downstream([number_of(there_and_back, node)]).records()) == 4
        assert len(there_and_back.upstream([number_of(there_and_back, node)]).records()) == 3


def test_no_depth_is_too_great() -> None:
    """A history of 20,000 versions, and one that ends where it began, are followed to their ends."""
    size = 20_000
    chain = graph_of(data(*((number, number + 1) for number in range(size))))
    assert ids(chain, chain.upstream([number_of(chain, size)]).records()) == [f"r{n}" for n in reversed(range(size))]
    ring = graph_of(data(*((number, (number + 1) % size) for number in range(size))))
    assert len(ring.downstream([0]).records()) == size
    assert len(circles(range(size + 1), [(node + 1) % size for node in range(size)], range(size))) == 1
    assert sum(1 for _ in tree_lines(chain, chain.upstream([number_of(chain, size)]), 30)) == 32


@pytest.mark.parametrize(
    ("size", "edges"),
    [
        (20_001, data(*((number, number + 1) for number in range(20_000)))),
        (20_001, data(*((number, 20_000) for number in range(20_000)))),
        (20_000, data(*((number, (number + 1) % 20_000) for number in range(20_000)))),
    ],
    ids=["chain", "star", "circle"],
)
def test_a_large_answer_is_nothing_for_the_garbage_collector(size: int, edges: list[Edge]) -> None:
    """What it holds does not grow by objects that the collector goes through: it would in the midst of a question."""
    graph = graph_of(edges)
    graph.at("f1")
    start = [number_of(graph, 20_000 % size)]
    before = len(gc.get_objects())
    reached = graph.upstream(start)
    records = reached.records()
    assert len(gc.get_objects()) - before < 200
    assert (len(reached.nodes), len(records)) == (size, 20_000)


def test_what_is_known_of_locations_is_nothing_for_the_garbage_collector() -> None:
    """A graph of many locations, asked for one of them, holds no more objects that the collector goes through."""
    graph = graph_of(data(*((number, number + 1) for number in range(20_000))))
    before = len(gc.get_objects())
    assert graph.at("f7") == [7]
    assert len(graph.locations()) == 20_001
    assert len(gc.get_objects()) - before < 200


def test_state_edges_are_followed_only_when_asked_for() -> None:
    """A run that goes on from another one's state was not made from it."""
    graph = graph_of([(1, 2, "data"), (2, 3, "config"), (3, 4, "state")])
    assert ids(graph, graph.downstream([number_of(graph, 1)]).records()) == ["r0", "r1"]
    assert ids(graph, graph.downstream([number_of(graph, 1)], EDGE_KINDS).records()) == ["r0", "r1", "r2"]


# -- what is told ------------------------------------------------------------------------------------------------------


def test_the_impact_names_what_has_to_be_made_again_and_by_which_runs() -> None:
    """Of a contract: the transform and the file that came of it, the run, and how far it reaches."""
    contract, step, out = Node("contract", "c.toml", "1"), Node("transform", "run1/0_validate"), Node("file", "out.csv")
    graph = LineageGraph()
    for number, (source, destination, edge) in enumerate([(contract, step, "config"), (step, out, "data")]):
        graph.add_one(
            LineageRecord(
                lineage_id=str(number), timestamp=WHEN, source=source, destination=destination, run_id="run1",
                edge="config" if edge == "config" else "data", transformation="validate",
            )
        )  # fmt: skip
    impact = impact_of(graph, graph.at("c.toml"), FOLLOWED)
    assert impact.affected == [step, out]
    assert impact.destinations == [out]
    assert (impact.runs, impact.records, impact.depth) == (["run1"], 2, 2)
    assert impact.transformations == {"validate": 2}
    nothing = impact_of(graph, graph.at("out.csv"), FOLLOWED)
    assert (nothing.affected, nothing.depth) == ([], 0)


def test_what_an_in_place_update_changes_is_affected_by_itself() -> None:
    """The next version has to be made again, though its location is where the question began."""
    graph = LineageGraph()
    old, new = Node("file", "ledger.csv", "1"), Node("file", "ledger.csv", "2")
    graph.add_one(LineageRecord(lineage_id="a", timestamp=WHEN, source=old, destination=new))
    assert impact_of(graph, graph.at("ledger.csv"), FOLLOWED).destinations == [new]


def test_the_summary_counts_balanced_records() -> None:
    """Counts that do not add up are counted, and so are ends of the graph."""
    graph = LineageGraph()
    for number, counts in enumerate([(10, 9, 1), (10, 9, 0), (10, None, 0)]):
        graph.add_one(
            LineageRecord(
                lineage_id=str(number), timestamp=WHEN, source=file(number), destination=file(number + 1),
                input_records=counts[0], output_records=counts[1], records_filtered=counts[2],
            )
        )  # fmt: skip
    summary = summary_of(graph)
    assert (summary.records, summary.nodes, summary.balanced, summary.unbalanced) == (3, 4, 1, 1)
    assert (summary.sources, summary.results, summary.first) == (1, 1, WHEN)
    assert summary_of(LineageGraph()).first is None


def test_an_id_comes_from_what_is_said_alone() -> None:
    """The order of metadata's keys is nothing that was said; every other member is."""
    said = Derivation(source=file(1), destination=file(2), metadata={"a": 1, "b": 2})
    assert said.lineage_id() == msgspec.structs.replace(said, metadata={"b": 2, "a": 1}).lineage_id()
    others: list[dict[str, Any]] = [
        {"edge": "config"},
        {"transformation": "x"},
        {"input_records": 1},
        {"output_records": 1},
        {"run_id": "r"},
    ]
    changed = [msgspec.structs.replace(said, **other).lineage_id() for other in others]
    assert len({said.lineage_id(), *changed}) == len(others) + 1


def test_a_part_is_found_at_its_file() -> None:
    """A slice of a segment and an entry of an audit log belong to the file they lie in."""
    part, entry = Node("slice", part_of("s/1.jsonl", 0, 90), "h"), Node("audit", entry_of("a[1].jsonl", 12), "k")
    assert (whole_of(part), whole_of(entry), whole_of(Node("file", "x[1]"))) == ("s/1.jsonl", "a[1].jsonl", "x[1]")
    graph = LineageGraph()
    graph.add_one(LineageRecord(lineage_id="a", timestamp=WHEN, source=part, destination=entry))
    assert graph.at("s/1.jsonl") == graph.at("s/1.jsonl[0:90]") == [0]


# -- names and pictures ------------------------------------------------------------------------------------------------


def test_a_name_is_an_id_a_location_a_version_or_a_run() -> None:
    """And what is none of them is answered with the nearest locations or versions."""
    graph = LineageGraph()
    first, second, out = Node("file", "d/in.csv", "aaaa1"), Node("file", "d/in.csv", "bbbb2"), Node("file", "d/out.csv")
    graph.add_one(LineageRecord(lineage_id="id1", timestamp=WHEN, source=first, destination=out, run_id="run-1"))
    graph.add_one(LineageRecord(lineage_id="id2", timestamp=WHEN, source=second, destination=out))
    assert find(graph, ["d/in.csv"]).up == (0, 2)
    assert find(graph, ["d/in.csv@bbbb"]).down == (2,)
    assert find(graph, ["nowhere", "d/out.csv"]).up == (1,)
    assert find(graph, ["run-1"]).up == (1,)
    assert (find(graph, ["id2"]).up, find(graph, ["id2"]).down) == ((2,), (1,))
    with pytest.raises(ConfigError, match=r"did you mean d/in\.csv"):
        find(graph, ["inn.csv"])
    with pytest.raises(ConfigError, match="known with the hashes aaaa1, bbbb2"):
        find(graph, ["d/in.csv@cccc"])


def test_the_beginning_of_a_run_is_enough() -> None:
    """Six characters or more that only one run begins with; of several, their ids are told."""
    graph = LineageGraph()
    for number, run in enumerate(["7e0f07fd-aa", "7e0f07fe-bb"]):
        said = {"timestamp": WHEN, "run_id": run, "destination": file(number)}
        graph.add_one(LineageRecord(lineage_id=f"r{number}", source=Node("run", run), **said))  # type: ignore[arg-type]
    assert find(graph, ["7e0f07fd"]) == find(graph, ["7e0f07fd-aa"])
    with pytest.raises(ConfigError, match="2 runs begin so: give more of the id: 7e0f07fd-aa, 7e0f07fe-bb"):
        find(graph, ["7e0f07f"])
    for name in ("7e0f0", "aa0f07fd"):
        with pytest.raises(ConfigError, match="no record names this"):
            find(graph, [name])


@pytest.mark.parametrize("form", ["dot", "mermaid", "graphml", "json"])
def test_hostile_names_stay_inside_their_quotes(form: str) -> None:
    """A name with quotes, markup, line ends and controls is neither syntax nor lost."""
    graph = LineageGraph()
    bad = Node("file", 'a"];\n<b>&\\"|#`\x00\x1b', "h")
    graph.add_one(LineageRecord(lineage_id="i", timestamp=WHEN, source=bad, destination=file(1), transformation='"|x'))
    text = picture_of(graph, form)  # type: ignore[arg-type]
    if form == "json":
        assert msgspec.json.decode(text)["nodes"][0]["location"] == bad.location
    elif form == "graphml":
        keys = [each.text for each in ET.fromstring(text).iter("{http://graphml.graphdrawing.org/xmlns}data")]  # noqa: S314 - made here
        assert 'a"];\n<b>&\\"|#`\\x00\\x1b' in keys
    else:
        rows = text.splitlines()
        assert len(rows) == {"dot": 6, "mermaid": 4}[form]
        unescaped = text.replace("\\\\", "").replace('\\"', "")
        assert all(row.count('"') in (0, 2) for row in unescaped.splitlines())


def test_a_tree_shows_each_node_once_and_refers_to_it_afterwards() -> None:
    """What stands below a node is shown where it is reached first, so a circle ends."""
    graph = graph_of(data((1, 2), (2, 3), (1, 3), (3, 1)))
    rows = list(tree_lines(graph, graph.upstream([number_of(graph, 3)])))
    assert rows == ["f3@x", "├─ f2@x", "│  └─ f1@x", "│     └─ f3@x  … above", "└─ f1@x  … above"]
    assert list(tree_lines(graph, graph.upstream([number_of(graph, 3)]), 1)) == [
        "f3@x", "├─ f2@x", "│  └─ … 1 more", "└─ f1@x", "   └─ … 1 more",
    ]  # fmt: skip
