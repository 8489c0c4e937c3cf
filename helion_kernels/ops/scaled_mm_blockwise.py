# SPDX-License-Identifier: Apache-2.0
"""scaled_mm_blockwise: FP8 GEMM with a scale per token and 128 elements, and per 128 x 128 weights.

    out[m, n] = bf16(sum_g scale_a[m, g] * scale_b[n // 128, g] * sum_{k in g} a[m, k] * b[k, n])

Shapes: a [M, K] float8_e4m3fn, row-major; b [K, N] float8_e4m3fn, column-major; scale_a
[M, K / 128] float32, strides (1, `fp8.scale_stride(M)`), as DeepGEMM's kernels demand and ours read
it fastest; scale_b [ceil(N / 128), K / 128] float32, as Qwen's checkpoints keep `weight_scale_inv`;
out [M, N] bf16; workspace: of `split_k.workspace`. K is a multiple of 128.
Bytes: M K + K N + 2 M N + M K / 32 + K N / 4096; operations: 2 M N K.
Source: DeepSeek-V3 technical report, section 3.3.2; vLLM `w8a8_block_fp8_matmul`.

Up to 32 tokens operands are swapped, as in scaled_mm: `weights_as_rows`. From 64 on tokens are the
tensor core's rows, and fewer scales meet in a thread: `tokens_as_rows`. For a single token there is
`gemv`, without tensor cores. Which one a config is for, its tile says.

Each group of 128 leaves the tensor core before it is scaled and added in float32, so that the
tensor core's short accumulator never sees more than 128 products. Triton pipelines the operands of
a dot only: a scale loaded where it is used makes every group wait for L2, and so an iteration takes
two groups and loads the scales of the two after them. (Of more, or of later ones, Triton makes no
pipeline.) H100, cold L2, a layer of Qwen3-8B at 16 / 32 / 64 / 128 tokens: 78 / 82 / 87 / 105 us;
one group an iteration, always swapped: 81 / 86 / 93 / 114.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch

from helion_kernels import deep_gemm, gemm, pdl, split_k
from helion_kernels.fp8 import FP8, GROUP, scale_stride
from helion_kernels.op import Config, Op, Sample

if TYPE_CHECKING:
    import helion.language as hl


class Dims(NamedTuple):
    n: int
    k: int


def weights_as_rows(
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
    weight, groups = b.t(), k // 128
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
        if groups % 2 == 0:
            scale_m1, scale_n1 = scale_a[tile_m, first + 1], scale_b[block, first + 1]
            for tile_k in hl.tile(part.begin, part.end, block_size=256):
                following = (tile_k.begin // 128 + 2) % groups
                next_m, next_n = scale_a[tile_m, following], scale_b[block, following]
                next_m1, next_n1 = scale_a[tile_m, following + 1], scale_b[block, following + 1]
                k0 = tile_k.begin + hl.arange(128)
                k1 = tile_k.begin + 128 + hl.arange(128)
                partial = hl.dot(weight[tile_n, k0], a[tile_m, k0].T)
                acc = acc + partial * (scale_m * scale_n)[None, :]
                partial = hl.dot(weight[tile_n, k1], a[tile_m, k1].T)
                acc = acc + partial * (scale_m1 * scale_n1)[None, :]
                scale_m, scale_n, scale_m1, scale_n1 = next_m, next_n, next_m1, next_n1
        else:
            for tile_k in hl.tile(part.begin, part.end, block_size=128):
                following = (tile_k.begin // 128 + 1) % groups
                next_m, next_n = scale_a[tile_m, following], scale_b[block, following]
                partial = hl.dot(weight[tile_n, tile_k], a[tile_m, tile_k].T)
                acc = acc + partial * (scale_m * scale_n)[None, :]
                scale_m, scale_n = next_m, next_n
        pdl.launch_dependents()
        if splits > 1:
            partials[part.id, tile_n, tile_m] = acc
            before = hl.atomic_add(arrived, [tile_m.id, tile_n.id], 1, sem="acq_rel")
            if before == splits - 1:
                arrived[tile_m.id, tile_n.id] = 0
                place = tile_n.index[:, None] * m + tile_m.index[None, :]
                inside = (tile_n.index < n)[:, None] & (tile_m.index < m)[None, :]
                total = split_k.join(acc, partials, place, inside, k, size_part)
                out[tile_m, tile_n] = total.to(out.dtype).transpose(0, 1)
        else:
            out[tile_m, tile_n] = acc.to(out.dtype).transpose(0, 1)
    hl.pdl_launch_dependents()


def tokens_as_rows(
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
    weight, groups = b.t(), k // 128
    # No view: that compares the sizes, and a trace whose num_tokens happens to be n fixes it.
    partials = partials.as_strided((partials.size(0), m, n), (n * m, n, 1))
    size_m = hl.register_block_size(16, m)
    # At most 128 rows of weights, aligned: they share one scale per group.
    size_n = hl.register_block_size(16, 128)
    size_part = hl.register_block_size(512, 65536)
    splits = (k + size_part - 1) // size_part
    for tile_m, tile_n, part in hl.tile([m, n, k], block_size=[size_m, size_n, size_part]):
        pdl.prefetch(weight, torch.clamp(tile_n.index, max=n - 1), k, part.begin)
        pdl.wait()
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        block, first = tile_n.begin // 128, part.begin // 128
        scale_m, scale_n = scale_a[tile_m, first], scale_b[block, first]
        if groups % 2 == 0:
            scale_m1, scale_n1 = scale_a[tile_m, first + 1], scale_b[block, first + 1]
            for tile_k in hl.tile(part.begin, part.end, block_size=256):
                following = (tile_k.begin // 128 + 2) % groups
                next_m, next_n = scale_a[tile_m, following], scale_b[block, following]
                next_m1, next_n1 = scale_a[tile_m, following + 1], scale_b[block, following + 1]
                k0 = tile_k.begin + hl.arange(128)
                k1 = tile_k.begin + 128 + hl.arange(128)
                partial = hl.dot(a[tile_m, k0], weight[tile_n, k0].T)
                acc = acc + partial * (scale_m * scale_n)[:, None]
                partial = hl.dot(a[tile_m, k1], weight[tile_n, k1].T)
                acc = acc + partial * (scale_m1 * scale_n1)[:, None]
                scale_m, scale_n, scale_m1, scale_n1 = next_m, next_n, next_m1, next_n1
        else:
            for tile_k in hl.tile(part.begin, part.end, block_size=128):
                following = (tile_k.begin // 128 + 1) % groups
                next_m, next_n = scale_a[tile_m, following], scale_b[block, following]
                partial = hl.dot(a[tile_m, tile_k], weight[tile_n, tile_k].T)
                acc = acc + partial * (scale_m * scale_n)[:, None]
                scale_m, scale_n = next_m, next_n
        pdl.launch_dependents()
        if splits > 1:
            partials[part.id, tile_m, tile_n] = acc
            before = hl.atomic_add(arrived, [tile_m.id, tile_n.id], 1, sem="acq_rel")
            if before == splits - 1:
                arrived[tile_m.id, tile_n.id] = 0
                place = tile_m.index[:, None] * n + tile_n.index[None, :]
                inside = (tile_m.index < m)[:, None] & (tile_n.index < n)[None, :]
                total = split_k.join(acc, partials, place, inside, k, size_part)
                out[tile_m, tile_n] = total.to(out.dtype)
        else:
            out[tile_m, tile_n] = acc.to(out.dtype)
    hl.pdl_launch_dependents()


def gemv(
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
    weight = b.t()
    # Of rows that share one scale per group.
    size_n, size_k = hl.register_block_size(1, 64), hl.register_block_size(128, 8192)
    for tile_m, tile_n in hl.tile([m, n], block_size=[1, size_n]):
        pdl.launch_dependents()
        w, block = weight[tile_n, hl.arange(size_k)], tile_n.begin // 128
        pdl.wait()
        acc = hl.zeros([tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k, block_size=size_k):
            following = tile_k.begin + size_k + hl.arange(size_k)
            ahead = hl.load(weight, [tile_n, following], extra_mask=(following < k)[None, :])
            groups = tile_k.begin // 128 + hl.arange(size_k // 128)
            scale = scale_a[tile_m.begin, groups] * scale_b[block, groups]
            x = a[tile_m.begin, tile_k].to(torch.float32)
            x = (x.reshape([size_k // 128, 128]) * scale[:, None]).reshape([size_k])
            acc = acc + (w.to(torch.float32) * x[None, :]).sum(1)
            w = ahead
        out[tile_m.begin, tile_n] = acc.to(out.dtype)
    hl.pdl_launch_dependents()


def kernel_for(config: Config) -> Callable[..., None]:
    if gemm.is_gemv(config):
        return gemv
    block_m, *_ = config["block_sizes"]
    return tokens_as_rows if block_m >= 64 else weights_as_rows


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
    scales = make.uniform((groups, scale_stride(num_tokens)), low=1e-3, high=1e-2)
    return (
        make.empty((num_tokens, dims.n), torch.bfloat16),
        make.randn((num_tokens, dims.k), FP8, std=60.0),
        make.randn((dims.n, dims.k), FP8, std=60.0).t(),
        scales[:, :num_tokens].t(),
        make.uniform((-(-dims.n // GROUP), groups), low=1e-4, high=1e-3),
        make.zeros((split_k.SIZE,), torch.float32),
    )


OP = Op(
    name="scaled_mm_blockwise",
    schema="(Tensor(a!) out, Tensor a, Tensor b, Tensor scale_a, Tensor scale_b, "
    "Tensor workspace, int plan=-1) -> ()",
    kernel=weights_as_rows,
    kernel_for=kernel_for,
    # 15 % fewer instructions in the loop than in 32 bits: rows of a copy differ by constants.
    index_dtype=torch.int64,
    kernel_args=split_k.kernel_args,
    reference=reference,
    dims=Dims,
    dims_of=lambda out, a, b, *_: Dims(b.shape[1], b.shape[0]),
    sample=sample,
    buckets=(16, 32, 64, 128, 256, 512, 1024, 2048),
    library=deep_gemm.rule,
    default_config=lambda dims, num_tokens: gemm.default_config(
        dims.n, dims.k, num_tokens, grouped=True
    ),
    space=lambda dims, num_tokens: gemm.space(dims.n, dims.k, num_tokens, grouped=True),
    serves=gemm.serves,
    bytes_moved=lambda dims, m: (
        m * dims.k
        + dims.k * dims.n
        + 2 * m * dims.n
        + 4 * (dims.k // GROUP) * (m + dims.n // GROUP)
    ),
    flops=lambda dims, m: 2 * m * dims.n * dims.k,
)
