# SPDX-License-Identifier: Apache-2.0
"""Split-K: several programs share an output tile, each with its part of K.

Each leaves its partial sum in a workspace; the one that arrives last adds them up, in the order of
K whoever it is, so that results repeat bit for bit. It pays where tiles are too few for the GPU or
the work on each is a long chain: block FP8 at up to 64 tokens (docs/performance-log.md).
"""

from functools import cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import helion.language as hl

MAX_TOKENS = 64
"""Configs that split serve no more: their partial sums would fill the workspace."""
MIN_PART = 512
"""Elements of K in a part, at least."""
WHOLE = 1 << 16
"""A part that is never split: larger than any K."""
COUNTERS = (4, 2048)
"""Tiles of at least 16 tokens, tiles of N."""
COUNTED = COUNTERS[0] * COUNTERS[1]
SIZE = COUNTED + (1 << 22) + (1 << 17)
"""Words of a workspace: 16 MiB of partial sums, and 512 KiB so that attention's logarithms leave
them room for 4 parts of 256 sequences of Qwen3-8B."""


def workspace(device: torch.device | str) -> torch.Tensor:
    """float32 [SIZE], zero. One for each stream on which GEMMs run; kernels leave its counters 0.

    Ops do not declare that they write it: nobody reads it after them, and a graph compiler would
    keep a copy of what they write.
    """
    return torch.zeros(SIZE, dtype=torch.float32, device=device)


@cache
def shared(device: torch.device) -> torch.Tensor:
    """The workspace of a device's model, which runs on one stream."""
    return workspace(device)


def fits(n: int, k: int, num_tokens: int, block_n: int, part: int) -> bool:
    """Whether parts of that size need no more than a workspace has."""
    splits = -(-k // part)
    if splits == 1:
        return True
    small = num_tokens <= MAX_TOKENS and -(-n // block_n) <= COUNTERS[1]
    return small and splits * n * num_tokens <= SIZE - COUNTED


def slots(room: int) -> int:
    """How many parts there is room for; in a trace, where room is a symbol, any number but 1.

    Traced with room for one part, Helion takes a part's offset for 0.
    """
    return room if isinstance(room, int) else 2


def kernel_args(
    out: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor,
    scale_b: torch.Tensor, workspace: torch.Tensor,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """A GEMM's arguments, its workspace as partial sums [parts, N, M] and int32 counters."""
    m, n = out.shape
    room = slots((SIZE - COUNTED) // (n * m))
    partials = workspace.as_strided((room, n, m), (n * m, m, 1), COUNTED)
    arrived = workspace[:COUNTED].view(torch.int32).view(COUNTERS)
    return out, a, b, scale_a, scale_b, partials, arrived


def join(
    acc: torch.Tensor,
    partials: torch.Tensor,
    offsets: torch.Tensor,
    mask: torch.Tensor,
    k: int,
    part: int,
) -> torch.Tensor:
    """The sum of a tile's parts in their order, like acc (inlined by Helion).

    All loads are in flight at once: what Helion makes of a loop has a barrier before each, some
    0.3 us a part on an H100.
    """
    return hl.inline_triton(
        "joined = tl.zeros_like({0})\n"
        "for number in tl.static_range(({5} + {6} - 1) // {6}):\n"
        "    joined += tl.load({1} + number * {2} + {3}, mask={4}, other=0.0)\n"
        "joined",
        args=(acc, partials, partials.stride(0), offsets, mask, k, part),
        output_like=acc,
    )
