# SPDX-License-Identifier: Apache-2.0
"""fused_qk_norm_rope_paged_attention: all of a decode step between the qkv GEMM and the o GEMM.

The last T tokens of each sequence: one, or with it the guesses of speculative decoding, which are
checked at once. Their query and key heads are normed and rotated, keys and values go to the paged
KV cache, and their queries attend to all of the sequence up to themselves:

    q, k = bf16(rope(rms_norm(head)))                             (as fused_qk_norm_rope)
    cache[slot // block_size, h, slot % block_size] = (k, v)      slot < 0: skipped
    out[s, i, h] = sum_t p[t] v[s, t, h // G]
    p[t] = softmax_t(softmax_scale * q[s, i, h] . k[s, t, h // G])

over the t <= seq_lens[s] - T + i of sequence s; seq_lens counts the new tokens, too. The others are
read from kv_cache[block_table[s, t // block_size], h // G, t % block_size, 0:D] and [..., D:2D]. A
sequence of no tokens (padding of a CUDA graph) gets zeros.

With `scale`, the output is quantised as by per_token_group_fp8_quant; a head is a group:

    scale[.., h] = max(amax |out[.., h]|, 1e-10) / 448;  out[.., h] = fp8(out[.., h] / scale[.., h])

Shapes, for S sequences: out [S, T, Hq D] bf16; with scale, [S, T, Hq] float32 with any strides,
float8_e4m3fn; kv_cache [num_blocks, Hkv, block_size, 2 D] bf16 with any strides that are multiples
of 8 and whose last is 1 (vLLM's logical layout; NHD or HND in memory); slot_mapping [S, T] int64;
qkv [S, T, (Hq + 2 Hkv) D] bf16; q_weight, k_weight [D] bf16; cos_sin_cache [P, D] bf16 or float32
(cos, then sin); positions [S, T] int64; block_table [S, blocks] int32, seq_lens [S] int32;
workspace: of `split_k.workspace`. Where T is 1, tensors do not have its dimension.
G = Hq / Hkv; where T is more than 1, T and G are powers of 2; D = 128 where scale is given.
Bytes: 4 D Hkv sum(seq_lens) and, small beside it, 4 S T Hq D. Source: vLLM
`csrc/fused_qknorm_rope_kernel.cu`, `csrc/cache_kernels.cu` reshape_and_cache_flash and
`csrc/attention/paged_attention_v2.cu`, one after the other.

The tokens that the cache has are dealt evenly to as many programs a KV head as have `least` of them
to read, `splits` at most; programs that are left over end at once. The last of them has the new
tokens, too, with which its softmax begins. What each found (softmax over its part, and the
logarithm of its sum) goes to the workspace, and the program that arrives last joins the parts, in
their order whoever it is, so that results repeat bit for bit.
"""

from typing import TYPE_CHECKING

import torch

from helion_kernels import attention, pdl, split_k
from helion_kernels.attention import Dims
from helion_kernels.fp8 import FP8, GROUP
from helion_kernels.kv_cache import flatten
from helion_kernels.op import Op, Sample
from helion_kernels.ops.fused_qk_norm_rope import norm_rope, norm_rope_reference
from helion_kernels.ops.per_token_group_fp8_quant import group_quant_reference

if TYPE_CHECKING:
    import helion.language as hl


CONTEXT = 600
"""Tokens of a sequence in samples, on the average."""
VECTOR = 8
"""Elements of 16 bytes."""


def group_scale(x: torch.Tensor) -> torch.Tensor:
    """Of rows of x, a group each (inlined by Helion)."""
    return torch.clamp(torch.amax(torch.abs(x), dim=-1), min=1e-10) * (1.0 / 448.0)


def write(
    out: torch.Tensor, scale: torch.Tensor | None, seq: int, head: int, mixed: torch.Tensor
) -> None:
    """mixed [T, G, D] of a KV head, quantised where there is a scale (inlined by Helion)."""
    if scale is None:
        hl.store(out, [seq, slice(None), head, slice(None), slice(None)], mixed.to(out.dtype))
    else:
        s = group_scale(mixed)
        hl.store(scale, [seq, slice(None), head, slice(None)], s)
        value = (mixed * (1.0 / s)[:, :, None]).to(out.dtype)
        hl.store(out, [seq, slice(None), head, slice(None), slice(None)], value)


