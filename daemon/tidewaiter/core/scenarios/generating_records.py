"""Where the generated function finds what is kept for a key: in a cell of its own, or in a record with others.

Owns: the text that looks it up, and how long what was found may be used again. Leaves to `planning` which cells share a
record, and to `state_cells` the shelves.

Names in the text: ``r0`` the record of the key at hand in the shelf that is numbered 0; ``r0[3]`` what it holds for
one of its cells. A record that was made sure of stands in the young half, so its cells may be written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidewaiter.core.scenarios.planning import LASTING

if TYPE_CHECKING:
    from tidewaiter.core.scenarios.generating_page import Page
    from tidewaiter.core.scenarios.planning import Plan


class Records:
    """The records of one ruleset while its function is written."""

    def __init__(self, plan: Plan) -> None:
        """Nothing was looked up yet."""
        self.plan = plan
        self._places = {
            cell: (number, slot) for number, record in enumerate(plan.records) for slot, cell in enumerate(record.cells)
        }
        self._always: set[int] = set()  # those made sure of at every event
        self._here: set[int] = set()  # and those in the block at hand

    def begin_block(self, *, guarded: bool) -> None:
        """Forget what was made sure of where the block before stood under a guard of its own."""
        self._here = set() if guarded else self._always

    def locals(self, page: Page, cell: int) -> None:
        """Write what is looked up once for each call."""
        place, lasting = self._places.get(cell), self.plan.cells[cell].kind in LASTING
        if place is not None and place[1] == 0:
            page.put(f"shelf{place[0]} = c{cell}.shelf", f"record{place[0]} = shelf{place[0]}.record")
            page.put(
                f"young_record{place[0]}, old_record{place[0]} = shelf{place[0]}.young.get, shelf{place[0]}.old.get"
            )
        elif place is None:
            page.put(f"young{cell} = c{cell}.shelf.young")
            page.put(f"young_get{cell}, old_get{cell} = young{cell}.get, c{cell}.shelf.old.get")
        if not lasting:
            page.put(f"w{cell} = c{cell}.reach")

    def place(self, cell: int) -> str:
        """Return how a record that was found is asked for what it holds for a cell; "" for a cell without one."""
        place = self._places.get(cell)
        return "" if place is None else f"r{place[0]}[{place[1]}]"

    def here(self, cell: int) -> str:
        """Return the same where the record was made sure of, else "" as well."""
        place = self._places.get(cell)
        return self.place(cell) if place is not None and place[0] in self._always | self._here else ""

    def make_sure(self, page: Page, cell: int, key: str, *, lasting: bool) -> str:
        """Write that there is a record with the cell, and in the young half; return the cell's place in it.

        `lasting`: what is written from here on in this block will be reached only behind this.
        """
        number, _ = self._places[cell]
        if number not in self._always | self._here:
            page.put(
                f"r{number} = young_record{number}({key})",
                f"if r{number} is None:",
                f"    r{number} = record{number}({key})",
            )
            if lasting:
                self._here.add(number)
        return self.place(cell)

    def peek(self, page: Page, cell: int, key: str, name: str) -> None:
        """Write into `name` what is held for a cell, None for nothing; the record, if any, is found afterwards."""
        place = self._places.get(cell)
        if place is None:
            page.put(f"{name} = young_get{cell}({key}) or old_get{cell}({key})")
        elif self.here(cell):
            page.put(f"{name} = {self.place(cell)}")
        else:
            record = f"r{place[0]}"
            page.put(
                f"{record} = young_record{place[0]}({key}) or old_record{place[0]}({key})",
                f"{name} = {record} and {self.place(cell)}",
            )
