# SPDX-License-Identifier: Apache-2.0
"""What the rows of `benchmarks.kernels` say: speed-ups, shares of the floor, targets.

A speed-up is an arm's time over ours: more than 1 means that ours is faster. Means are geometric.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any, NamedTuple

OURS, INDUCTOR = "ours", "inductor"
ROW_KEYS = frozenset(("op", "dims", "num_tokens", "arm", "us", "floor_us"))
GEMM_SMALL = 512
"""Up to so many tokens a GEMM has the first of its two targets."""
FEW, MANY = 64, 2048
"""Shares of the floor are stated up to, and from, so many tokens."""


class Target(NamedTuple):
    """Speed-ups to reach on the mean; None: none set."""

    kernels: float | None
    """Against the fastest of stock's own kernels."""
    inductor: float | None


TARGETS = {
    "dynamic_per_token_scaled_fp8_quant": Target(1.5, 1.3),
    "rms_norm_dynamic_per_token_quant": Target(2.0, 1.3),
    "silu_and_mul_dynamic_per_token_quant": Target(None, 1.35),
    "fused_qk_norm_rope_kv_write": Target(1.6, 1.6),
    "per_token_group_fp8_quant": Target(1.6, 1.5),
    "rms_norm_per_block_quant": Target(2.2, 1.7),
    "silu_and_mul_per_block_quant": Target(2.5, 1.8),
}
GEMM_TARGETS = {
    "scaled_mm": (1.15, 1.0),
    "scaled_mm_blockwise": (1.15, 1.0),
    "scaled_mm_groupwise": (1.15, 1.0),
}
"""Up to GEMM_SMALL tokens, and above."""


@dataclass(frozen=True)
class Case:
    """An op at one size."""

    op: str
    dims: str
    num_tokens: int
    floor_us: float
    us: dict[str, float]
    """By arm; stock's own kernels in stock's order."""
    is_stock: bool = False
    """Ours is the first of stock's kernels here: against that one it is 1, whatever the noise."""
    problems: tuple[str, ...] = ()
    """What is wrong with our outputs."""

    @property
    def kernels(self) -> list[str]:
        """Arms that are stock's own kernels."""
        return [arm for arm in self.us if arm not in (OURS, INDUCTOR)]

    @property
    def fastest(self) -> str | None:
        return min(self.kernels, key=lambda arm: self.us[arm], default=None)

    def speedup(self, arm: str) -> float:
        if self.is_stock and self.kernels[:1] == [arm]:
            return 1.0
        return self.us[arm] / self.us[OURS]

    def share(self, arm: str = OURS) -> float:
        """Of the floor in the measured time."""
        return self.floor_us / self.us[arm]

    def __str__(self) -> str:
        return f"{self.dims}, {self.num_tokens} token{'s' * (self.num_tokens > 1)}"


def are_rows(rows: Any) -> bool:
    """Whether rows are those of `benchmarks.kernels`, a row per arm."""
    return (
        isinstance(rows, list)
        and bool(rows)
        and all(isinstance(row, dict) and row.keys() >= ROW_KEYS for row in rows)
    )


def dims_text(dims: Iterable[Any]) -> str:
    return "x".join(str(int(value)) for value in dims)


def key(row: dict[str, Any]) -> tuple[str, str, int]:
    """Equal for rows of one case."""
    return row["op"], dims_text(row["dims"].values()), row["num_tokens"]


def grouped(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, str, int], list[dict[str, Any]]]:
    """Rows by case."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def cases(rows: Iterable[dict[str, Any]]) -> list[Case]:
    """The cases whose `ours` could be timed, in the order of their rows."""
    found = []
    for where, group in grouped(rows).items():
        us = {row["arm"]: row["us"] for row in group if row["us"] is not None}
        if OURS in us:
            ours = next(row for row in group if row["arm"] == OURS)
            wrong = tuple(ours.get("problems", ()))
            floor, is_stock = ours["floor_us"], ours.get("config") == "stock"
            found.append(Case(*where, floor, us, is_stock, wrong))
    return found


def mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return geometric_mean(values) if values else None


def against(cases: Iterable[Case], arm: str) -> float | None:
    """Mean speed-up over an arm, where it was timed."""
    return mean(case.speedup(arm) for case in cases if arm in case.us)


def against_fastest(cases: Iterable[Case]) -> float | None:
    """Mean speed-up over the fastest of stock's own kernels."""
    return mean(case.speedup(case.fastest) for case in cases if case.fastest is not None)


def worst(cases: Iterable[Case]) -> tuple[float, str, Case] | None:
    """The lowest speed-up, over which arm and where."""
    every = [(case.speedup(arm), arm, case) for case in cases for arm in case.us if arm != OURS]
    return min(every, key=lambda one: one[0], default=None)


def text(cases: list[Case]) -> str:
    """A line per op: the mean speed-up over each arm."""
    lines = ["mean speed-up of ours (more than 1: faster)"]
    for op in dict.fromkeys(case.op for case in cases):
        mine = [case for case in cases if case.op == op]
        arms = dict.fromkeys(arm for case in mine for arm in case.us if arm != OURS)
        cells = [f"{arm} {against(mine, arm):.2f}x" for arm in arms]
        stock = sum(case.is_stock for case in mine)
        note = f"   ({stock} of {len(mine)} are stock's kernel)" if stock else ""
        lines.append(f"{op:37} {'   '.join(cells)}{note}")
    return "\n".join(lines)
