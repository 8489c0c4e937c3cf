# SPDX-License-Identifier: Apache-2.0
"""scaled_mm_blockwise: FP8 GEMM with a scale per token and 128 elements, and per 128 x 128 weights.

    out[m, n] = bf16(sum_g scale_a[m, g] * scale_b[n // 128, g] * sum_{k in g} a[m, k] * b[k, n])

Shapes: a [M, K] float8_e4m3fn, row-major; b [K, N] float8_e4m3fn, column-major; scale_a
[M, K / 128] float32, strides (1, M) fastest; scale_b [ceil(N / 128), K / 128] float32, as Qwen's
checkpoints keep `weight_scale_inv`; out [M, N] bf16; workspace: of `split_k.workspace`. K is a
multiple of 128.
Bytes: M K + K N + 2 M N + M K / 32 + K N / 4096; operations: 2 M N K.
Source: DeepSeek-V3 technical report, section 3.3.2; vLLM `w8a8_block_fp8_matmul`.

Operands are swapped, as in scaled_mm. Each group of 128 leaves the tensor core before it is scaled
and added in float32, so that the tensor core's short accumulator never sees more than 128 products.
The scales are loaded a group ahead: Triton pipelines the operands of a dot only, so that a scale
loaded where it is used makes every group wait for L2 (H100, 16 tokens, 4096 x 4096: 16.4 us, ahead
12.6). One group and no more: Triton does not pipeline a loop whose values live longer.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch

from helion_kernels import gemm, pdl, split_k
from helion_kernels.fp8 import FP8, GROUP
from helion_kernels.op import Op, Sample

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
    partials: torch.Tensor,
    arrived: torch.Tensor,
) -> None:
    m, k = a.size()
    n = b.size(1)
    hl.specialize((k, n))
    weight, tokens = b.t(), a.t()
    groups = k // 128
    size_m = hl.register_block_size(16, m)
    # At most 128 rows of weights, aligned: they share one scale per group.
    size_n = hl.register_block_size(16, 128)
    size_part = hl.register_block_size(512, 65536)
    splits = (k + size_part - 1) // size_part
    for tile_m, tile_n, part in hl.tile([m, n, k], block_size=[size_m, size_n, size_part]):
        pdl.prefetch(weight, torch.clamp(tile_n.index, max=n - 1), k, part.begin)
        pdl.wait()
        acc = hl.zeros([tile_n, tile_m], dtype=torch.float32)
        block, first = tile_n.begin // 128, part.begin // 128
        scale_m, scale_n = scale_a[tile_m, first], scale_b[block, first]
        for tile_k in hl.tile(part.begin, part.end, block_size=128):
            following = (tile_k.begin // 128 + 1) % groups
            next_m, next_n = scale_a[tile_m, following], scale_b[block, following]
            partial = hl.dot(weight[tile_n, tile_k], tokens[tile_k, tile_m])
            acc = acc + partial * (scale_m * scale_n)[None, :]
            scale_m, scale_n = next_m, next_n
        pdl.launch_dependents()
        if splits > 1:
            partials[part.id, tile_n, tile_m] = acc
            before = hl.atomic_add(arrived, [tile_m.id, tile_n.id], 1, sem="acq_rel")
            if before == splits - 1:
                arrived[tile_m.id, tile_n.id] = 0
                total = hl.zeros([tile_n, tile_m], dtype=torch.float32)
                for i in hl.grid(splits):
                    total = total + partials[i, tile_n, tile_m]
                out[tile_m, tile_n] = total.to(out.dtype).transpose(0, 1)
        else:
            out[tile_m, tile_n] = acc.to(out.dtype).transpose(0, 1)
    hl.pdl_launch_dependents()


def reference(
    out: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    workspace: torch.Tensor | None = None,
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
        make.zeros((split_k.SIZE,), torch.float32),
    )


OP = Op(
    name="scaled_mm_blockwise",
    schema="(Tensor(a!) out, Tensor a, Tensor b, Tensor scale_a, Tensor scale_b, "
    "Tensor workspace, int plan=-1) -> ()",
    kernel=kernel,
    kernel_args=split_k.kernel_args,
    reference=reference,
    dims=Dims,
    dims_of=lambda out, a, b, *_: Dims(b.shape[1], b.shape[0]),
    sample=sample,
    default_config=lambda dims, num_tokens: gemm.default_config(
        dims.n, dims.k, num_tokens, grouped=True
    ),
    space=lambda dims, num_tokens: gemm.space(dims.n, dims.k, num_tokens),
    serves=gemm.serves,
    bytes_moved=lambda dims, m: (
        m * dims.k
        + dims.k * dims.n
        + 2 * m * dims.n
        + 4 * (dims.k // GROUP) * (m + dims.n // GROUP)
    ),
    flops=lambda dims, m: 2 * m * dims.n * dims.k,
)
