# SPDX-License-Identifier: Apache-2.0
"""Sequences in a paged cache for paged_attention, and what is wrong with its outputs.

The reference is PyTorch's attention in float64 over gathered blocks. All of the cache that belongs
to no sequence is poison, and so are blocks that the rest of a block table names.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from helion_kernels import OPS, split_k
from helion_kernels.accuracy import UNDERFLOW, UNIT_ROUNDOFF, WEIGHTS
from helion_kernels.sample import Random

LAYOUTS = ("NHD", "HND", "layers side by side")
NAN, INFINITY = float("nan"), float("inf")


class Sequences(NamedTuple):
    """Plain data, for it travels to other processes."""

    dims: tuple[int, int, int, int]
    """Query heads, key-value heads, head_dim, block_size."""
    lengths: tuple[int, ...]
    layout: str = "NHD"
    poison: float = NAN
    seed: int = 0


def empty_cache(layout: str, blocks: int, dims: tuple[int, int, int, int]) -> torch.Tensor:
    """[blocks, heads, block_size, 2 head_dim] as vLLM shapes it, over memory of that layout."""
    _, heads, d, block_size = dims
    shapes = {
        "NHD": (blocks, block_size, heads, 2 * d),
        "HND": (blocks, heads, block_size, 2 * d),
        "layers side by side": (blocks, 3, heads, block_size, 2 * d),
    }
    whole = torch.empty(shapes[layout], dtype=torch.bfloat16)
    return {"NHD": lambda: whole.transpose(1, 2), "HND": lambda: whole}.get(
        layout, lambda: whole[:, 1]
    )()


def arguments(case: Sequences) -> tuple[Any, ...]:
    """Of the op, outputs poisoned."""
    q_heads, kv_heads, d, block_size = case.dims
    make = Random("cpu", case.seed)
    counts = [-(-length // block_size) for length in case.lengths]
    most, used = max(counts) + 2, sum(counts)
    blocks = used + 3
    cache = empty_cache(case.layout, blocks, case.dims).fill_(case.poison)
    free = make.permutation(blocks, blocks)
    table = free[used:].repeat(len(counts), most)[:, :most].contiguous()
    taken = iter(free[:used].tolist())
    for row, (length, count) in enumerate(zip(case.lengths, counts, strict=True)):
        for i in range(count):
            block = next(taken)
            inside = min(block_size, length - i * block_size)
            values = make.randn((kv_heads, inside, 2 * d), torch.bfloat16)
            cache[block, :, :inside] = values
            table[row, i] = block
    m = len(case.lengths)
    return (
        make.empty((m, q_heads * d)),
        make.randn((m, q_heads * d), torch.bfloat16),
        cache,
        table.to(torch.int32),
        torch.tensor(case.lengths, dtype=torch.int32),
        d**-0.5,
        split_k.workspace("cpu"),
    )


def expected(case: Sequences, args: tuple[Any, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """(outputs in float64, how far from them they may be)."""
    out, q, cache, table, _, scale, _ = args
    q_heads, _, d, block_size = case.dims
    want, magnitude = torch.zeros(2, *out.shape, dtype=torch.double)
    for row, length in enumerate(case.lengths):
        if length == 0:
            continue
        blocks = [cache[block] for block in table[row, : -(-length // block_size)].tolist()]
        keys, values = torch.cat(blocks, dim=1)[:, :length].double().split(d, dim=-1)
        query = q[row].view(q_heads, 1, d).double()
        for to, x in ((want, values), (magnitude, values.abs())):
            mixed = scaled_dot_product_attention(query, keys, x, scale=scale, enable_gqa=True)
            to[row] = mixed.flatten()
    return want, UNIT_ROUNDOFF * want.abs() + WEIGHTS * magnitude + UNDERFLOW


def wrong(
    case: Sequences, calls: list[Callable[..., object]], args: tuple[Any, ...] | None = None
) -> list[str]:
    """What is wrong with what each of calls writes, one after another with one workspace, and with
    what it leaves of the counters. All are to write the same bits.
    """
    args = arguments(case) if args is None else args
    out, _, _, _, _, _, workspace = args
    want, bound = expected(case, args)
    found: list[str] = []
    written: list[torch.Tensor] = []
    for i, call in enumerate(calls):
        out.fill_(NAN)
        call(*args)
        off = ~((out.double() - want).abs() <= bound)
        for row in off.any(1).nonzero().flatten().tolist():
            elements = int(off[row].sum())
            found.append(f"call {i}: {elements} of a sequence of {case.lengths[row]} tokens")
        if workspace[: split_k.COUNTED].any():
            found.append(f"call {i}: counters are left")
        written.append(out.clone().view(torch.int16))
        if not torch.equal(written[0], written[-1]):
            found.append(f"call {i}: other bits than call 0")
    return found


OP = OPS["paged_attention"]
