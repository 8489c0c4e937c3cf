# SPDX-License-Identifier: Apache-2.0
"""scaled_mm_blockwise: FP8 GEMM with a scale per token and 128 elements, and per 128 x 128 weights.

    out[m, n] = bf16(sum_g scale_a[m, g] * scale_b[n // 128, g] * sum_{k in g} a[m, k] * b[k, n])

Shapes: a [M, K] float8_e4m3fn, row-major; b [K, N] float8_e4m3fn, column-major; scale_a
[M, K / 128] float32, strides (1, M) fastest; scale_b [ceil(N / 128), K / 128] float32, as Qwen's
checkpoints keep `weight_scale_inv`; out [M, N] bf16. K is a multiple of 128.
Bytes: M K + K N + 2 M N + M K / 32 + K N / 4096; operations: 2 M N K.
Source: DeepSeek-V3 technical report, section 3.3.2; vLLM `w8a8_block_fp8_matmul`.

Each group of 128 leaves the tensor core before it is scaled and added in float32, so that the
tensor core's short accumulator never sees more than 128 products. The scales are loaded a
group ahead: Triton pipelines the operands of a dot only, so that a scale loaded where it is used
makes every group wait for L2 (H100, N = 4096, K = 12288, M = 16: 40 us, floor 17). One group and no
more: Triton does not pipeline a loop whose values live longer.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch

from helion_kernels.fp8 import FP8, GROUP
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
    groups = k // 128
    # At most 128 columns, aligned: they share one weight scale per group. Rows first: configs list
    # block sizes in the order of registration.
    size_m = hl.register_block_size(16, 256)
    size_n = hl.register_block_size(16, 128)
    for tile_m, tile_n in hl.tile([m, n], block_size=[size_m, size_n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        block = tile_n.begin // 128
        scale_m, scale_n = scale_a[tile_m, 0], scale_b[block, 0]
        for tile_k in hl.tile(k, block_size=128):
            following = (tile_k.id + 1) % groups
            next_m, next_n = scale_a[tile_m, following], scale_b[block, following]
            partial = hl.dot(a[tile_m, tile_k], b[tile_k, tile_n])
            acc = acc + partial * (scale_m * scale_n)[:, None]
            scale_m, scale_n = next_m, next_n
        out[tile_m, tile_n] = acc.to(out.dtype)


def reference(
    out: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
) -> None:
    k, n = b.shape
    wide_a = scale_a.double().repeat_interleave(GROUP, dim=1)
    wide_b = scale_b.double().repeat_interleave(GROUP, 0)[:n].repeat_interleave(GROUP, 1)[:, :k]
    out.copy_((a.double() * wide_a) @ (b.double() * wide_b.t()))


def sample(dims: Dims, num_tokens: int, make: Sample) -> tuple[torch.Tensor, ...]:
    groups = dims.k // GROUP
    return (
        make.empty((num_tokens, dims.n), torch.bfloat16),
        make.randn((num_tokens, dims.k), FP8, std=60.0),
        make.randn((dims.n, dims.k), FP8, std=60.0).t(),
        make.uniform((groups, num_tokens), low=1e-3, high=1e-2).t(),
        make.uniform((-(-dims.n // GROUP), groups), low=1e-4, high=1e-3),
    )


def default_config(dims: Dims, num_tokens: int) -> Config:
    return gemm_config(dims.n, dims.k, num_tokens, block_k=None)


OP = Op(
    name="scaled_mm_blockwise",
    schema="(Tensor(a!) out, Tensor a, Tensor b, Tensor scale_a, Tensor scale_b, int plan=-1) "
    "-> ()",
    kernel=kernel,
    reference=reference,
    dims=Dims,
    dims_of=lambda out, a, b, scale_a, scale_b: Dims(b.shape[1], b.shape[0]),
    sample=sample,
    default_config=default_config,
    space=lambda dims, num_tokens: gemm_space(dims.n, dims.k, num_tokens, block_k=None),
    bytes_moved=lambda dims, m: (
        m * dims.k
        + dims.k * dims.n
        + 2 * m * dims.n
        + 4 * (dims.k // GROUP) * (m + dims.n // GROUP)
    ),
    flops=lambda dims, m: 2 * m * dims.n * dims.k,
)
