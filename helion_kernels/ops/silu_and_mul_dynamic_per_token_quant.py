# SPDX-License-Identifier: Apache-2.0
"""silu_and_mul_dynamic_per_token_quant: SwiGLU + per-token FP8 quantisation.

    y = silu(input[:, :I]) * input[:, I:]
    scale[m] = max(amax |y| / 448, 1 / (448 * 512));  out = fp8(y / scale)

Shapes: input [M, 2 I] bf16 (gate, then up); out [M, I] float8_e4m3fn; scale [M, 1] float32.
Bytes: 5 M I + 4 M. vLLM 0.26.0 has no csrc kernel for this: it runs silu_and_mul, then the quant.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch

from helion_kernels.fp8 import FP8, FP8_MAX, MIN_TOKEN_SCALE
from helion_kernels.op import Op, Sample, row_reduction_config, row_reduction_space

if TYPE_CHECKING:
    import helion.language as hl


class Dims(NamedTuple):
    intermediate_size: int


def kernel(out: torch.Tensor, input: torch.Tensor, scale: torch.Tensor) -> None:
    num_tokens, intermediate_size = out.size()
    hl.specialize(intermediate_size)
    gate_up = input.view(num_tokens, 2, intermediate_size)
    hl.pdl_launch_dependents()
    hl.pdl_wait()
    for tile_m in hl.tile(num_tokens):
        gate = gate_up[tile_m, 0, :].to(torch.float32)
        up = gate_up[tile_m, 1, :].to(torch.float32)
        y = gate * torch.sigmoid(gate) * up
        s = torch.clamp(torch.amax(torch.abs(y), dim=-1) * (1.0 / 448.0), min=1.0 / 229376.0)
        scale[tile_m, 0] = s
        out[tile_m, :] = (y * (1.0 / s)[:, None]).to(out.dtype)


def silu_and_mul_reference(input: torch.Tensor) -> torch.Tensor:
    """y of the formula above in float64."""
    gate, up = input.double().chunk(2, dim=-1)
    return gate * torch.sigmoid(gate) * up


def reference(out: torch.Tensor, input: torch.Tensor, scale: torch.Tensor) -> None:
    y = silu_and_mul_reference(input)
    scale.copy_((y.abs().amax(-1, keepdim=True) / FP8_MAX).clamp(min=MIN_TOKEN_SCALE))
    out.copy_((y / scale.double()).clamp(-FP8_MAX, FP8_MAX).to(torch.float32))


def sample(dims: Dims, num_tokens: int, make: Sample) -> tuple[torch.Tensor, ...]:
    return (
        make.empty((num_tokens, dims.intermediate_size), FP8),
        make.randn((num_tokens, 2 * dims.intermediate_size), torch.bfloat16),
        make.empty((num_tokens, 1), torch.float32),
    )


OP = Op(
    name="silu_and_mul_dynamic_per_token_quant",
    schema="(Tensor(a!) out, Tensor input, Tensor(b!) scale, int plan=-1) -> ()",
    kernel=kernel,
    reference=reference,
    dims=Dims,
    dims_of=lambda out, input, scale: Dims(out.shape[1]),
    sample=sample,
    default_config=lambda dims, num_tokens: row_reduction_config(
        dims.intermediate_size, num_tokens
    ),
    space=lambda dims, num_tokens: row_reduction_space(dims.intermediate_size, num_tokens),
    bytes_moved=lambda dims, m: 5 * m * dims.intermediate_size + 4 * m,
)
