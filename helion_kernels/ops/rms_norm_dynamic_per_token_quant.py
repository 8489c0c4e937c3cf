# SPDX-License-Identifier: Apache-2.0
"""rms_norm_dynamic_per_token_quant: (residual add +) RMSNorm + per-token FP8 quantisation.

    z = input + residual            (residual <- bf16(z), in place; without residual z = input)
    y = z * rsqrt(mean(z^2) + epsilon) * weight
    scale[m] = max(amax_k |y| / 448, 1 / (448 * 512));  out = fp8(y / scale)

z and y stay in float32, as in what Inductor makes of vLLM's layer: csrc rounds y to bf16 here.
Shapes: input, residual [M, K] bf16; weight [K] bf16; out [M, K] float8_e4m3fn; scale [M, 1]
float32. Bytes: (3 + 4 with residual) M K + 2 K + 4 M. Source: vLLM
`csrc/quantization/fused_kernels/fused_layernorm_dynamic_per_token_quant.cu`.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch

from helion_kernels import pdl
from helion_kernels.fp8 import FP8, FP8_MAX, MIN_TOKEN_SCALE
from helion_kernels.op import Op, Sample, row_reduction_config, row_reduction_space

if TYPE_CHECKING:
    import helion.language as hl


class Dims(NamedTuple):
    hidden_size: int
    residual: bool


def kernel(
    out: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    epsilon: float,
    residual: torch.Tensor | None,
) -> None:
    num_tokens, hidden_size = input.size()
    hl.specialize(hidden_size)
    hl.pdl_launch_dependents()
    for tile_m in hl.tile(num_tokens):
        w = weight[:].to(torch.float32)
        pdl.wait()
        z = input[tile_m, :].to(torch.float32)
        if residual is not None:
            z = z + residual[tile_m, :].to(torch.float32)
            residual[tile_m, :] = z.to(residual.dtype)
        inv_rms = torch.rsqrt(torch.sum(z * z, dim=-1) / hidden_size + epsilon)
        y = z * inv_rms[:, None] * w[None, :]
        s = torch.clamp(torch.amax(torch.abs(y), dim=-1) * (1.0 / 448.0), min=1.0 / 229376.0)
        scale[tile_m, 0] = s
        out[tile_m, :] = (y * (1.0 / s)[:, None]).to(out.dtype)


def rms_norm_reference(
    input: torch.Tensor, weight: torch.Tensor, epsilon: float, residual: torch.Tensor | None
) -> torch.Tensor:
    """y of the formula above in float64; updates residual."""
    z = input.double()
    if residual is not None:
        z = z + residual.double()
        residual.copy_(z.to(torch.float32))
    return z * torch.rsqrt(z.square().mean(-1, keepdim=True) + epsilon) * weight.double()


def reference(
    out: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    epsilon: float,
    residual: torch.Tensor | None,
) -> None:
    y = rms_norm_reference(input, weight, epsilon, residual)
    scale.copy_((y.abs().amax(-1, keepdim=True) / FP8_MAX).clamp(min=MIN_TOKEN_SCALE))
    out.copy_((y / scale.double()).clamp(-FP8_MAX, FP8_MAX).to(torch.float32))


def sample(dims: Dims, num_tokens: int, make: Sample) -> tuple[object, ...]:
    shape = (num_tokens, dims.hidden_size)
    return (
        make.empty(shape, FP8),
        make.randn(shape, torch.bfloat16),
        make.randn((dims.hidden_size,), torch.bfloat16, mean=1.0, std=0.2),
        make.empty((num_tokens, 1), torch.float32),
        1e-6,
        make.randn(shape, torch.bfloat16) if dims.residual else None,
    )


OP = Op(
    name="rms_norm_dynamic_per_token_quant",
    schema="(Tensor(a!) out, Tensor input, Tensor weight, Tensor(b!) scale, float epsilon, "
    "Tensor(c!)? residual=None, int plan=-1) -> ()",
    kernel=kernel,
    reference=reference,
    dims=Dims,
    dims_of=lambda out, input, weight, scale, epsilon, residual: Dims(
        input.shape[1], residual is not None
    ),
    sample=sample,
    default_config=lambda dims, num_tokens: row_reduction_config(dims.hidden_size, num_tokens),
    space=lambda dims, num_tokens: row_reduction_space(dims.hidden_size, num_tokens),
    bytes_moved=lambda dims, m: (
        (3 + 4 * dims.residual) * m * dims.hidden_size + 2 * dims.hidden_size + 4 * m
    ),
)
