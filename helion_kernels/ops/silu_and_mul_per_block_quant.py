# SPDX-License-Identifier: Apache-2.0
"""silu_and_mul_per_block_quant: SwiGLU + FP8 quantisation per 128 elements.

    y = silu(input[:, :I]) * input[:, I:]
    scale[m, g] = max(amax |y[m, 128 g : 128 (g + 1)]|, 1e-10) / 448;  out = fp8(y / scale)

Shapes: input [M, 2 I] bf16 (gate, then up), I a multiple of 128; out [M, I] float8_e4m3fn; scale
[M, I / 128] float32, any strides. Bytes: 5 M I + M I / 32.
Source: vLLM `csrc/quantization/fused_kernels/fused_silu_mul_block_quant.cu`.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch

from helion_kernels.fp8 import FP8, GROUP, scale_stride
from helion_kernels.op import Op, Sample, group_config, group_space
from helion_kernels.ops.per_token_group_fp8_quant import group_quant_reference
from helion_kernels.ops.silu_and_mul_dynamic_per_token_quant import silu_and_mul_reference

if TYPE_CHECKING:
    import helion.language as hl


class Dims(NamedTuple):
    intermediate_size: int


def kernel(out: torch.Tensor, input: torch.Tensor, scale: torch.Tensor) -> None:
    num_tokens, intermediate_size = out.size()
    hl.specialize(intermediate_size)
    groups = intermediate_size // 128
    gate_up = input.view(num_tokens, 2, groups, 128)
    out_groups = out.view(num_tokens, groups, 128)
    hl.pdl_launch_dependents()
    hl.pdl_wait()
    for tile_m, tile_g in hl.tile([num_tokens, groups]):
        gate = gate_up[tile_m, 0, tile_g, :].to(torch.float32)
        up = gate_up[tile_m, 1, tile_g, :].to(torch.float32)
        y = gate * torch.sigmoid(gate) * up
        s = torch.clamp(torch.amax(torch.abs(y), dim=-1), min=1e-10) * (1.0 / 448.0)
        scale[tile_m, tile_g] = s
        out_groups[tile_m, tile_g, :] = (y * (1.0 / s)[:, :, None]).to(out.dtype)


def reference(out: torch.Tensor, input: torch.Tensor, scale: torch.Tensor) -> None:
    group_quant_reference(out, silu_and_mul_reference(input), scale)


def sample(dims: Dims, num_tokens: int, make: Sample) -> tuple[torch.Tensor, ...]:
    scales = make.empty((dims.intermediate_size // GROUP, scale_stride(num_tokens)), torch.float32)
    return (
        make.empty((num_tokens, dims.intermediate_size), FP8),
        make.randn((num_tokens, 2 * dims.intermediate_size), torch.bfloat16),
        scales[:, :num_tokens].t(),
    )


OP = Op(
    name="silu_and_mul_per_block_quant",
    schema="(Tensor(a!) out, Tensor input, Tensor(b!) scale, int plan=-1) -> ()",
    kernel=kernel,
    reference=reference,
    dims=Dims,
    dims_of=lambda out, input, scale: Dims(out.shape[1]),
    sample=sample,
    default_config=lambda dims, num_tokens: group_config(dims.intermediate_size, num_tokens),
    space=lambda dims, num_tokens: group_space(dims.intermediate_size, num_tokens),
    bytes_moved=lambda dims, m: (
        5 * m * dims.intermediate_size + 4 * m * (dims.intermediate_size // GROUP)
    ),
)
