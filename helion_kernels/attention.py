# SPDX-License-Identifier: Apache-2.0
"""Configs of attention in decode steps: the rule where nothing is tuned, the space to search, and
where the parts of a sequence go.

Block sizes are the parts of a sequence at most, the tokens that a part has at least, and the tokens
of a tile.
"""

from typing import NamedTuple

import torch

from helion_kernels import split_k
from helion_kernels.gemm import MULTIPROCESSORS, SHARED
from helion_kernels.op import Config, power_of_2


class Dims(NamedTuple):
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    quantised: bool
    query_len: int = 1
    """New tokens of a sequence: more than one where guesses are checked. A power of 2, and then the
    query heads of a KV head are one, too."""


JOINED = 128
"""Rows of parts that a sequence's last program reads at once: as many registers of 128 threads. 256
spill 0.2 to 2.4 KB."""
MOST = 32
"""Parts of a sequence."""
LONG = 4
"""Parts that a long sequence may have in any case."""
FLIGHT = 8 << 20
"""Bytes of long sequences that are asked for at once, where they can be. One of 32768 tokens alone
with 64 programs of one tile, 4 MB, takes twice the time of its bytes (docs/performance-log.md)."""
MOST_QUERIES = 32
"""Rows of a program's tile: query heads of a KV head, times new tokens. 64 spill 0.6 to 0.8 KB."""


def serves_query_len(num_q_heads: int, num_kv_heads: int, query_len: int) -> bool:
    """Whether there may be so many new tokens of a sequence."""
    group = num_q_heads // num_kv_heads
    rows = query_len * group
    return query_len == 1 or (rows & (rows - 1) == 0 and rows <= MOST_QUERIES)


SUMS = 1 << 17
"""Words at the end of the workspace, for the logarithms."""
ROOM = split_k.SIZE - split_k.COUNTED - SUMS
"""Words before them, for the parts."""


def joined_at_once(splits: int, queries: int) -> int:
    """Parts that a sequence's last program reads at once: all, if registers have room for them.

    Each further reading takes 1.8 us on an H200. In the kernel splits is a symbol.
    """
    return torch.sym_min(splits, max(1, JOINED // power_of_2(queries)))


def parts(
    workspace: torch.Tensor, num_seqs: int, kv_heads: int, queries: int, head_dim: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A workspace as outputs of parts, float32 [parts, num_seqs, kv_heads, queries, head_dim],
    logarithms of their sums [parts, num_seqs, kv_heads, queries] and int32 counters [.., kv_heads].

    Of a config that splits there is room (`serves`); others use none of it.
    """
    rows = num_seqs * kv_heads * queries
    partials = workspace.as_strided(
        (split_k.slots(ROOM // (rows * head_dim)), num_seqs, kv_heads, queries, head_dim),
        (rows * head_dim, kv_heads * queries * head_dim, queries * head_dim, head_dim, 1),
        split_k.COUNTED,
    )
    sums = workspace.as_strided(
        (split_k.slots(SUMS // rows), num_seqs, kv_heads, queries),
        (rows, kv_heads * queries, queries, 1),
        split_k.SIZE - SUMS,
    )
    counted = split_k.COUNTED // kv_heads
    arrived = workspace[: counted * kv_heads].view(torch.int32).view(counted, kv_heads)
    return partials, sums, arrived


def default_config(dims: Dims, num_seqs: int) -> Config:
    """Splits until two programs share each multiprocessor, and long sequences in any case; then has
    two tiles on their way if one of each program is not enough."""
    idle = 2 * MULTIPROCESSORS // (num_seqs * dims.num_kv_heads)
    splits = min(MOST, power_of_2(max(LONG, idle)))
    while not serves(dims, _config(splits, 64, 64, 4, 3), num_seqs):
        splits //= 2
    # On an H100 parts of 1024 tokens were best from 16 sequences on, and with four new tokens of
    # each, whose tiles keep the tensor cores busy, more stages (docs/performance-log.md).
    if dims.query_len > 1:
        return _config(splits, 128 if idle >= 8 else 512 if idle >= 2 else 1024, 64, 4, 5)
    config = _config(splits, 64 if idle >= 8 else 256 if idle >= 2 else 1024, 64, 4, 3)
    return config if flight(dims, config, num_seqs) >= FLIGHT else config | Config(num_stages=5)


def space(dims: Dims, num_seqs: int) -> list[Config]:
    """Splits x least tokens of one x tokens of a tile x warps x stages.

    Keys wait for the block table, so that Triton makes a buffer of every other stage only: 3 stages
    have one tile on its way, 5 have two. 7 and 9 were tried and are no config's choice.
    """
    configs = [
        _config(splits, least, tile, warps, stages)
        for splits in (1, 2, 4, 8, 16, MOST)
        for least in (32, 64, 128, 256, 512, 1024)
        for tile in (32, 64, 128)
        for warps in (2, 4, 8)
        for stages in (3, 5)
        if tile <= least and 8 <= tile // warps <= 32 and (splits > 1 or least == 1024)
        if 4 * dims.head_dim * tile * (stages // 2) < SHARED
    ]
    most = max(4, 16 * MULTIPROCESSORS // (num_seqs * dims.num_kv_heads))
    served = [c for c in configs if c["block_sizes"][0] <= most and serves(dims, c, num_seqs)]
    enough = min(FLIGHT, max(flight(dims, config, num_seqs) for config in served))
    return [config for config in served if flight(dims, config, num_seqs) >= enough]


def flight(dims: Dims, config: Config, num_seqs: int) -> int:
    """Bytes of keys and values of long sequences that are on their way to programs at once."""
    splits, _, tile = config["block_sizes"]
    programs = num_seqs * dims.num_kv_heads * splits
    tiles = config["num_stages"] // 2
    return programs * tiles * tile * 4 * dims.head_dim


def serves(dims: Dims, config: Config, num_seqs: int) -> bool:
    """Whether what parts found has room in the workspace."""
    splits = config["block_sizes"][0]
    rows = splits * num_seqs * dims.query_len * dims.num_q_heads
    counted = num_seqs * dims.num_kv_heads <= split_k.COUNTED
    return splits == 1 or (counted and rows <= SUMS and rows * dims.head_dim <= ROOM)


def _config(splits: int, least: int, tile: int, warps: int, stages: int) -> Config:
    return Config(block_sizes=[splits, least, tile], num_warps=warps, num_stages=stages)
