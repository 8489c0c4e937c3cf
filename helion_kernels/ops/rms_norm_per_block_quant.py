# SPDX-License-Identifier: Apache-2.0
"""rms_norm_per_block_quant: (residual add +) RMSNorm + FP8 quantisation per 128 elements.

    z = input + residual            (residual <- bf16(z), in place; without residual z = input)
    y = z * rsqrt(mean(z^2) + epsilon) * weight
    scale[m, g] = max(amax |y[m, 128 g : 128 (g + 1)]|, 1e-10) / 448;  out = fp8(y / scale)

Shapes: input, residual [M, K] bf16, K a multiple of 128; weight [K] bf16; out [M, K]
float8_e4m3fn; scale [M, K / 128] float32, any strides. Bytes: (3 + 4 with residual) M K + M K / 32.
Source: vLLM `csrc/quantization/fused_kernels/fused_layernorm_dynamic_per_token_quant.cu`.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch

from helion_kernels import pdl
from helion_kernels.fp8 import FP8, GROUP, scale_stride
from helion_kernels.op import Op, Sample, row_reduction_config, row_reduction_space
from helion_kernels.ops.per_token_group_fp8_quant import group_quant_reference
from helion_kernels.ops.rms_norm_dynamic_per_token_quant import rms_norm_reference

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
    # 3-d (token, group, element) and 2-d views: groups stay static, both reductions in registers.
    num_tokens, groups, group_size = input.size()
    hl.specialize((groups, group_size))
    hl.pdl_launch_dependents()
    for tile_m in hl.tile(num_tokens):
        w = weight[:, :].to(torch.float32)
        pdl.wait()
        z = input[tile_m, :, :].to(torch.float32)
        if residual is not None:
            z = z + residual[tile_m, :, :].to(torch.float32)
            residual[tile_m, :, :] = z.to(residual.dtype)
        square = torch.sum(torch.sum(z * z, dim=-1), dim=-1)
        inv_rms = torch.rsqrt(square / (groups * group_size) + epsilon)
        y = z * inv_rms[:, None, None] * w[None, :, :]
        s = torch.clamp(torch.amax(torch.abs(y), dim=-1), min=1e-10) * (1.0 / 448.0)
        scale[tile_m, :] = s
        out[tile_m, :, :] = (y * (1.0 / s)[:, :, None]).to(out.dtype)


def group_views(
    out: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    epsilon: float,
    residual: torch.Tensor | None,
) -> tuple[object, ...]:
    """The op's arguments -> the kernel's: rows split into groups."""
    num_tokens, hidden_size = input.shape
    shape = (num_tokens, hidden_size // GROUP, GROUP)
    return (
        out.view(shape),
        input.view(shape),
        weight.view(shape[1:]),
        scale,
        epsilon,
        None if residual is None else residual.view(shape),
    )


def reference(
    out: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    epsilon: float,
    residual: torch.Tensor | None,
) -> None:
    group_quant_reference(out, rms_norm_reference(input, weight, epsilon, residual), scale)


def sample(dims: Dims, num_tokens: int, make: Sample) -> tuple[object, ...]:
    shape = (num_tokens, dims.hidden_size)
    scales = make.empty((dims.hidden_size // GROUP, scale_stride(num_tokens)), torch.float32)
    return (
        make.empty(shape, FP8),
        make.randn(shape, torch.bfloat16),
        make.randn((dims.hidden_size,), torch.bfloat16, mean=1.0, std=0.2),
        scales[:, :num_tokens].t(),
        1e-6,
        make.randn(shape, torch.bfloat16) if dims.residual else None,
    )


OP = Op(
    name="rms_norm_per_block_quant",
    schema="(Tensor(a!) out, Tensor input, Tensor weight, Tensor(b!) scale, float epsilon, "
    "Tensor(c!)? residual=None, int plan=-1) -> ()",
    kernel=kernel,
    kernel_args=group_views,
    reference=reference,
    dims=Dims,
    dims_of=lambda out, input, weight, scale, epsilon, residual: Dims(
        input.shape[1], residual is not None
    ),
    sample=sample,
    default_config=lambda dims, num_tokens: row_reduction_config(dims.hidden_size, num_tokens),
    space=lambda dims, num_tokens: row_reduction_space(dims.hidden_size, num_tokens),
    bytes_moved=lambda dims, m: (
        (3 + 4 * dims.residual) * m * dims.hidden_size + 4 * m * (dims.hidden_size // GROUP)
    ),
)
