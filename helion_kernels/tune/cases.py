# SPDX-License-Identifier: Apache-2.0
"""What is to be tuned, and in which order: what weighs most in a decode step comes first."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from helion_kernels.op import Op
from helion_kernels.qwen3 import Call
from helion_kernels.registry import OPS

TOKENS = tuple(2**i for i in range(14))
"""1 ... 8192; the last serves everything larger."""

TIERS = ((64, 1.0), (512, 0.5), (1 << 62, 0.25))
"""(largest num_tokens, importance). Servers spend most steps decoding up to some 64 sequences."""

BYTES_PER_US, FLOPS_PER_US, OVERHEAD_US = 3.0e6, 1.4e9, 3.0
"""An H100's rates and what a kernel needs beyond them, for weights only (docs/performance-log.md).

Their proportion is what counts, and it is alike on all GPUs with FP8.
"""

RARE = 1 / 32
"""Weight of calls that are not made in every layer, or in no usual step of so many tokens."""
LM_HEAD_ROWS = 1 << 16
"""An lm_head has more, the largest matrix of a layer 51,200."""


@dataclass(frozen=True)
class Case:
    """One (op, static dims) at one num_tokens."""

    op: Op
    dims: tuple[Any, ...]
    num_tokens: int
    weight: float
    """Its share of a layer's time at num_tokens, times the importance of num_tokens."""

    def __str__(self) -> str:
        sizes = "x".join(str(int(size)) for size in self.dims)
        return f"{self.op.name} {sizes} at {self.num_tokens}"


def cases(
    calls: Iterable[Call],
    tokens: Sequence[int] = TOKENS,
    replaced: Mapping[Call, int] | None = None,
) -> list[Case]:
    """Each (op, dims) of the layers' calls (`qwen3.calls`) at each num_tokens, first things first.

    replaced: calls that decode steps of up to so many tokens do not make (`qwen3.replaced`).
    Ordered by tier, rare calls last; in a tier by the weight of (op, dims), so that the configs of
    one are compiled together; then by num_tokens.
    """
    counted = Counter((name, tuple(dims)) for name, dims in calls)
    found: list[tuple[int, float, Case]] = []
    for tier, (_, importance) in enumerate(TIERS):
        inside = [n for n in sorted(set(tokens)) if _tier(n) == tier]
        rarity = {
            (c, n): _rarity(c, n, (replaced or {}).get(c, 0)) for c in counted for n in inside
        }
        shares = {n: _shares({c: k * rarity[c, n] for c, k in counted.items()}, n) for n in inside}
        for call in counted:
            name, dims = call
            for place, rare in ((tier, 1.0), (len(TIERS), RARE)):
                weights = {
                    n: importance * shares[n][call]
                    for n in inside
                    if call in shares[n] and rarity[call, n] == rare
                }
                found += [
                    (place, -sum(weights.values()), Case(OPS[name], OPS[name].dims(*dims), n, w))
                    for n, w in weights.items()
                ]
    return [case for _, _, case in sorted(found, key=lambda item: item[:2])]


def _tier(num_tokens: int) -> int:
    return next(i for i, (largest, _) in enumerate(TIERS) if num_tokens <= largest)


def _shares(counted: Mapping[Call, float], num_tokens: int) -> dict[Call, float]:
    """Share of each (op, dims) in the time of all that are called with so many tokens."""
    times = {
        (name, dims): count * estimate_us(OPS[name], dims, num_tokens)
        for (name, dims), count in counted.items()
        if num_tokens <= (OPS[name].most_tokens or num_tokens)
    }
    return {call: us / sum(times.values()) for call, us in times.items()}


def estimate_us(op: Op, dims: tuple[Any, ...], num_tokens: int) -> float:
    """About what a good kernel needs."""
    sizes = op.dims(*dims)
    moved = op.bytes_moved(sizes, num_tokens) / BYTES_PER_US
    return max(moved, op.flops(sizes, num_tokens) / FLOPS_PER_US) + OVERHEAD_US


def _rarity(call: Call, num_tokens: int, replaced: int) -> float:
    """The first norm of the model is the only one without a residual, there is one lm_head, in FP8
    on demand, and the rope kernel leaves the KV cache to upstream only where its layout or type is
    unusual. What is replaced up to so many tokens serves steps of them that are no decode steps."""
    name, dims = call
    lm_head = name == "scaled_mm" and dims[0] >= LM_HEAD_ROWS
    first_norm = name.startswith("rms_norm") and not dims[-1]
    rare = lm_head or first_norm or name == "fused_qk_norm_rope" or num_tokens <= replaced
    return RARE if rare else 1.0
