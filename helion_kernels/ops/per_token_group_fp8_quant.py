# SPDX-License-Identifier: Apache-2.0
"""per_token_group_fp8_quant: one FP8 scale per token and 128 consecutive elements.

    scale[m, g] = max(amax |input[m, 128 g : 128 (g + 1)]|, 1e-10) / 448
    out[m, k] = fp8(input[m, k] / scale[m, k // 128])

Shapes: input [M, K] bf16, K a multiple of 128; out [M, K] float8_e4m3fn; scale [M, K / 128]
float32 with any strides: `scaled_mm_blockwise` reads (1, M), a column per group, fastest.
Bytes: 3 M K + M K / 32. Source: vLLM `csrc/quantization/w8a8/fp8/per_token_group_quant.cu`.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch

from helion_kernels.fp8 import FP8, FP8_MAX, GROUP, GROUP_EPS, scale_stride
from helion_kernels.op import Op, Sample, group_config, group_space

if TYPE_CHECKING:
    import helion.language as hl


class Dims(NamedTuple):
    hidden_size: int


def kernel(out: torch.Tensor, input: torch.Tensor, scale: torch.Tensor) -> None:
    num_tokens, hidden_size = input.size()
    hl.specialize(hidden_size)
    groups = hidden_size // 128
    x_groups = input.view(num_tokens, groups, 128)
    out_groups = out.view(num_tokens, groups, 128)
    hl.pdl_launch_dependents()
    hl.pdl_wait()
    for tile_m, tile_g in hl.tile([num_tokens, groups]):
        x = x_groups[tile_m, tile_g, :].to(torch.float32)
        s = torch.clamp(torch.amax(torch.abs(x), dim=-1), min=1e-10) * (1.0 / 448.0)
        scale[tile_m, tile_g] = s
        out_groups[tile_m, tile_g, :] = (x * (1.0 / s)[:, :, None]).to(out.dtype)


def group_quant_reference(out: torch.Tensor, y: torch.Tensor, scale: torch.Tensor) -> None:
    """Quantise float64 y [M, K] into out and scale, per the formula above."""
    groups = y.unflatten(-1, (-1, GROUP))
    scale.copy_(groups.abs().amax(-1).clamp(min=GROUP_EPS) / FP8_MAX)
    quotient = (groups / scale.double().unsqueeze(-1)).clamp(-FP8_MAX, FP8_MAX)
    out.copy_(quotient.flatten(-2).to(torch.float32))


def reference(out: torch.Tensor, input: torch.Tensor, scale: torch.Tensor) -> None:
    group_quant_reference(out, input.double(), scale)


def sample(dims: Dims, num_tokens: int, make: Sample) -> tuple[torch.Tensor, ...]:
    scales = make.empty((dims.hidden_size // GROUP, scale_stride(num_tokens)), torch.float32)
    return (
        make.empty((num_tokens, dims.hidden_size), FP8),
        make.randn((num_tokens, dims.hidden_size), torch.bfloat16),
        scales[:, :num_tokens].t(),
    )


OP = Op(
    name="per_token_group_fp8_quant",
    schema="(Tensor(a!) out, Tensor input, Tensor(b!) scale, int plan=-1) -> ()",
    kernel=kernel,
    reference=reference,
    dims=Dims,
    dims_of=lambda out, input, scale: Dims(input.shape[1]),
    sample=sample,
    default_config=lambda dims, num_tokens: group_config(dims.hidden_size, num_tokens),
    space=lambda dims, num_tokens: group_space(dims.hidden_size, num_tokens),
    bytes_moved=lambda dims, m: 3 * m * dims.hidden_size + 4 * m * (dims.hidden_size // GROUP),
)
