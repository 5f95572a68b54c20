"""``tidewaiter explain``: one flag, so that a person who was not there can follow it.

Owns: the options and the picture. Leaves to `shell.explaining` everything in it.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tidewaiter.shell.commands.options import (
    ConfigOption,
    MovedStreamOption,
    StateDirOption,
    StreamNameOption,
    plain,
    show,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType
    from rich.table import Table

    from tidewaiter.shell.explaining import Event, Explanation, Taken

EXAMPLE = (
    "Examples: [bold]tidewaiter explain e48213:velocity[/bold]\n\n"
    "[bold]tidewaiter explain e48213:velocity --state-dir /var/lib/tidewaiter[/bold]"
)
LINE_WIDTH: Final = 60
"""Columns of a time line."""
MOST_EVENTS: Final = 30
"""So many contributing events are listed, the newest."""
MOST_NEIGHBOURS: Final = 10


def explain(
    flag_id: Annotated[
        str,
        typer.Argument(
            metavar="FLAG_ID",
            help="The flag_id of a line of flags.jsonl, suppressed.jsonl or shadow_flags.jsonl.",
            show_default=False,
        ),
    ],
    stream: MovedStreamOption = None,
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    stream_name: StreamNameOption = None,
) -> None:
    """Show why there is a flag: the scenario with the numbers filled in, the events behind them, and its neighbours.

    Reads only, and works beside a running daemon: rules and lists are those in force at the time, from the archive;
    events are read from the stream again, as far as its segments are still there.
    """
    import os

    from tidewaiter.shell.commands.status import locate
    from tidewaiter.shell.explaining import explain as look

    place = None if stream is None else Path(os.path.abspath(stream))  # noqa: PTH100 - keeps symbolic links
    target = locate(place if state_dir is None else None, config, state_dir, stream_name)
    if place is not None:
        target = type(target)(state=target.state, name=target.name, stream=place)
    show(*_parts(look(target, flag_id)))


def _parts(told: Explanation) -> Iterator[RenderableType]:
    yield _head(told)
    if told.conditions:
        yield ""
        yield _conditions(told)
    shown: dict[tuple[object, ...], str] = {}
    for taken in told.taken:
        yield ""
        same = (taken.begin, taken.end, *(each.offset for each in taken.events))
        yield from _metric(told, taken, shown.get(same, "") if taken.events else "")
        shown.setdefault(same, taken.name)
    if told.found.flag.get("score"):
        yield ""
        yield _score(told)
    yield from _neighbours(told)
    for note in told.notes:
        yield f"\n[yellow]note[/yellow]: {plain(note)}"


def _head(told: Explanation) -> Table:
    from rich.table import Table

    flag, governing = told.found.flag, told.governing
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")

    def row(name: str, text: str) -> None:
        table.add_row(name, plain(text))

    kind = {"flags": "", "suppressed": ", suppressed by the cooldown", "shadow_flags": ", of a shadow scenario"}
    row("flag", f"{flag['flag_id']}{kind[told.found.kind]}")
    title = f": {told.rule['title']}" if told.rule.get("title") else ""
    row("scenario", f"{flag['rule_name']} version {flag['scenario_version']}{title}")
    risk = f", risk {told.rule['risk_ref']}" if told.rule.get("risk_ref") else ""
    row("", f"{flag['severity']}, {flag['typology']}{risk}")
    if flag.get("segment") is not None:
        row("segment", str(flag["segment"]))
    row("subject", str(flag["user_id"]))
    row("event", f"{flag['event_id']} at {flag['event_time']}, byte {told.found.offset:,} of the stream")
    if told.event is not None:
        row("", ", ".join(f"{name} {text}" for name, text in told.event.fields.items() if name not in told.hidden))
    row("held" if told.found.kind == "suppressed" else "flagged", told.against(flag))
    if flag.get("reason"):
        row("reason", str(flag["reason"]))
    if flag.get("suppressed_until"):
        row("suppressed", f"until {flag['suppressed_until']}")
    if flag["parameters"]:
        row("parameters", ", ".join(f"{name} {value}" for name, value in flag["parameters"].items()))
    if governing is not None and told.decisions is not None:
        ruleset = governing.ruleset
        row("ruleset", f"{ruleset.name} version {ruleset.version}, {told.decisions.ruleset}")
        row("contract", f"{governing.contract.name} version {governing.contract.version}, {told.decisions.contract}")
    row("digest", f"{flag['scenario_digest']} of all that can change this scenario's flags")
    for name, digest in flag.get("lists", {}).items():
        row(f"list {name}", str(digest))
    return table


def _conditions(told: Explanation) -> Table:
    table = _table("", "condition", "with its numbers")
    before = ""
    for what, text, numbers in told.conditions:
        table.add_row(what if what != before else "", plain(text), plain(numbers))
        before = what
    return table


def _metric(told: Explanation, taken: Taken, same_as: str) -> Iterator[RenderableType]:
    yield f"[bold]{plain(taken.name)}[/bold] = {plain(taken.value)} for {plain(taken.key)}"
    yield f"  {plain(taken.said)}"
    if not taken.events:
        yield "  no events"
        return
    if same_as:
        yield f"  the same events as {plain(same_as)}"
        return
    begin = taken.begin if taken.begin is not None else taken.events[0].time
    yield f"  {_time(begin)}  {time_line(begin, taken.end, taken.events, told.found.offset)}  {_time(taken.end)}"
    fields = told.shown_fields
    table = _table("", "time", "event", *fields)
    left_out = len(taken.events) - MOST_EVENTS
    if left_out > 0:
        table.add_row("", f"{left_out:,} earlier", "")
    for each in taken.events[-MOST_EVENTS:]:
        mark = ">" if each.offset == told.found.offset else ""
        table.add_row(mark, _time(each.time), plain(each.id), *(plain(each.fields[name]) for name in fields))
    yield table


def time_line(begin: int, end: int, events: list[Event], own: int) -> str:
    """Return the stretch from `begin` to `end` with its events: a digit for how many at one place, # for the flag's."""
    cells = [0] * LINE_WIDTH
    flagged = -1
    length = max(end - begin, 1)
    for each in events:
        at = min(max((each.time - begin) * (LINE_WIDTH - 1) // length, 0), LINE_WIDTH - 1)
        cells[at] += 1
        flagged = at if each.offset == own else flagged
    digits = 10
    text = "".join("-" if not count else str(count) if count < digits else "+" for count in cells)
    if flagged >= 0:
        text = f"{text[:flagged]}#{text[flagged + 1 :]}"
    return f"|{text}|"


def _score(told: Explanation) -> Table:
    table = _table("points", "scenario", "why")
    for each in told.found.flag["score"]:
        table.add_row(str(each["points"]), plain(each["scenario"]), plain(each["reason"]))
    return table


def _neighbours(told: Explanation) -> Iterator[RenderableType]:
    if told.began is not None:
        yield f"\n[bold]flag before[/bold] of the same subject: {_neighbour(told, told.began.flag)}"
    if told.suppressed:
        yield f"\n[bold]suppressed[/bold] in the same cooldown: {len(told.suppressed):,}"
        for each in told.suppressed[:MOST_NEIGHBOURS]:
            yield f"  {_neighbour(told, each.flag)}"
        if len(told.suppressed) > MOST_NEIGHBOURS:
            yield f"  and {len(told.suppressed) - MOST_NEIGHBOURS:,} more"
    if told.follows is not None:
        yield f"\n[bold]next flag[/bold] of the same subject: {_neighbour(told, told.follows.flag)}"


def _neighbour(told: Explanation, flag: dict[str, object]) -> str:
    return plain(f"{flag['flag_id']} at {flag['event_time']}: {told.against(flag)}")


def _table(*headings: str) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2), header_style="bold")
    for heading in headings:
        table.add_column(plain(heading), overflow="fold")
    return table


def _time(micros: int) -> str:
    time = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=micros)
    return f"{time:%Y-%m-%d %H:%M:%S}" + (f".{time.microsecond:06}".rstrip("0") if time.microsecond else "")
