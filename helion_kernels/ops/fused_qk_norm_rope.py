# SPDX-License-Identifier: Apache-2.0
"""fused_qk_norm_rope: RMSNorm of every query and key head, then NeoX rotary embedding.

    x = head * rsqrt(mean(head^2) + epsilon) * weight          (q_weight or k_weight)
    out[:h] = x[:h] * cos - x[h:] * sin;  out[h:] = x[h:] * cos + x[:h] * sin,  h = head_dim / 2

Shapes: qkv [M, (Hq + 2 Hkv) D] bf16; q_out [M, Hq D], k_out [M, Hkv D] bf16; q_weight, k_weight
[D] bf16; cos_sin_cache [P, D] bf16 or float32 (cos, then sin); positions [M] int64.
All arithmetic in float32, one rounding at the end. Bytes: 4 M (Hq + Hkv) D + 2 M D.
Source: vLLM `csrc/fused_qknorm_rope_kernel.cu`, which works in place. Outputs of our own let the
query and the key loop run side by side: Helion puts a grid barrier between loops that alias.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch

from helion_kernels import pdl
from helion_kernels.op import Config, Op, Sample, head_config, head_space

if TYPE_CHECKING:
    import helion.language as hl


class Dims(NamedTuple):
    num_q_heads: int
    num_kv_heads: int
    head_dim: int


def norm_rope(
    first: torch.Tensor,
    second: torch.Tensor,
    first_weight: torch.Tensor,
    second_weight: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both halves of some heads, normed and rotated, float32 (inlined by Helion).

    Halves [T, H, D / 2] with cos and sin [T, D / 2], or of one token [..., D / 2] with its cos and
    sin [D / 2]. Weights [D / 2].
    """
    x = first.to(torch.float32)
    y = second.to(torch.float32)
    mean = torch.sum(x * x + y * y, dim=-1) / (2 * first_weight.size(0))
    # unsqueeze and broadcasting: Helion does not lower subscripts in an inlined function.
    inv_rms = torch.rsqrt(mean + epsilon).unsqueeze(-1)
    x = x * inv_rms * first_weight.to(torch.float32)
    y = y * inv_rms * second_weight.to(torch.float32)
    c = cos.to(torch.float32)
    s = sin.to(torch.float32)
    if first.ndim == 3:
        c, s = c.unsqueeze(1), s.unsqueeze(1)
    return x * c - y * s, y * c + x * s


def kernel(
    q_out: torch.Tensor,
    k_out: torch.Tensor,
    qkv: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    positions: torch.Tensor,
    epsilon: float,
) -> None:
    num_tokens = qkv.size(0)
    head_dim = hl.specialize(q_weight.size(0))
    q_heads = hl.specialize(q_out.size(1)) // head_dim
    kv_heads = hl.specialize(k_out.size(1)) // head_dim
    half = head_dim // 2
    heads = qkv.view(num_tokens, q_heads + 2 * kv_heads, 2, half)
    keys = heads[:, q_heads : q_heads + kv_heads]
    q_heads_out = q_out.view(num_tokens, q_heads, 2, half)
    k_heads_out = k_out.view(num_tokens, kv_heads, 2, half)
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
    for tile_t, tile_h in hl.tile([num_tokens, kv_heads]):
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
        k_heads_out[tile_t, tile_h, 0, :] = first.to(k_out.dtype)
        k_heads_out[tile_t, tile_h, 1, :] = second.to(k_out.dtype)


def norm_rope_reference(
    heads: torch.Tensor,
    weight: torch.Tensor,
    cos_sin: torch.Tensor,
    epsilon: float,
) -> torch.Tensor:
    """heads [M, H, D], cos_sin [M, D] -> normed and rotated heads, float64."""
    x = heads.double()
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * weight.double()
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos_sin.double().unsqueeze(1).chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def reference(
    q_out: torch.Tensor,
    k_out: torch.Tensor,
    qkv: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    positions: torch.Tensor,
    epsilon: float,
) -> None:
    q_heads, k_heads = (x.shape[1] // q_weight.shape[0] for x in (q_out, k_out))
    queries, keys, _ = qkv.unflatten(-1, (-1, q_weight.shape[0])).split(
        [q_heads, k_heads, k_heads], dim=1
    )
    cos_sin = cos_sin_cache[positions]
    q_out.copy_(norm_rope_reference(queries, q_weight, cos_sin, epsilon).flatten(1))
    k_out.copy_(norm_rope_reference(keys, k_weight, cos_sin, epsilon).flatten(1))


def qkv_sample(dims: Dims, num_tokens: int, make: Sample) -> tuple[object, ...]:
    """The inputs that both forms of the op share: qkv ... epsilon."""
    q, kv, d = dims
    return (
        make.randn((num_tokens, (q + 2 * kv) * d), torch.bfloat16),
        make.randn((d,), torch.bfloat16, mean=1.0, std=0.2),
        make.randn((d,), torch.bfloat16, mean=1.0, std=0.2),
        make.randn((4096, d), torch.bfloat16, std=0.5),
        make.integers((num_tokens,), 0, 4096),
        1e-6,
    )


def sample(dims: Dims, num_tokens: int, make: Sample) -> tuple[object, ...]:
    return (
        make.empty((num_tokens, dims.num_q_heads * dims.head_dim)),
        make.empty((num_tokens, dims.num_kv_heads * dims.head_dim)),
        *qkv_sample(dims, num_tokens, make),
    )


def default_config(dims: Dims, num_tokens: int) -> Config:
    return head_config(dims.num_q_heads, dims.num_kv_heads, num_tokens)


OP = Op(
    name="fused_qk_norm_rope",
    schema="(Tensor(a!) q_out, Tensor(b!) k_out, Tensor qkv, Tensor q_weight, Tensor k_weight, "
    "Tensor cos_sin_cache, Tensor positions, float epsilon, int plan=-1) -> ()",
    kernel=kernel,
    reference=reference,
    dims=Dims,
    dims_of=lambda q_out, k_out, qkv, q_weight, *_: Dims(
        q_out.shape[1] // q_weight.shape[0], k_out.shape[1] // q_weight.shape[0], q_weight.shape[0]
    ),
    sample=sample,
    default_config=default_config,
    space=lambda dims, num_tokens: head_space(dims.num_q_heads, dims.num_kv_heads, num_tokens),
    bytes_moved=lambda dims, m: (
        m * dims.head_dim * (4 * (dims.num_q_heads + dims.num_kv_heads) + 2)
    ),
)
