# SPDX-License-Identifier: Apache-2.0
"""Medians over an arm's processes, with the range that they span, and ratios between arms.

A run is what one process measured; its cells are named numbers, such as `tpot_ms@8`.
"""

import statistics
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

Run = dict[str, Any]
Cells = Callable[[Run], dict[str, float]]
HIGHER_IS_BETTER = "per_s"
"""In the name of a cell that is a rate; the others are times."""


class Spread(NamedTuple):
    median: float
    low: float
    high: float
    processes: int

    def __str__(self) -> str:
        if self.processes == 1:
            return number(self.median)
        return f"{number(self.median)} ({number(self.low)}..{number(self.high)})"


Table = dict[str, dict[str, Spread]]
"""Arm -> cell -> spread."""


def spread(values: Iterable[float]) -> Spread:
    values = list(values)
    return Spread(statistics.median(values), min(values), max(values), len(values))


def number(value: float) -> str:
    """Four digits, of which none is in an exponent."""
    digits = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1 if abs(value) < 1000 else 0
    return f"{value:.{digits}f}"


def summary(runs: dict[str, list[Run]], cells: Cells) -> Table:
    """Spreads of every arm that has a run."""
    table: Table = {}
    for name, results in runs.items():
        values: dict[str, list[float]] = {}
        for result in results:
            for cell, value in cells(result).items():
                values.setdefault(cell, []).append(value)
        if values:
            table[name] = {cell: spread(found) for cell, found in values.items()}
    return table


def plain(table: Table) -> dict[str, dict[str, dict[str, float]]]:
    """For JSON."""
    return {
        name: {cell: each._asdict() for cell, each in cells.items()}
        for name, cells in table.items()
    }


def ratio(cell: str, ours: Spread | None, base: Spread | None) -> str:
    """`1.25x`: ours is better than base; empty where one of them is missing or 0."""
    if ours is None or base is None or not ours.median or not base.median:
        return ""
    ratio = ours.median / base.median
    return f"{ratio if HIGHER_IS_BETTER in cell else 1 / ratio:.2f}x"


def entry(table: Table, name: str, cell: str, baseline: str) -> str:
    """What a table shows for an arm: its spread, and its ratio to the baseline."""
    ours, base = table[name].get(cell), table.get(baseline, {}).get(cell)
    if ours is None:
        return "-"
    return f"{ours} {'' if name == baseline else ratio(cell, ours, base)}".rstrip()


def rows(table: Table) -> list[str]:
    """Every cell that an arm has, in order."""
    return list(dict.fromkeys(cell for cells in table.values() for cell in cells))


def text(table: Table, baseline: str) -> str:
    """A line per cell, a column per arm; ratios are to the baseline, more than 1 is better."""
    grid = [["", *table]]
    grid += [
        [cell, *(entry(table, name, cell, baseline) for name in table)] for cell in rows(table)
    ]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in grid
    )
