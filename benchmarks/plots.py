# SPDX-License-Identifier: Apache-2.0
"""One SVG per op: speed-up over num_tokens against each stock arm, and share of the floor.

Lines are geometric means over an op's sizes, bands the range over them. The same cases give the
same bytes. Only this module needs matplotlib, and imports it when it draws.
"""

import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.ratios import GEMM_TARGETS, INDUCTOR, OURS, TARGETS, Case, mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {OURS: "#1b7f3b", INDUCTOR: "#c25b12"}
KERNELS = ("#2c5f9e", "#7a4fa3", "#555555")
"""Stock's own kernels, in stock's order."""


def unavailable() -> str | None:
    """Why nothing can be drawn, or None."""
    if importlib.util.find_spec("matplotlib") is None:
        return "plots need matplotlib: pip install matplotlib"
    return None


def draw(op: str, cases: list[Case], path: Path) -> None:
    """Write the plot of an op's cases."""
    import matplotlib
    from matplotlib.figure import Figure

    kernels = list(dict.fromkeys(arm for case in cases for arm in case.kernels))
    colours = COLOURS | dict(zip(kernels, KERNELS * len(kernels), strict=False))
    arms = [*kernels, *([INDUCTOR] if any(INDUCTOR in case.us for case in cases) else [])]
    # A salt, for identifiers are random otherwise; text as text, for it is small and searchable.
    with matplotlib.rc_context({"svg.hashsalt": op, "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for arm in arms:
            _line(left, cases, arm, colours[arm], Case.speedup)
        left.axhline(1.0, color="black", linewidth=0.8)
        for target, colour in _targets(op):
            left.axhline(target, color=colour, linewidth=0.8, linestyle="--")
        left.set_ylim(bottom=0)
        left.set_ylabel("speed-up over (dashed: target)")
        for arm in [OURS, *arms]:
            _line(right, cases, arm, colours[arm], Case.share)
        right.set_ylim(0, max(1.05, right.get_ylim()[1]))  # what stays in L2 can exceed 1
        right.set_ylabel("share of the floor")
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:.0f}")
            axes.set_xlabel("num_tokens")
            axes.grid(linewidth=0.3)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(frameon=False)
        figure.suptitle(op)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without trailing blanks: repositories' hooks would take them away.
    lines = (line.rstrip() for line in drawn.getvalue().splitlines())
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _line(
    axes: "Axes", cases: list[Case], arm: str, colour: str, value: Callable[[Case, str], float]
) -> None:
    at: dict[int, list[float]] = {}
    for case in cases:
        if arm in case.us:
            at.setdefault(case.num_tokens, []).append(value(case, arm))
    tokens = sorted(at)
    middle = [mean(at[m]) or 0.0 for m in tokens]
    low, high = [min(at[m]) for m in tokens], [max(at[m]) for m in tokens]
    if not tokens:
        return
    axes.plot(tokens, middle, marker="o", markersize=3, linewidth=1.2, color=colour, label=arm)
    axes.fill_between(tokens, low, high, color=colour, alpha=0.15, linewidth=0)


def _targets(op: str) -> list[tuple[float, str]]:
    """What the line of an arm, by its colour, is to reach."""
    if op in GEMM_TARGETS:
        return [(GEMM_TARGETS[op][0], KERNELS[0])]
    pairs = zip(TARGETS.get(op, ()), (KERNELS[0], COLOURS[INDUCTOR]), strict=False)
    return [(target, colour) for target, colour in pairs if target is not None]
