# SPDX-License-Identifier: Apache-2.0
"""dynamic_per_token_scaled_fp8_quant: one FP8 scale per token.

    scale[m] = max(amax_k |input[m, k]| / 448, 1 / (448 * 512))
    out[m, k] = fp8(input[m, k] / scale[m])

Shapes: input [M, K] bf16, rows contiguous; out [M, K] float8_e4m3fn; scale [M, 1] float32.
Bytes: 3 M K + 4 M. Source: vLLM `csrc/quantization/w8a8/fp8/common.cu`.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch

from helion_kernels.fp8 import FP8, FP8_MAX, MIN_TOKEN_SCALE
from helion_kernels.op import Op, Sample, row_reduction_config, row_reduction_space

if TYPE_CHECKING:
    import helion.language as hl


class Dims(NamedTuple):
    hidden_size: int


def kernel(out: torch.Tensor, input: torch.Tensor, scale: torch.Tensor) -> None:
    num_tokens, hidden_size = input.size()
    hl.specialize(hidden_size)
    hl.pdl_launch_dependents()
    hl.pdl_wait()
    for tile_m in hl.tile(num_tokens):
        x = input[tile_m, :].to(torch.float32)
        s = torch.clamp(torch.amax(torch.abs(x), dim=-1) * (1.0 / 448.0), min=1.0 / 229376.0)
        scale[tile_m, 0] = s
        out[tile_m, :] = (x * (1.0 / s)[:, None]).to(out.dtype)


def reference(out: torch.Tensor, input: torch.Tensor, scale: torch.Tensor) -> None:
    x = input.double()
    scale.copy_((x.abs().amax(-1, keepdim=True) / FP8_MAX).clamp(min=MIN_TOKEN_SCALE))
    out.copy_((x / scale.double()).clamp(-FP8_MAX, FP8_MAX).to(torch.float32))


def sample(dims: Dims, num_tokens: int, make: Sample) -> tuple[torch.Tensor, ...]:
    return (
        make.empty((num_tokens, dims.hidden_size), FP8),
        make.randn((num_tokens, dims.hidden_size), torch.bfloat16),
        make.empty((num_tokens, 1), torch.float32),
    )


OP = Op(
    name="dynamic_per_token_scaled_fp8_quant",
    schema="(Tensor(a!) out, Tensor input, Tensor(b!) scale, int plan=-1) -> ()",
    kernel=kernel,
    reference=reference,
    dims=Dims,
    dims_of=lambda out, input, scale: Dims(input.shape[1]),
    sample=sample,
    default_config=lambda dims, num_tokens: row_reduction_config(dims.hidden_size, num_tokens),
    space=lambda dims, num_tokens: row_reduction_space(dims.hidden_size, num_tokens),
    bytes_moved=lambda dims, m: 3 * m * dims.hidden_size + 4 * m,
)
