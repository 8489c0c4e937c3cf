# SPDX-License-Identifier: Apache-2.0
"""The ops as eager PyTorch code, for Inductor: what vLLM's layers write in their place.

Formulas are vLLM's native ones (ir/ops/layernorm.py, SiluAndMul, QuantFP8, ApplyRotaryEmb), and as
there results are new tensors: Inductor fuses worse what must be stored in an argument. Intermediate
values stay in float32, since Inductor keeps them there whatever the code says: the roundings to
bf16 in between would cost nothing and blur the comparison with the reference.

A function takes its op's arguments and returns what the op writes, in the order of its outputs;
None for what it wrote in place.
"""

from collections.abc import Callable

import torch
from torch.nn.functional import silu

from helion_kernels.fp8 import FP8, FP8_MAX, GROUP, GROUP_EPS, MIN_TOKEN_SCALE

Outputs = tuple[torch.Tensor | None, ...]


def _to_fp8(quotient: torch.Tensor) -> torch.Tensor:
    return quotient.clamp(-FP8_MAX, FP8_MAX).to(FP8)


def _quant_per_token(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = (x.abs().amax(-1, keepdim=True) / FP8_MAX).clamp(min=MIN_TOKEN_SCALE)
    return _to_fp8(x * scale.reciprocal()), scale


def _quant_per_group(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales with a column per group, as the GEMM reads them."""
    groups = x.unflatten(-1, (-1, GROUP))
    scale = groups.abs().amax(-1, keepdim=True).clamp(min=GROUP_EPS) / FP8_MAX
    return _to_fp8(groups / scale).flatten(-2), scale.squeeze(-1).t().contiguous().t()


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * weight.float()


def _add_rms_norm(
    input: torch.Tensor, weight: torch.Tensor, epsilon: float, residual: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(normed, float32; the new residual)"""
    total = input.float()
    if residual is not None:
        total = total + residual.float()
        residual = total.to(residual.dtype)
    return _rms_norm(total, weight, epsilon), residual


def _silu_and_mul(input: torch.Tensor) -> torch.Tensor:
    gate, up = input.float().chunk(2, dim=-1)
    return silu(gate) * up


def _heads(qkv: torch.Tensor, q_heads: int, d: int) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values, [M, heads, D]."""
    heads = qkv.unflatten(-1, (-1, d))
    kv_heads = (heads.shape[1] - q_heads) // 2
    return heads.split([q_heads, kv_heads, kv_heads], dim=1)


def _norm_rope(
    heads: torch.Tensor, weight: torch.Tensor, cos_sin: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """heads [M, H, D], cos_sin [M, D]."""
    first, second = _rms_norm(heads.float(), weight, epsilon).chunk(2, dim=-1)
    cos, sin = cos_sin.unsqueeze(1).float().chunk(2, dim=-1)
    halves = first * cos - second * sin, second * cos + first * sin
    # Rounded before they are joined: Inductor would write and read the whole in float32.
    return torch.cat([half.to(heads.dtype) for half in halves], dim=-1)


def dynamic_per_token_scaled_fp8_quant(
    out: torch.Tensor, input: torch.Tensor, scale: torch.Tensor
) -> Outputs:
    return _quant_per_token(input.float())


def per_token_group_fp8_quant(
    out: torch.Tensor, input: torch.Tensor, scale: torch.Tensor
) -> Outputs:
    return _quant_per_group(input.float())


def rms_norm_dynamic_per_token_quant(
    out: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    epsilon: float,
    residual: torch.Tensor | None,
) -> Outputs:
    normed, residual = _add_rms_norm(input, weight, epsilon, residual)
    return (*_quant_per_token(normed), residual)


def rms_norm_per_block_quant(
    out: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    epsilon: float,
    residual: torch.Tensor | None,
) -> Outputs:
    normed, residual = _add_rms_norm(input, weight, epsilon, residual)
    return (*_quant_per_group(normed), residual)


def silu_and_mul_dynamic_per_token_quant(
    out: torch.Tensor, input: torch.Tensor, scale: torch.Tensor
) -> Outputs:
    return _quant_per_token(_silu_and_mul(input))


def silu_and_mul_per_block_quant(
    out: torch.Tensor, input: torch.Tensor, scale: torch.Tensor
) -> Outputs:
    return _quant_per_group(_silu_and_mul(input))


def fused_qk_norm_rope(
    q_out: torch.Tensor,
    k_out: torch.Tensor,
    qkv: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    positions: torch.Tensor,
    epsilon: float,
) -> Outputs:
    queries, keys, _ = _heads(qkv, q_out.shape[1] // q_weight.shape[0], q_weight.shape[0])
    cos_sin = cos_sin_cache.index_select(0, positions)
    return (
        _norm_rope(queries, q_weight, cos_sin, epsilon).flatten(1),
        _norm_rope(keys, k_weight, cos_sin, epsilon).flatten(1),
    )


def fused_qk_norm_rope_kv_write(
    q_out: torch.Tensor,
    kv_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    qkv: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    positions: torch.Tensor,
    epsilon: float,
) -> Outputs:
    """For slots of which none is negative: skipping those would only make it slower."""
    queries, keys, values = _heads(qkv, q_out.shape[1] // q_weight.shape[0], q_weight.shape[0])
    cos_sin = cos_sin_cache.index_select(0, positions)
    keys = _norm_rope(keys, k_weight, cos_sin, epsilon)
    new = torch.cat((keys, values), dim=-1)[: slot_mapping.shape[0]]
    block_size = kv_cache.shape[2]
    kv_cache[slot_mapping // block_size, :, slot_mapping % block_size] = new
    return _norm_rope(queries, q_weight, cos_sin, epsilon).flatten(1), None


EAGER: dict[str, Callable[..., Outputs]] = {
    function.__name__: function
    for function in (
        dynamic_per_token_scaled_fp8_quant,
        per_token_group_fp8_quant,
        rms_norm_dynamic_per_token_quant,
        rms_norm_per_block_quant,
        silu_and_mul_dynamic_per_token_quant,
        silu_and_mul_per_block_quant,
        fused_qk_norm_rope,
        fused_qk_norm_rope_kv_write,
    )
}
"""By op. The GEMMs have none: vLLM's graphs call CUTLASS or DeepGEMM for them. Nor has attention,
at which vLLM's graphs are split."""
