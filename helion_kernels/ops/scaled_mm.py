# SPDX-License-Identifier: Apache-2.0
"""scaled_mm: FP8 GEMM with per-token and per-channel scales.

    out[m, n] = bf16(scale_a[m] * scale_b[n] * sum_k a[m, k] * b[k, n])

Shapes: a [M, K] float8_e4m3fn, row-major; b [K, N] float8_e4m3fn, column-major (the transposed view
of an [N, K] weight); scale_a [M, 1], scale_b [N, 1] float32; out [M, N] bf16.
Bytes: M K + K N + 2 M N + 4 (M + N); operations: 2 M N K. Source: vLLM `cutlass_scaled_mm`.

Accumulation: a Hopper FP8 WGMMA keeps about 14 bits of its sum, and Triton lets it run over all of
K unless told otherwise. Each K tile is therefore summed from zero and added in float32 outside the
tensor core, which bounds the error at every K (tests/helion_kernels/test_accumulation.py).
"""

from typing import TYPE_CHECKING, NamedTuple

import torch

from helion_kernels.fp8 import FP8
from helion_kernels.op import Config, Op, Sample, gemm_config, gemm_space

if TYPE_CHECKING:
    import helion.language as hl


class Dims(NamedTuple):
    n: int
    k: int


def kernel(
    out: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
) -> None:
    m, k = a.size()
    n = b.size(1)
    hl.specialize((k, n))
    for tile_m, tile_n in hl.tile([m, n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k):
            acc = acc + hl.dot(a[tile_m, tile_k], b[tile_k, tile_n])
        scaled = acc * scale_a[tile_m, 0][:, None] * scale_b[tile_n, 0][None, :]
        out[tile_m, tile_n] = scaled.to(out.dtype)


def reference(
    out: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
) -> None:
    exact = a.double() @ b.double()
    out.copy_(exact * scale_a.double() * scale_b.double().t())


def sample(dims: Dims, num_tokens: int, make: Sample) -> tuple[torch.Tensor, ...]:
    return (
        make.empty((num_tokens, dims.n), torch.bfloat16),
        make.randn((num_tokens, dims.k), FP8, std=60.0),
        make.randn((dims.n, dims.k), FP8, std=60.0).t(),
        make.uniform((num_tokens, 1), low=1e-3, high=1e-2),
        make.uniform((dims.n, 1), low=1e-4, high=1e-3),
    )


def default_config(dims: Dims, num_tokens: int) -> Config:
    return gemm_config(dims.n, dims.k, num_tokens)


OP = Op(
    name="scaled_mm",
    schema="(Tensor(a!) out, Tensor a, Tensor b, Tensor scale_a, Tensor scale_b, int plan=-1) "
    "-> ()",
    kernel=kernel,
    reference=reference,
    dims=Dims,
    dims_of=lambda out, a, b, scale_a, scale_b: Dims(b.shape[1], b.shape[0]),
    sample=sample,
    default_config=default_config,
    space=lambda dims, num_tokens: gemm_space(dims.n, dims.k, num_tokens),
    bytes_moved=lambda dims, m: m * dims.k + dims.k * dims.n + 2 * m * dims.n + 4 * (m + dims.n),
    flops=lambda dims, m: 2 * m * dims.n * dims.k,
)
