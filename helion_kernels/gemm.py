# SPDX-License-Identifier: Apache-2.0
"""Configs of the FP8 GEMMs: the rule where nothing is tuned, and the space to search.

Their block sizes are tokens, N and a part of K (`split_k`). Along K they go in steps of STEP:
the group of block FP8, and what a tensor core may sum at once. Unrolled twice, an iteration moves
two steps, each summed on its own.
"""

from typing import Any

from helion_kernels import split_k
from helion_kernels.op import Config, power_of_2

STEP = 128
"""Of a sum of 256 products of one sign a WGMMA loses more than the 2^-10 of `accuracy`."""
SHARED = 227 * 1024
"""Bytes of shared memory that a program on Hopper may have."""
MULTIPROCESSORS = 132
"""Of an H100. Only tuned configs know the GPU; a rule that fills one of these fills the others."""


def default_config(n: int, k: int, num_tokens: int, grouped: bool = False) -> Config:
    """Weights dominate up to 64 tokens, arithmetic beyond.

    Up to 64: tiles of 64 weight rows, the least of a WGMMA. H100, cold L2, 16 tokens: where they
    are fewer than the multiprocessors each streams alone and wants its shared memory full (4096 x
    4096: 8.94 us with six stages of 20 KiB, 9.64 with four); else three share it (24576 x 4096:
    37.0). Grouped: a group is a chain of copy, WGMMA and scaling (0.35 us) that one program cannot
    overlap, so that K is split until three programs share a multiprocessor (4096 x 12288: 23 us in
    six parts, 33 in one). Beyond 64: 128 x 128 tiles on two warpgroups.
    """
    if num_tokens <= 64:
        block_m = 16 if num_tokens <= 16 else 32
        tiles = -(-n // 64)
        splits = 3 * MULTIPROCESSORS // (tiles * -(-num_tokens // block_m)) if grouped else 1
        stages = 6 if tiles <= MULTIPROCESSORS and not grouped else 3
        return _config(block_m, 64, _part(k, splits), 4, stages, unroll=2)
    block_m, warps = (64, 4) if num_tokens <= 256 else (128, 8)
    return _config(block_m, block_m, split_k.WHOLE, warps, 4)


def space(n: int, k: int, num_tokens: int) -> list[Config]:
    """Tiles x parts of K x warps x stages x unrolling that fit in shared memory."""
    wanted = min(128, max(16, power_of_2(num_tokens)))
    tiles = [
        (block_m, block_n, warps)
        for block_m in (16, 32, 64, 128, 256)
        for block_n in (64, 128)
        for warps in (4, 8)
        if wanted // 2 <= block_m <= (256 if num_tokens > 128 else wanted)
        and 4 <= block_m * block_n // (32 * warps) <= 128
    ]
    return [
        _config(block_m, block_n, part, warps, stages, unroll)
        for block_m, block_n, warps in tiles
        for part in _parts(n, k, num_tokens, block_m, block_n)
        for unroll in (1, 2)
        for stages in (3, 4, 5, 6, 8, 10, 12)
        if (block_m + block_n) * STEP * unroll * stages <= SHARED
    ]


def serves(dims: Any, config: Config, num_tokens: int) -> bool:
    """Whether the partial sums of a config for (N, K) find room in the workspace."""
    n, k = dims
    _, block_n, part = config["block_sizes"]
    return split_k.fits(n, k, num_tokens, block_n, part)


def _parts(n: int, k: int, num_tokens: int, block_m: int, block_n: int) -> list[int]:
    """Parts of K that bring no more than four programs to a multiprocessor."""
    parts = [split_k.WHOLE]
    for splits in (2, 3, 4, 6, 8, 12, 16):
        part = _part(k, splits)
        programs = -(-n // block_n) * -(-num_tokens // block_m) * -(-k // part)
        fits = split_k.fits(n, k, num_tokens, block_n, part)
        if part < k and part not in parts and fits and programs <= 4 * MULTIPROCESSORS:
            parts.append(part)
    return parts


def _part(k: int, splits: int) -> int:
    """The power of two that cuts K into about so many parts."""
    if splits <= 1:
        return split_k.WHOLE
    part = max(split_k.MIN_PART, power_of_2(-(-k // splits)))
    return part if part < k else split_k.WHOLE


def _config(
    block_m: int, block_n: int, part: int, warps: int, stages: int, unroll: int = 1
) -> Config:
    return Config(
        block_sizes=[block_m, block_n, part],
        l2_groupings=[8],
        range_unroll_factors=[0, unroll if unroll > 1 else 0],
        num_warps=warps,
        num_stages=stages,
    )