def kernel(
    out: torch.Tensor,
    scale: torch.Tensor | None,
    flat_cache: torch.Tensor,
    flat_written: torch.Tensor,
    block_size: int,
    stride_block: int,
    stride_head: int,
    stride_slot: int,
    slot_mapping: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    cos_sin: torch.Tensor,
    positions: torch.Tensor,
    epsilon: float,
    block_table: torch.Tensor,
    seq_lens: torch.Tensor,
    softmax_scale: float,
    partials: torch.Tensor,
    sums: torch.Tensor,
    arrived: torch.Tensor,
) -> None:
    num_seqs, query_len, kv_heads, group, _, half = q.size()
    query_len, kv_heads, group, half = hl.specialize((query_len, kv_heads, group, half))
    head_dim = 2 * half
    queries = query_len * group
    block_size = hl.specialize(block_size)
    splits = hl.register_block_size(1, 64)
    least = hl.register_block_size(32, 4096)
    size_t = hl.register_block_size(16, 128)
    hl.pdl_launch_dependents()
    # Parts that only long sequences have come first, so that what starts last is short.
    for head, seq, behind in hl.grid([kv_heads, num_seqs, splits]):
        split = splits - 1 - behind
        length = seq_lens[seq]
        cached = torch.clamp(length - query_len, min=0)
        joined = torch.clamp((cached + least - 1) // least, 1, splits).to(torch.int32)
        if split < joined:
            # None but the last is empty, as joined <= splits <= 2 least.
            part = (cached + joined - 1) // joined
            begin = split * part
            end = torch.minimum(begin + part, cached)
            newest = (split == joined - 1) & (length > 0)
            position = positions[seq, :]
            cos, sin = cos_sin[position, 0, :], cos_sin[position, 1, :]
            q_first_weight, q_second_weight = q_weight[0, :], q_weight[1, :]
            k_first_weight, k_second_weight = k_weight[0, :], k_weight[1, :]
            column = hl.arange(head_dim).to(torch.int64)
            half_column = hl.arange(half).to(torch.int64)
            # What the cache has was written by earlier steps: its first tile may be asked for now.
            for tile_t in hl.tile(begin, torch.minimum(begin + size_t, end), block_size=size_t):
                page = block_table[seq, tile_t.index // block_size].to(torch.int64)
                row = page * stride_block + (tile_t.index % block_size) * stride_slot
                base = (row + head * stride_head)[:, None] * 8
                pdl.prefetch_rows(flat_cache, base, 2 * head_dim)
            pdl.wait()
            q_first, q_second = norm_rope(
                q[seq, :, head, :, 0, :],
                q[seq, :, head, :, 1, :],
                q_first_weight,
                q_second_weight,
                cos,
                sin,
                epsilon,
            )
            q_first = q_first.to(torch.bfloat16).flatten(0, 1)
            q_second = q_second.to(torch.bfloat16).flatten(0, 1)
            # One query, so that a tile's keys are one load and its page numbers come twice, not
            # three times: H100, 0.2 / 0.7 / 3.5 us of 13.5 / 31.4 / 114.6 at 8 / 32 / 128 tokens.
            query = hl.join(q_first, q_second).permute(0, 2, 1).flatten(1)
            k_first, k_second = norm_rope(
                k[seq, :, head, 0, :],
                k[seq, :, head, 1, :],
                k_first_weight,
                k_second_weight,
                cos,
                sin,
                epsilon,
            )
            k_first, k_second = k_first.to(torch.bfloat16), k_second.to(torch.bfloat16)
            new_value = v[seq, :, head, :]
            log2_scale = softmax_scale * 1.4426950408889634
            if query_len == 1:  # Of a matrix product 15 columns in 16 would be padding.
                products = q_first.to(torch.float32) * k_first.to(torch.float32)
                products += q_second.to(torch.float32) * k_second.to(torch.float32)
                top = torch.sum(products, dim=-1) * log2_scale
                total = hl.full([queries], 1.0, dtype=torch.float32)
                acc = hl.zeros([queries, head_dim], dtype=torch.float32)
                acc = acc + new_value.to(torch.float32)
            else:
                new_key = hl.join(k_first, k_second).permute(0, 2, 1).flatten(1)
                new_scores = hl.dot(query, new_key.transpose(0, 1)) * log2_scale
                token = hl.arange(query_len)
                of_query = hl.zeros([query_len, group], dtype=torch.int32) + token[:, None]
                sees = of_query.flatten(0, 1)[:, None] >= token[None, :]
                new_scores = torch.where(sees, new_scores, float("-inf"))
                top = torch.amax(new_scores, dim=1)
                new_weight = torch.exp2(new_scores - top[:, None])
                total = torch.sum(new_weight, dim=1)
                acc = hl.dot(new_weight.to(torch.bfloat16), new_value)
            top = torch.where(newest, top, float("-inf"))
            total = torch.where(newest, total, 0.0)
            acc = torch.where(newest, acc, 0.0)
            for tile_t in hl.tile(begin, end, block_size=size_t):
                page = block_table[seq, tile_t.index // block_size].to(torch.int64)
                row = page * stride_block + (tile_t.index % block_size) * stride_slot
                base = (row + head * stride_head)[:, None] * 8
                inside = (tile_t.index < end)[:, None]
                key = hl.load(flat_cache, [base + column[None, :]], extra_mask=inside)
                scores = hl.dot(query, key.transpose(0, 1)) * log2_scale
                scores = torch.where((tile_t.index < end)[None, :], scores, float("-inf"))
                new_top = torch.maximum(top, torch.amax(scores, dim=1))
                weight = torch.exp2(scores - new_top[:, None])
                shrink = torch.exp2(top - new_top)
                total = total * shrink + torch.sum(weight, dim=1)
                value = hl.load(
                    flat_cache, [base + (head_dim + column)[None, :]], extra_mask=inside
                )
                acc = hl.dot(weight.to(value.dtype), value, acc=acc * shrink[:, None])
                top = new_top
            slot = slot_mapping[seq, :]
            writes = newest & (slot >= 0)
            slot = torch.where(writes, slot, 0)
            to = (slot // block_size) * stride_block + (slot % block_size) * stride_slot
            to = ((to + head * stride_head) * 8)[:, None]
            writes = writes[:, None]
            hl.store(flat_written, [to + half_column[None, :]], k_first, extra_mask=writes)
            hl.store(
                flat_written, [to + (half + half_column)[None, :]], k_second, extra_mask=writes
            )
            hl.store(
                flat_written, [to + (head_dim + column)[None, :]], new_value, extra_mask=writes
            )
            if joined > 1:
                partials[split, seq, head, :, :] = acc / total[:, None]
                sums[split, seq, head, :] = top + torch.log2(total)
                before = hl.atomic_add(arrived, [seq, head], 1, sem="acq_rel")
                if before == joined - 1:
                    arrived[seq, head] = 0
                    best = hl.full([queries], float("-inf"), dtype=torch.float32)
                    whole = hl.zeros([queries], dtype=torch.float32)
                    joint = hl.zeros([queries, head_dim], dtype=torch.float32)
                    at_once = attention.joined_at_once(splits, queries)
                    for tile_s in hl.tile(0, joined, block_size=at_once):
                        present = (tile_s.index < joined)[:, None]
                        found = torch.where(present, sums[tile_s, seq, head, :], float("-inf"))
                        new_best = torch.maximum(best, torch.amax(found, dim=0))
                        share = torch.exp2(found - new_best[None, :])
                        shrink = torch.exp2(best - new_best)
                        whole = whole * shrink + torch.sum(share, dim=0)
                        parts = partials[tile_s, seq, head, :, :] * share[:, :, None]
                        joint = joint * shrink[:, None] + torch.sum(parts, dim=0)
                        best = new_best
                    mixed = (joint / whole[:, None]).reshape(query_len, -1, head_dim)
                    write(out, scale, seq, head, mixed)
            else:
                mixed = acc / torch.where(total > 0.0, total, 1.0)[:, None]
                write(out, scale, seq, head, mixed.reshape(query_len, -1, head_dim))


def kernel_args(
    out: torch.Tensor, kv_cache: torch.Tensor, slot_mapping: torch.Tensor, qkv: torch.Tensor,
    q_weight: torch.Tensor, k_weight: torch.Tensor, cos_sin_cache: torch.Tensor,
    positions: torch.Tensor, epsilon: float, block_table: torch.Tensor, seq_lens: torch.Tensor,
    softmax_scale: float, workspace: torch.Tensor, scale: torch.Tensor | None,
) -> tuple[object, ...]:  # fmt: skip
    """The op's arguments -> the kernel's: the cache flat, with its strides in units of 16 bytes.

    So that Triton sees that rows are aligned, and loads 16 bytes at a time. The cache comes twice:
    Triton does not let loads run ahead of a store into the tensor that they read. Raises ValueError
    for strides that are no such units; those of a trace are symbols, and a pack says what it
    assumes.
    """
    *strides, last = kv_cache.stride()
    if any(isinstance(stride, int) and stride % VECTOR for stride in strides) or last != 1:
        raise ValueError(
            f"{OP.name}: kv_cache has strides {kv_cache.stride()}; the last must be 1, the "
            f"others multiples of {VECTOR}"
        )
    kv_heads, block_size, d = kv_cache.shape[1], kv_cache.shape[2], kv_cache.shape[3] // 2
    q_size, kv_size = out.shape[-1], kv_heads * d
    heads = (kv_heads, q_size // kv_size)
    if out.ndim == 2:
        out, qkv, positions, slot_mapping = (
            x.unsqueeze(1) for x in (out, qkv, positions, slot_mapping)
        )
        scale = None if scale is None else scale.unsqueeze(1)
    q, k, v = qkv.split([q_size, kv_size, kv_size], dim=2)
    parts = attention.parts(workspace, out.shape[0], kv_heads, out.shape[1] * heads[1], d)
    flat = flatten(kv_cache)
    return (
        out.unflatten(2, (*heads, d)),
        None if scale is None else _by_kv_head(scale, heads[1]),
        flat,
        flat,
        block_size,
        *(stride // VECTOR for stride in strides),
        slot_mapping,
        q.unflatten(2, (*heads, 2, d // 2)),
        k.unflatten(2, (kv_heads, 2, d // 2)),
        v.unflatten(2, (kv_heads, d)),
        q_weight.view(2, d // 2),
        k_weight.view(2, d // 2),
        cos_sin_cache.unflatten(1, (2, d // 2)),
        positions,
        epsilon,
        block_table,
        seq_lens,
        softmax_scale,
        *parts,
    )


def _by_kv_head(scale: torch.Tensor, group: int) -> torch.Tensor:
    """[S, T, Hq] -> [S, T, Hkv, G]. A view of one sequence would choose another stride for S, where
    any will do, and Triton compile a variant for it."""
    s, t, h = scale.stride()
    shape = (*scale.shape[:2], scale.shape[2] // group, group)
    return scale.as_strided(shape, (s, t, h * group, h))


def reference(
    out: torch.Tensor, kv_cache: torch.Tensor, slot_mapping: torch.Tensor, qkv: torch.Tensor,
    q_weight: torch.Tensor, k_weight: torch.Tensor, cos_sin_cache: torch.Tensor,
    positions: torch.Tensor, epsilon: float, block_table: torch.Tensor, seq_lens: torch.Tensor,
    softmax_scale: float, workspace: torch.Tensor | None = None, scale: torch.Tensor | None = None,
) -> None:  # fmt: skip
    kv_heads, block_size, d = kv_cache.shape[1], kv_cache.shape[2], kv_cache.shape[3] // 2
    query_len = 1 if out.ndim == 2 else out.shape[1]
    heads = qkv.view(-1, qkv.shape[-1] // d, d)
    q, k, v = heads.split([heads.shape[1] - 2 * kv_heads, kv_heads, kv_heads], dim=1)
    cos_sin = cos_sin_cache[positions.flatten()]
    q = norm_rope_reference(q, q_weight, cos_sin, epsilon).to(qkv.dtype).double()
    exact = norm_rope_reference(k, k_weight, cos_sin, epsilon)
    new = torch.cat((exact.to(qkv.dtype), v), dim=-1)
    mixed = torch.zeros((len(q), out.shape[-1]), dtype=torch.double, device=out.device)
    for seq, length in enumerate(seq_lens.tolist()):
        if length == 0:
            continue
        rows = range(seq * query_len, (seq + 1) * query_len)
        for row in rows:
            if (slot := int(slot_mapping.flatten()[row])) >= 0:
                place = slot // block_size, slice(None), slot % block_size
                kv_cache[place] = torch.cat((exact[row], v[row]), dim=-1).to(kv_cache.dtype)
        pages = block_table[seq, : -(-length // block_size)].long()
        cached = kv_cache[pages].transpose(1, 2).flatten(0, 1)[: length - query_len]
        for row in rows:  # each sees what is cached, those before it, and itself
            tokens = torch.cat((cached, new[rows[0] : row + 1])).transpose(0, 1)
            keys, values = tokens.double().chunk(2, dim=-1)
            queries = q[row].unflatten(0, (kv_heads, -1))
            weights = (queries @ keys.transpose(1, 2) * softmax_scale).softmax(-1)
            mixed[row] = (weights @ values).flatten()
    mixed = mixed.view(out.shape)
    if scale is None:
        out.copy_(mixed)
    else:
        group_quant_reference(out, mixed, scale)


def sample(dims: Dims, num_seqs: int, make: Sample) -> tuple[object, ...]:
    q_heads, kv_heads, d, block_size, quantised, query_len = dims
    tokens = (num_seqs,) if query_len == 1 else (num_seqs, query_len)
    blocks = -(-3 * CONTEXT // 2 // block_size)
    # Beyond 256 sequences they share blocks, as with a common prefix: 40 GB would be too much.
    shares = max(1, min(num_seqs, 256)) if isinstance(num_seqs, int) else num_seqs
    num_blocks = blocks * shares
    # The new tokens of each are in a block that nothing else reads: blocks above are shared.
    own = num_blocks - 1 + make.integers((num_seqs,), 1, 2).cumsum(0)
    slots = own * block_size + make.integers((num_seqs,), 0, block_size - query_len + 1)
    if query_len > 1:
        slots = slots.unsqueeze(1) + make.integers(tokens, 1, 2).cumsum(1) - 1
    cache = make.randn((num_blocks + num_seqs, block_size, kv_heads, 2 * d), torch.bfloat16)
    cache[num_blocks:].copy_(make.empty((num_seqs, block_size, kv_heads, 2 * d)))
    scale = None
    if quantised:  # groups beside each other in memory, as the GEMM wants them
        scale = make.empty((q_heads * d // GROUP, *tokens), torch.float32).movedim(0, -1)
    return (
        make.empty((*tokens, q_heads * d), FP8 if quantised else torch.bfloat16),
        cache.transpose(1, 2),
        slots,
        make.randn((*tokens, (q_heads + 2 * kv_heads) * d), torch.bfloat16),
        make.randn((d,), torch.bfloat16, mean=1.0, std=0.2),
        make.randn((d,), torch.bfloat16, mean=1.0, std=0.2),
        make.randn((4096, d), torch.bfloat16, std=0.5),
        make.integers(tokens, 0, 4096),
        1e-6,
        make.table(num_seqs, blocks, num_blocks),
        make.integers((num_seqs,), CONTEXT // 2, 3 * CONTEXT // 2).to(torch.int32),
        d**-0.5,
        make.zeros((split_k.SIZE,), torch.float32),
        scale,
    )


OP = Op(
    name="fused_qk_norm_rope_paged_attention",
    schema="(Tensor(a!) out, Tensor(b!) kv_cache, Tensor slot_mapping, Tensor qkv, "
    "Tensor q_weight, Tensor k_weight, Tensor cos_sin_cache, Tensor positions, float epsilon, "
    "Tensor block_table, Tensor seq_lens, float softmax_scale, Tensor workspace, "
    "Tensor(c!)? scale=None, int plan=-1) -> ()",
    kernel=kernel,
    kernel_args=kernel_args,
    reference=reference,
    dims=Dims,
    dims_of=lambda out, kv_cache, *rest: Dims(
        2 * out.shape[-1] // kv_cache.shape[3],
        kv_cache.shape[1],
        kv_cache.shape[3] // 2,
        kv_cache.shape[2],
        rest[-1] is not None,
        1 if out.ndim == 2 else out.shape[1],
    ),
    sample=sample,
    default_config=attention.default_config,
    space=attention.space,
    serves=attention.serves,
    multiples=(("kv_cache", VECTOR),),
    most_tokens=512,
    bytes_moved=lambda dims, m: (
        m * dims.head_dim * 4 * (dims.query_len * dims.num_q_heads + CONTEXT * dims.num_kv_heads)
    ),
)
