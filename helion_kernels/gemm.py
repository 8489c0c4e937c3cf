# SPDX-License-Identifier: Apache-2.0
"""Configs of the FP8 GEMMs: the rule where nothing is tuned, and the space to search.

Their block sizes are tokens, N and a part of K (`split_k`). Along K they go in steps of STEP:
the group of block FP8, and what a tensor core may sum at once. Unrolled twice, an iteration moves
two steps, each summed on its own; with grouped scales it does so as the kernel is written.

Block sizes of two numbers, rows of weights and a piece of K, are for `gemv`, one token a program.
It asks for its first weights before it waits for the kernel ahead, keeps them in registers, and
lets the next kernel in at once, so that memory is busy while small kernels and attention run. Its
iterations are unrolled, as each asks for the weights of the next.
"""

from typing import Any

from helion_kernels import deep_gemm, split_k
from helion_kernels.hopper import MULTIPROCESSORS, SHARED
from helion_kernels.op import Config, power_of_2

STEP = 128
"""Of a sum of 256 products of one sign a WGMMA loses more than the 2^-10 of `accuracy`."""
MOST_GEMV = 1
"""Tokens: each reads all weights again. With two, the second out of L2, it gains nothing on an H100
(docs/performance-log.md)."""

MOST_GROUPWISE = 8
"""Tokens of `scaled_mm_groupwise`: with more it loses what kernels around it gain (`qwen3.FEW`)."""

MOST_ITERATIONS = 32
"""Of `gemv`, unrolled: some 4000 instructions."""


def default_config(n: int, k: int, num_tokens: int, grouped: bool = False) -> Config:
    """Weights dominate up to 64 tokens, arithmetic beyond.

    Up to 64: tiles of 64 weight rows, the least of a WGMMA. H100, cold L2, 16 tokens: where they
    are fewer than the multiprocessors each streams alone and wants its shared memory full (4096 x
    4096: 8.94 us with six stages of 20 KiB, 9.64 with four); else three share it (24576 x 4096:
    37.0). Beyond 64: 128 x 128 tiles on two warpgroups. Only tuned configs know the GPU: a rule
    that fills an H100 fills the others.
    """
    if grouped:
        return _grouped_config(n, k, num_tokens)
    if num_tokens <= 64:
        stages = 6 if -(-n // 64) <= MULTIPROCESSORS else 3
        return _config(16 if num_tokens <= 16 else 32, 64, split_k.WHOLE, 4, stages, unroll=2)
    block_m, warps = (64, 4) if num_tokens <= 256 else (128, 8)
    return _config(block_m, block_m, split_k.WHOLE, warps, 4)


def _grouped_config(n: int, k: int, num_tokens: int) -> Config:
    """Groups are a chain of copies, WGMMAs and scaling that one program cannot overlap.

    So three share a multiprocessor, by parts of K where tiles are too few (H100, 4096 x 12288, 16
    tokens: 21 us in six parts, 33 in one). From 33 tokens on they are the rows of a WGMMA, 64 at
    least, and N is cut finer.
    """
    if num_tokens <= 64:
        block_m, block_n = (16, 64) if num_tokens <= 16 else (32, 64)
        if num_tokens > 32:
            block_m, block_n = 64, 32
        splits = 3 * MULTIPROCESSORS // -(-n // block_n)
        return _config(block_m, block_n, _part(k, splits), 4, 3)
    block, warps = (64, 4) if num_tokens <= 256 else (128, 8)
    return _config(block, block, split_k.WHOLE, warps, 3)


def groupwise_config(n: int, k: int, num_tokens: int) -> Config:
    """As `_grouped_config` for few tokens, whose chain it has. No layer calls it with more.

    Unrolled twice, the scales of the second group are on their way while the first is multiplied:
    up to 9 % of a step (14B, H200; docs/performance-log.md).
    """
    if num_tokens > 16:
        return _config(64, 64, split_k.WHOLE, 4, 3)
    return _config(16, 64, _part(k, 3 * MULTIPROCESSORS // -(-n // 64)), 4, 3, unroll=2)


def space(n: int, k: int, num_tokens: int, grouped: bool = False) -> list[Config]:
    """Tiles x parts of K x warps x stages x unrolling that fit in shared memory."""
    wanted = min(128, max(16, power_of_2(num_tokens)))
    most = 256 if num_tokens > 128 else max(wanted, 64 if grouped else 0)
    tiles = [
        (block_m, block_n, warps)
        for block_m in (16, 32, 64, 128, 256)
        # Tokens as the rows of a WGMMA leave N free to be cut finer.
        for block_n in ((32, 64, 128) if grouped and block_m >= 64 else (64, 128))
        for warps in (4, 8)
        if wanted // 2 <= block_m <= most and 4 <= block_m * block_n // (32 * warps) <= 128
    ]
    pairs = grouped and k % (2 * STEP) == 0
    gemv = _gemv_space(k) if num_tokens <= MOST_GEMV else []
    return gemv + [
        _config(block_m, block_n, part, warps, stages, unroll)
        for block_m, block_n, warps in tiles
        for part in _parts(n, k, num_tokens, block_m, block_n)
        for unroll in ((1,) if pairs else (1, 2))
        for stages in ((2, 3, 4, 5, 6) if pairs else (3, 4, 5, 6, 8, 10, 12))
        if (block_m + block_n) * STEP * (2 if pairs else unroll) * stages <= SHARED
    ]


def serves(dims: Any, config: Config, num_tokens: int) -> bool:
    """Whether partial sums of a config find room in the workspace, and pieces of K are whole."""
    if deep_gemm.names(config):
        return deep_gemm.serves(dims, config, num_tokens)
    n, k = dims
    if is_gemv(config):
        piece = config["block_sizes"][1]
        return num_tokens <= MOST_GEMV and piece % STEP == 0 and k % piece == 0
    _, block_n, part = config["block_sizes"]
    return split_k.fits(n, k, num_tokens, block_n, part)


def is_gemv(config: Config) -> bool:
    """Whether a config is for the kernel of one token a program."""
    return len(config["block_sizes"]) == 2


def _gemv_space(k: int) -> list[Config]:
    """Rows x pieces of K x warps, with 16 or 32 registers a thread for weights: with more of them
    fewer programs are there, and were never the fastest (H100, four models)."""
    largest = min(k & -k, 8192)  # a power of two that divides K
    return [
        Config(
            block_sizes=[rows, piece],
            range_unroll_factors=[0, k // piece if k > piece else 0],
            num_warps=warps,
            num_stages=1,
        )
        for piece in (largest, largest // 2, largest // 4)
        if piece >= STEP and k // piece <= MOST_ITERATIONS
        for rows in (2, 4, 8, 16, 32)
        for warps in (2, 4, 8)
        if 64 <= rows * piece // (32 * warps) <= 128
    ]


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
