# SPDX-License-Identifier: Apache-2.0
"""paged_attention: attention of a decode step, one query token a sequence, over the paged KV cache.

    out[s, h] = sum_t p[t] v[s, t, h // G]
    p[t] = softmax_t(softmax_scale * q[s, h] . k[s, t, h // G])

over the t < seq_lens[s] tokens of sequence s, whose keys and values are
kv_cache[block_table[s, t // block_size], h // G, t % block_size, 0:D] and [..., D:2D]. A sequence
of no tokens (padding of a CUDA graph) gets zeros.

Shapes: out, q [M, Hq D] bf16; kv_cache [num_blocks, Hkv, block_size, 2 D] bf16 with any strides
that are multiples of 8 and whose last is 1 (vLLM's logical layout; NHD or HND in memory);
block_table [M, blocks] int32, seq_lens [M] int32; workspace: of
`split_k.workspace`. G = Hq / Hkv.
Bytes: 4 D Hkv sum(seq_lens) and, small beside it, 4 M Hq D. Source: vLLM
`csrc/attention/paged_attention_v2.cu`; takes the place of FlashAttention 3's decode.

The tokens of a sequence are dealt evenly to as many programs a KV head as have `least` of them to
read, `splits` at most; programs that are left over end at once. What each found (softmax over its
part, and the logarithm of its sum) goes to the workspace, and the program that arrives last joins
the parts, in their order whoever it is, so that results repeat bit for bit. FlashAttention 3 needs
a second kernel for that (10.0 us at one sequence of 576 tokens).
"""

from typing import TYPE_CHECKING, NamedTuple

import torch

from helion_kernels import pdl, split_k
from helion_kernels.gemm import MULTIPROCESSORS, SHARED
from helion_kernels.kv_cache import flatten
from helion_kernels.op import Config, Op, Sample, power_of_2

if TYPE_CHECKING:
    import helion.language as hl


class Dims(NamedTuple):
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    block_size: int


CONTEXT = 600
"""Tokens of a sequence in samples, on the average."""
VECTOR = 8
"""Elements of 16 bytes."""
SUMS = 1 << 17
"""Words at the end of the workspace, for the logarithms."""
ROOM = split_k.SIZE - split_k.COUNTED - SUMS
"""Words before them, for the parts."""


