# SPDX-License-Identifier: Apache-2.0
"""fused_qk_norm_rope_kv_write: fused_qk_norm_rope whose keys and values go to the paged KV cache.

Queries are normed and rotated into q_out; keys are normed, rotated and written to the cache, values
copied there: attention reads them from the cache.

    cache[slot // block_size, h, slot % block_size, 0:D] = k;  [..., D:2D] = v;  slot < 0: skipped

Shapes: as fused_qk_norm_rope, and kv_cache [num_blocks, Hkv, block_size, 2 D] bf16 with any
strides whose last is 1 (vLLM's logical layout; NHD or HND in memory), slot_mapping [S] int64 with
S <= M: tokens past S are padding and write nothing.
Bytes: 4 M Hq D + 8 M Hkv D + 2 M D. Source: vLLM `csrc/fused_qknorm_rope_kernel.cu` followed
by `csrc/cache_kernels.cu` reshape_and_cache_flash.
"""

from typing import TYPE_CHECKING

import torch

from helion_kernels import pdl
from helion_kernels.kv_cache import flatten
from helion_kernels.op import Config, Op, Sample, head_config, head_space
from helion_kernels.ops.fused_qk_norm_rope import (
    Dims,
    norm_rope,
    norm_rope_reference,
    qkv_sample,
)

if TYPE_CHECKING:
    import helion.language as hl


def kernel(
    q_out: torch.Tensor,
    flat_cache: torch.Tensor,
    block_size: int,
    stride_block: int,
    stride_head: int,
    stride_slot: int,
    slot_mapping: torch.Tensor,
    qkv: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    positions: torch.Tensor,
    epsilon: float,
) -> None:
    num_tokens = qkv.size(0)
    num_slots = slot_mapping.size(0)
    head_dim = hl.specialize(q_weight.size(0))
    q_heads = hl.specialize(q_out.size(1)) // head_dim
    kv_heads = (hl.specialize(qkv.size(1)) // head_dim - q_heads) // 2
    half = head_dim // 2
    heads = qkv.view(num_tokens, q_heads + 2 * kv_heads, 2, half)
    keys = heads[:, q_heads : q_heads + kv_heads]
    values = heads[:, q_heads + kv_heads :]
    q_heads_out = q_out.view(num_tokens, q_heads, 2, half)
    cos_sin = cos_sin_cache.view(cos_sin_cache.size(0), 2, half)
    q_w = q_weight.view(2, half)
    k_w = k_weight.view(2, half)
    hl.pdl_launch_dependents()
    for tile_t, tile_h in hl.tile([num_tokens, q_heads]):
        position = positions[tile_t]
        w_first, w_second = q_w[0, :], q_w[1, :]
        cos, sin = cos_sin[position, 0, :], cos_sin[position, 1, :]
        pdl.wait()
        first, second = norm_rope(
            heads[tile_t, tile_h, 0, :],
            heads[tile_t, tile_h, 1, :],
            w_first,
            w_second,
            cos,
            sin,
            epsilon,
        )
        q_heads_out[tile_t, tile_h, 0, :] = first.to(q_out.dtype)
        q_heads_out[tile_t, tile_h, 1, :] = second.to(q_out.dtype)
    for tile_t, tile_h in hl.tile([num_slots, kv_heads]):
        position = positions[tile_t]
        w_first, w_second = k_w[0, :], k_w[1, :]
        cos, sin = cos_sin[position, 0, :], cos_sin[position, 1, :]
        pdl.wait()
        first, second = norm_rope(
            keys[tile_t, tile_h, 0, :],
            keys[tile_t, tile_h, 1, :],
            w_first,
            w_second,
            cos,
            sin,
            epsilon,
        )
        slot = slot_mapping[tile_t]
        writes = slot >= 0
        slot = torch.where(writes, slot, 0)
        row = (slot // block_size) * stride_block + (slot % block_size) * stride_slot
        base = row[:, None, None] + (tile_h.index.to(torch.int64) * stride_head)[None, :, None]
        offset = base + hl.arange(half)[None, None, :]
        mask = writes[:, None, None]
        key = first.to(flat_cache.dtype)
        hl.store(flat_cache, [offset], key, extra_mask=mask)
        key = second.to(flat_cache.dtype)
        hl.store(flat_cache, [offset + half], key, extra_mask=mask)
        value = values[tile_t, tile_h, 0, :].to(flat_cache.dtype)
        hl.store(flat_cache, [offset + head_dim], value, extra_mask=mask)
        value = values[tile_t, tile_h, 1, :].to(flat_cache.dtype)
        hl.store(flat_cache, [offset + head_dim + half], value, extra_mask=mask)


def kernel_args(q_out: torch.Tensor, kv_cache: torch.Tensor, *rest: object) -> tuple[object, ...]:
    """The op's arguments -> the kernel's: the cache as a flat view, its block size and strides."""
    flat, (*strides, _) = flatten(kv_cache), kv_cache.stride()
    return (q_out, flat, kv_cache.shape[2], *strides, *rest)


def reference(
    q_out: torch.Tensor,
    kv_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    qkv: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    positions: torch.Tensor,
    epsilon: float,
) -> None:
    q_heads, kv_heads = q_out.shape[1] // q_weight.shape[0], kv_cache.shape[1]
    queries, keys, values = qkv.unflatten(-1, (-1, q_weight.shape[0])).split(
        [q_heads, kv_heads, kv_heads], dim=1
    )
    cos_sin = cos_sin_cache[positions]
    q_out.copy_(norm_rope_reference(queries, q_weight, cos_sin, epsilon).flatten(1))
    rotated = norm_rope_reference(keys, k_weight, cos_sin, epsilon).to(kv_cache.dtype)
    for token, slot in enumerate(slot_mapping.tolist()):
        if slot >= 0:
            block, position = divmod(slot, kv_cache.shape[2])
            kv_cache[block, :, position] = torch.cat((rotated[token], values[token]), dim=-1)


def sample(dims: Dims, num_tokens: int, make: Sample) -> tuple[object, ...]:
    block_size = 16
    num_blocks = -(-num_tokens // block_size) + 1
    cache = make.empty((num_blocks, block_size, dims.num_kv_heads, 2 * dims.head_dim))
    return (
        make.empty((num_tokens, dims.num_q_heads * dims.head_dim)),
        cache.transpose(1, 2),
        make.permutation(num_tokens, num_blocks * block_size),
        *qkv_sample(dims, num_tokens, make),
    )


def default_config(dims: Dims, num_tokens: int) -> Config:
    return head_config(dims.num_q_heads, dims.num_kv_heads, num_tokens)


OP = Op(
    name="fused_qk_norm_rope_kv_write",
    schema="(Tensor(a!) q_out, Tensor(b!) kv_cache, Tensor slot_mapping, Tensor qkv, "
    "Tensor q_weight, Tensor k_weight, Tensor cos_sin_cache, Tensor positions, float epsilon, "
    "int plan=-1) -> ()",
    kernel=kernel,
    kernel_args=kernel_args,
    reference=reference,
    dims=Dims,
    dims_of=lambda q_out, kv_cache, slot_mapping, qkv, q_weight, *_: Dims(
        q_out.shape[1] // q_weight.shape[0], kv_cache.shape[1], q_weight.shape[0]
    ),
    sample=sample,
    default_config=default_config,
    space=lambda dims, num_tokens: head_space(dims.num_q_heads, dims.num_kv_heads, num_tokens),
    bytes_moved=lambda dims, m: (
        m * dims.head_dim * (4 * dims.num_q_heads + 8 * dims.num_kv_heads + 2)
    ),
)
