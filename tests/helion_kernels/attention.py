# SPDX-License-Identifier: Apache-2.0
"""Sequences in a paged cache for fused_qk_norm_rope_paged_attention, and what is wrong with what it
writes.

The reference is RMSNorm, rotation and PyTorch's attention in float64 over gathered blocks. All of
the cache that belongs to no sequence is poison, and so are blocks that the rest of a block table
names, and the places of the tokens that the op itself writes.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from helion_kernels import OPS, split_k
from helion_kernels.accuracy import Expected, problems
from helion_kernels.fp8 import FP8, FP8_MAX, GROUP, GROUP_EPS
from helion_kernels.sample import Random

OP = OPS["fused_qk_norm_rope_paged_attention"]
LAYOUTS = ("NHD", "HND", "layers side by side")
NAN, INFINITY = float("nan"), float("inf")


class Sequences(NamedTuple):
    """Plain data, for it travels to other processes."""

    dims: tuple[int, int, int, int]
    """Query heads, key-value heads, head_dim, block_size."""
    lengths: tuple[int, ...]
    """New tokens included: none, or so many at least."""
    layout: str = "NHD"
    poison: float = NAN
    seed: int = 0
    quantised: bool = False
    query_len: int = 1
    """New tokens of a sequence."""


class Arguments(NamedTuple):
    """Of the op, in its order."""

    out: torch.Tensor
    kv_cache: torch.Tensor
    slot_mapping: torch.Tensor
    qkv: torch.Tensor
    q_weight: torch.Tensor
    k_weight: torch.Tensor
    cos_sin_cache: torch.Tensor
    positions: torch.Tensor
    epsilon: float
    block_table: torch.Tensor
    seq_lens: torch.Tensor
    softmax_scale: float
    workspace: torch.Tensor
    scale: torch.Tensor | None


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


def arguments(case: Sequences) -> Arguments:
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
    slots = torch.full((len(counts), case.query_len), -1)
    for row, (length, count) in enumerate(zip(case.lengths, counts, strict=True)):
        cached = length - case.query_len
        for i in range(count):
            table[row, i] = block = next(taken)
            inside = max(0, min(block_size, cached - i * block_size))
            cache[block, :, :inside] = make.randn((kv_heads, inside, 2 * d), torch.bfloat16)
        if length:
            new = torch.arange(cached, length)
            slots[row] = table[row, new // block_size] * block_size + new % block_size
    m = (len(counts), case.query_len) if case.query_len > 1 else (len(counts),)
    scale = make.empty((q_heads * d // GROUP, *m), torch.float32).movedim(0, -1)
    return Arguments(
        out=make.empty((*m, q_heads * d), FP8 if case.quantised else torch.bfloat16),
        kv_cache=cache,
        slot_mapping=slots.view(m),
        qkv=make.randn((*m, (q_heads + 2 * kv_heads) * d), torch.bfloat16),
        q_weight=make.randn((d,), torch.bfloat16, mean=1.0, std=0.2),
        k_weight=make.randn((d,), torch.bfloat16, mean=1.0, std=0.2),
        cos_sin_cache=make.randn((100, d), torch.bfloat16, std=0.5),
        # Any, so that nothing takes a length for one.
        positions=make.integers(m, 0, 100),
        epsilon=1e-6,
        block_table=table.to(torch.int32),
        seq_lens=torch.tensor(case.lengths, dtype=torch.int32),
        softmax_scale=d**-0.5,
        workspace=split_k.workspace("cpu"),
        scale=scale if case.quantised else None,
    )


def rotated(heads: torch.Tensor, weight: torch.Tensor, cos_sin: torch.Tensor, epsilon: float):
    """heads [H, D] of one token, cos_sin [D] -> float64."""
    x = rms_norm(heads.double(), weight.shape, weight.double(), epsilon)
    cos, sin = (half.repeat(2) for half in cos_sin.double().chunk(2))
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def expected(case: Sequences, args: Arguments) -> Expected:
    """In the cache's place the keys and values [tokens, Hkv, 2 D] that are to be written."""
    q_heads, kv_heads, d, block_size = case.dims
    m = len(case.lengths) * case.query_len
    want, magnitude = torch.zeros(2, m, q_heads * d, dtype=torch.double)
    written = torch.zeros((m, kv_heads, 2 * d), dtype=torch.double)
    qkv, positions = args.qkv.view(m, -1), args.positions.flatten()
    for seq, length in enumerate(args.seq_lens.tolist()):
        if length == 0:
            continue
        pages = args.block_table[seq, : -(-length // block_size)].tolist()
        cached = torch.cat([args.kv_cache[page] for page in pages], dim=1)
        known = cached[:, : length - case.query_len].double()
        for row in range(seq * case.query_len, (seq + 1) * case.query_len):
            q, k, v = qkv[row].view(-1, d).split([q_heads, kv_heads, kv_heads])
            cos_sin = args.cos_sin_cache[positions[row]]
            query = rotated(q, args.q_weight, cos_sin, args.epsilon).bfloat16().double()
            key = rotated(k, args.k_weight, cos_sin, args.epsilon)
            written[row] = torch.cat((key, v.double()), dim=-1)
            new = torch.cat((key.bfloat16(), v), dim=-1).unsqueeze(1)
            known = torch.cat((known, new.double()), dim=1)
            keys, values = known.split(d, dim=-1)
            for to, x in ((want, values), (magnitude, values.abs())):
                mixed = scaled_dot_product_attention(
                    query.unsqueeze(1), keys, x, scale=args.softmax_scale, enable_gqa=True
                )
                to[row] = mixed.flatten()
    scale = None
    if case.quantised:
        scale = want.unflatten(1, (-1, GROUP)).abs().amax(-1).clamp(min=GROUP_EPS) / FP8_MAX
        want = want / scale.repeat_interleave(GROUP, dim=1)
        scale = scale.view(*args.out.shape[:-1], -1)
    want, magnitude = (x.view(args.out.shape) for x in (want, magnitude))
    return Expected(args._replace(out=want, kv_cache=written, scale=scale), magnitude)


def places(args: Arguments) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(rows, blocks, positions in them) of the tokens that are written."""
    slots, block_size = args.slot_mapping.flatten(), args.kv_cache.shape[2]
    rows = (slots >= 0).nonzero().flatten()
    slots = slots[rows]
    return rows, slots // block_size, slots % block_size


def wrong(
    case: Sequences, calls: list[Callable[..., object]], args: Arguments | None = None
) -> list[str]:
    """What is wrong with what each of calls writes, one after another with one workspace, and with
    what it leaves of the counters. All are to write the same bits.
    """
    args = arguments(case) if args is None else args
    want = expected(case, args)
    rows, blocks, positions = places(args)
    before = args.kv_cache.clone()
    found: list[str] = []
    written: list[torch.Tensor] = []
    for i, call in enumerate(calls):
        for output in (args.out, args.scale):
            if output is not None:
                output.copy_(torch.full(output.shape, NAN))
        args.kv_cache.copy_(before)
        call(*args)
        new = torch.zeros(want.args[1].shape, dtype=args.kv_cache.dtype)
        new[rows] = args.kv_cache[blocks, :, positions]
        found += [f"call {i}: {x}" for x in problems(OP, want, args._replace(kv_cache=new))]
        args.kv_cache[blocks, :, positions] = before[blocks, :, positions]
        if not torch.equal(args.kv_cache.view(torch.int16), before.view(torch.int16)):
            found.append(f"call {i}: writes elsewhere in the cache")
        if args.workspace[: split_k.COUNTED].any():
            found.append(f"call {i}: counters are left")
        bits = (
            x.contiguous().view(torch.uint8) for x in (args.out, args.scale, new) if x is not None
        )
        written.append(torch.cat([x.flatten() for x in bits]))
        if not torch.equal(written[0], written[-1]):
            found.append(f"call {i}: other bits than call 0")
    return found