def kernel(
    out: torch.Tensor,
    q: torch.Tensor,
    flat_cache: torch.Tensor,
    block_size: int,
    stride_block: int,
    stride_head: int,
    stride_slot: int,
    block_table: torch.Tensor,
    seq_lens: torch.Tensor,
    softmax_scale: float,
    partials: torch.Tensor,
    sums: torch.Tensor,
    arrived: torch.Tensor,
) -> None:
    num_seqs, kv_heads, group, head_dim = q.size()
    kv_heads, group, head_dim = hl.specialize((kv_heads, group, head_dim))
    block_size = hl.specialize(block_size)
    splits = hl.register_block_size(1, 64)
    least = hl.register_block_size(64, 4096)
    size_t = hl.register_block_size(16, 128)
    hl.pdl_launch_dependents()
    # Parts that only long sequences have come first, so that what starts last is short.
    for head, seq, behind in hl.grid([kv_heads, num_seqs, splits]):
        split = splits - 1 - behind
        length = seq_lens[seq]
        joined = torch.clamp((length + least - 1) // least, 1, splits).to(torch.int32)
        if split < joined:
            # None is empty, as joined <= splits <= least.
            part = (length + joined - 1) // joined
            begin = split * part
            end = torch.minimum(begin + part, length)
            column = hl.arange(head_dim)
            pdl.wait()
            query = q[seq, head, :, :]
            top = hl.full([group], float("-inf"), dtype=torch.float32)
            total = hl.zeros([group], dtype=torch.float32)
            acc = hl.zeros([group, head_dim], dtype=torch.float32)
            for tile_t in hl.tile(begin, end, block_size=size_t):
                page = block_table[seq, tile_t.index // block_size].to(torch.int64)
                row = page * stride_block + (tile_t.index % block_size) * stride_slot
                offset = (row + head * stride_head)[:, None] * 8 + column[None, :]
                inside = (tile_t.index < end)[:, None]
                key = hl.load(flat_cache, [offset], extra_mask=inside)
                scores = hl.dot(query, key.transpose(0, 1)) * (softmax_scale * 1.4426950408889634)
                scores = torch.where((tile_t.index < end)[None, :], scores, float("-inf"))
                new_top = torch.maximum(top, torch.amax(scores, dim=1))
                weight = torch.exp2(scores - new_top[:, None])
                shrink = torch.exp2(top - new_top)
                total = total * shrink + torch.sum(weight, dim=1)
                value = hl.load(flat_cache, [offset + head_dim], extra_mask=inside)
                acc = hl.dot(weight.to(value.dtype), value, acc=acc * shrink[:, None])
                top = new_top
            if joined > 1:
                partials[split, seq, head, :, :] = acc / total[:, None]
                sums[split, seq, head, :] = top + torch.log2(total)
                before = hl.atomic_add(arrived, [seq, head], 1, sem="acq_rel")
                if before == joined - 1:
                    arrived[seq, head] = 0
                    for tile_s in hl.tile(0, joined, block_size=splits):
                        present = (tile_s.index < joined)[:, None]
                        found = torch.where(present, sums[tile_s, seq, head, :], float("-inf"))
                        share = torch.exp2(found - torch.amax(found, dim=0)[None, :])
                        parts = partials[tile_s, seq, head, :, :] * share[:, :, None]
                        whole = torch.sum(share, dim=0)
                        mixed = torch.sum(parts, dim=0)
                        out[seq, head, :, :] = (mixed / whole[:, None]).to(out.dtype)
            else:
                some = torch.where(total > 0.0, total, 1.0)
                out[seq, head, :, :] = (acc / some[:, None]).to(out.dtype)


def kernel_args(
    out: torch.Tensor, q: torch.Tensor, kv_cache: torch.Tensor, block_table: torch.Tensor,
    seq_lens: torch.Tensor, softmax_scale: float, workspace: torch.Tensor,
) -> tuple[object, ...]:  # fmt: skip
    """The op's arguments -> the kernel's: the cache flat, with its strides in units of 16 bytes.

    So that Triton sees that rows are aligned, and loads 16 bytes at a time. Raises ValueError for
    strides that are no such units; those of a trace are symbols, and a pack says what it assumes.
    """
    *strides, last = kv_cache.stride()
    if any(isinstance(stride, int) and stride % VECTOR for stride in strides) or last != 1:
        raise ValueError(
            f"paged_attention: kv_cache has strides {kv_cache.stride()}; the last must be 1, the "
            f"others multiples of {VECTOR}"
        )
    kv_heads, block_size, head_dim = kv_cache.shape[1], kv_cache.shape[2], kv_cache.shape[3] // 2
    heads = (-1, kv_heads, q.shape[1] // (kv_heads * head_dim), head_dim)
    q, out = q.unflatten(1, heads[1:]), out.unflatten(1, heads[1:])
    num_seqs, _, group, _ = q.shape
    rows = num_seqs * kv_heads * group
    # Of a configuration that splits there is room (`serves`); others use none of it.
    partials = workspace.as_strided(
        (split_k.slots(ROOM // (rows * head_dim)), *q.shape),
        (rows * head_dim, kv_heads * group * head_dim, group * head_dim, head_dim, 1),
        split_k.COUNTED,
    )
    sums = workspace.as_strided(
        (split_k.slots(SUMS // rows), num_seqs, kv_heads, group),
        (rows, kv_heads * group, group, 1),
        split_k.SIZE - SUMS,
    )
    counted = split_k.COUNTED // kv_heads
    arrived = workspace[: counted * kv_heads].view(torch.int32).view(counted, kv_heads)
    return (
        out,
        q,
        flatten(kv_cache),
        block_size,
        *(stride // VECTOR for stride in strides),
        block_table,
        seq_lens,
        softmax_scale,
        partials,
        sums,
        arrived,
    )


def reference(
    out: torch.Tensor, q: torch.Tensor, kv_cache: torch.Tensor, block_table: torch.Tensor,
    seq_lens: torch.Tensor, softmax_scale: float, workspace: torch.Tensor | None = None,
) -> None:  # fmt: skip
    kv_heads, block_size, width = kv_cache.shape[1:]
    queries = q.double().unflatten(1, (kv_heads, -1, width // 2))
    for seq, length in enumerate(seq_lens.tolist()):
        pages = block_table[seq, : -(-length // block_size)].long()
        tokens = kv_cache[pages].double().transpose(1, 2).flatten(0, 1)[:length].transpose(0, 1)
        keys, values = tokens.chunk(2, dim=-1)
        weights = (queries[seq] @ keys.transpose(1, 2) * softmax_scale).softmax(-1)
        out[seq] = (weights @ values).flatten()


def sample(dims: Dims, num_tokens: int, make: Sample) -> tuple[object, ...]:
    q_heads, kv_heads, head_dim, block_size = dims
    blocks = -(-3 * CONTEXT // 2 // block_size)
    # Beyond 256 sequences they share blocks, as with a common prefix: 40 GB would be too much.
    shares = max(1, min(num_tokens, 256)) if isinstance(num_tokens, int) else num_tokens
    num_blocks = blocks * shares
    cache = make.randn((num_blocks, block_size, kv_heads, 2 * head_dim), torch.bfloat16)
    return (
        make.empty((num_tokens, q_heads * head_dim)),
        make.randn((num_tokens, q_heads * head_dim), torch.bfloat16),
        cache.transpose(1, 2),
        make.integers((num_tokens, blocks), 0, num_blocks).to(torch.int32),
        make.integers((num_tokens,), CONTEXT // 2, 3 * CONTEXT // 2).to(torch.int32),
        head_dim**-0.5,
        make.zeros((split_k.SIZE,), torch.float32),
    )


def default_config(dims: Dims, num_tokens: int) -> Config:
    """Splits until two programs share each multiprocessor, and long sequences in any case."""
    idle = 2 * MULTIPROCESSORS // (num_tokens * dims.num_kv_heads)
    splits = min(16, power_of_2(max(4, idle)))
    while not serves(dims, _config(splits, 64, 64, 4, 3), num_tokens):
        splits //= 2
    # On an H100 parts of 1024 tokens were best from 16 sequences on (docs/performance-log.md).
    return _config(splits, 64 if idle >= 8 else 256 if idle >= 2 else 1024, 64, 4, 3)


def space(dims: Dims, num_tokens: int) -> list[Config]:
    """Splits x least tokens of one x tokens of a tile x warps x stages.

    Keys wait for the block table, so that Triton makes a buffer of every other stage only: 3 stages
    have one tile on its way, 5 have two.
    """
    configs = [
        _config(splits, least, tile, warps, stages)
        for splits in (1, 2, 4, 8, 16, 32)
        for least in (64, 128, 256, 512, 1024)
        for tile in (32, 64, 128)
        for warps in (2, 4, 8)
        for stages in (3, 5, 7, 9)
        if tile <= least and 8 <= tile // warps <= 32 and (splits > 1 or least == 1024)
        if 4 * dims.head_dim * tile * (stages // 2) < SHARED
    ]
    most = max(4, 16 * MULTIPROCESSORS // (num_tokens * dims.num_kv_heads))
    return [c for c in configs if c["block_sizes"][0] <= most and serves(dims, c, num_tokens)]


def serves(dims: Dims, config: Config, num_tokens: int) -> bool:
    """Whether what the parts found has room in the workspace."""
    splits = config["block_sizes"][0]
    rows = splits * num_tokens * dims.num_q_heads
    counted = num_tokens * dims.num_kv_heads <= split_k.COUNTED
    return splits == 1 or (counted and rows <= SUMS and rows * dims.head_dim <= ROOM)


def _config(splits: int, least: int, tile: int, warps: int, stages: int) -> Config:
    return Config(block_sizes=[splits, least, tile], num_warps=warps, num_stages=stages)


OP = Op(
    name="paged_attention",
    schema="(Tensor(a!) out, Tensor q, Tensor kv_cache, Tensor block_table, Tensor seq_lens, "
    "float softmax_scale, Tensor workspace, int plan=-1) -> ()",
    kernel=kernel,
    kernel_args=kernel_args,
    reference=reference,
    dims=Dims,
    dims_of=lambda out, q, kv_cache, *_: Dims(
        2 * q.shape[1] // kv_cache.shape[3],
        kv_cache.shape[1],
        kv_cache.shape[3] // 2,
        kv_cache.shape[2],
    ),
    sample=sample,
    default_config=default_config,
    space=space,
    serves=serves,
    multiples=(("kv_cache", VECTOR),),
    most_tokens=512,
    bytes_moved=lambda dims, m: (
        m * dims.head_dim * 4 * (dims.num_q_heads + CONTEXT * dims.num_kv_heads)
    ),
)
