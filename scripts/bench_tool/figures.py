"""What a figure is, and the line of JSON that tells it with everything needed to judge it.

Owns: the form of an answer, the facts of interpreter and machine, and the few statistics. Leaves the measuring to
`measures`.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Figure:
    """One answer. `floor` is what is promised, if anything is; `holds` says on which side of it the value must be."""

    name: str
    value: float
    unit: str
    floor: float | None = None
    holds: Literal["at least", "at most"] = "at most"
    file: dict[str, Any] | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the promise holds; None where there is none."""
        if self.floor is None:
            return None
        return self.value >= self.floor if self.holds == "at least" else self.value <= self.floor


def line(figure: Figure, command: str, machine_facts: dict[str, Any]) -> str:
    """Return the line of JSON."""
    answer: dict[str, Any] = {"name": figure.name, "value": rounded(figure.value), "unit": figure.unit}
    answer |= {"floor": figure.floor, "holds": figure.holds if figure.floor is not None else None, "met": figure.met}
    answer |= {
        "interpreter": f"{platform.python_implementation()} {platform.python_version()}",
        "msgspec": metadata.version("msgspec"),
        "file": figure.file,
        "machine": machine_facts,
        "command": command,
        "detail": {key: rounded(value) for key, value in figure.detail.items()},
    }
    return json.dumps(answer, ensure_ascii=False)


def machine(folder: Path) -> dict[str, Any]:
    """Return what of the machine bears on a figure, its load right now included."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "kernel": platform.release(),
        "file_system": _file_system(folder),
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


def rounded(value: Any) -> Any:  # noqa: ANN401 - any part of a line of JSON
    """Return `value` with four significant digits, which is more than any of this can be trusted for."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if abs(value) < 1e4 else round(value)  # noqa: PLR2004 - whole numbers above
    if isinstance(value, list):
        return [rounded(each) for each in value]
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return value


def median(values: Sequence[float]) -> float:
    """Return the middle value."""
    return percentile(values, 50)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that is not exceeded by `share` percent of `values`."""
    ordered = sorted(values)
    return ordered[min(max(-int(-len(ordered) * share // 100) - 1, 0), len(ordered) - 1)]


def _processor() -> str:
    for row in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if row.startswith("model name"):
            return row.partition(":")[2].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    """Return the type of the file system that holds `folder`: the longest mount point that is above it."""
    best, kind = "", "unknown"
    place = str(folder.resolve())
    for row in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, point, name, *_ = row.split(" ")
        if (place + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best):
            best, kind = point, name
    return kind
