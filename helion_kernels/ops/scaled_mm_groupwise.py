# SPDX-License-Identifier: Apache-2.0
"""scaled_mm_groupwise: FP8 GEMM with a scale per token and 128 elements, and per row of weights.

    out[m, n] = bf16(scale_b[n] * sum_g scale_a[m, g] * sum_{k in group g} a[m, k] * b[k, n])

Shapes: a [M, K] float8_e4m3fn, row-major; b [K, N] float8_e4m3fn, column-major; scale_a
[M, K / 128] float32, strides (1, `fp8.scale_stride(M)`), as `silu_and_mul_per_block_quant` and
attention write it; scale_b [N, 1] float32; out [M, N] bf16; workspace: of `split_k.workspace`, for
configs that split K. K is a multiple of 128.
Bytes: M K + K N + 2 M N + M K / 32 + 4 N; operations: 2 M N K. Source: no kernel of vLLM's has
these scales; each alone is as in `cutlass_scaled_mm`.

For decode steps of per-token FP8: what quantises per group passes over no row ahead of it, so that
attention does it a head at a time and no kernel follows to do it (`vllm/helion/layer.py`). Operands
are swapped as in scaled_mm. Each group leaves the tensor core before it is scaled and added in
float32; the scale of the next one is loaded meanwhile.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch

from helion_kernels import gemm, pdl, split_k
from helion_kernels.fp8 import FP8, GROUP, scale_stride
from helion_kernels.op import Config, Op, Sample

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
    weight, tokens, groups = b.t(), a.t(), k // 128
    size_m = hl.register_block_size(16, m)
    size_n = hl.register_block_size(16, n)
    size_part = hl.register_block_size(512, 65536)
    splits = (k + size_part - 1) // size_part
    for tile_m, tile_n, part in hl.tile([m, n, k], block_size=[size_m, size_n, size_part]):
        pdl.prefetch(weight, torch.clamp(tile_n.index, max=n - 1), k, part.begin)
        pdl.wait()
        acc = hl.zeros([tile_n, tile_m], dtype=torch.float32)
        # By 2^-64, and scale_b by 2^64: sums stay finite where outputs do, whatever the scales.
        scale_m = scale_a[tile_m, part.begin // 128] * 5.421010862427522e-20
        for tile_k in hl.tile(part.begin, part.end, block_size=128):
            following = scale_a[tile_m, (tile_k.begin // 128 + 1) % groups]
            following = following * 5.421010862427522e-20
            product = hl.dot(weight[tile_n, tile_k], tokens[tile_k, tile_m])
            acc = acc + product * scale_m[None, :]
            scale_m = following
        pdl.launch_dependents()
        if splits > 1:
            partials[part.id, tile_n, tile_m] = acc
            before = hl.atomic_add(arrived, [tile_m.id, tile_n.id], 1, sem="acq_rel")
            if before == splits - 1:
                arrived[tile_m.id, tile_n.id] = 0
                place = tile_n.index[:, None] * m + tile_m.index[None, :]
                inside = (tile_n.index < n)[:, None] & (tile_m.index < m)[None, :]
                total = split_k.join(acc, partials, place, inside, k, size_part)
                scaled = total * (scale_b[tile_n, 0] * 18446744073709551616.0)[:, None]
                out[tile_m, tile_n] = scaled.to(out.dtype).transpose(0, 1)
        else:
            scaled = acc * (scale_b[tile_n, 0] * 18446744073709551616.0)[:, None]
            out[tile_m, tile_n] = scaled.to(out.dtype).transpose(0, 1)
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
    size_n, size_k = hl.register_block_size(1, 64), hl.register_block_size(128, 8192)
    for tile_m, tile_n in hl.tile([m, n], block_size=[1, size_n]):
        pdl.launch_dependents()
        w, scale_n = weight[tile_n, hl.arange(size_k)], scale_b[tile_n, 0]
        pdl.wait()
        acc = hl.zeros([tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k, block_size=size_k):
            following = tile_k.begin + size_k + hl.arange(size_k)
            ahead = hl.load(weight, [tile_n, following], extra_mask=(following < k)[None, :])
            scale = scale_a[tile_m.begin, tile_k.begin // 128 + hl.arange(size_k // 128)]
            scale = scale * 5.421010862427522e-20
            x = a[tile_m.begin, tile_k].to(torch.float32)
            x = (x.reshape([size_k // 128, 128]) * scale[:, None]).reshape([size_k])
            acc = acc + (w.to(torch.float32) * x[None, :]).sum(1)
            w = ahead
        out[tile_m.begin, tile_n] = (acc * (scale_n * 18446744073709551616.0)).to(out.dtype)
    hl.pdl_launch_dependents()


def kernel_for(config: Config) -> Callable[..., None]:
    return gemv if gemm.is_gemv(config) else kernel


def reference(
    out: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    workspace: torch.Tensor | None = None,
) -> None:
    wide_a = scale_a.double().repeat_interleave(GROUP, dim=1)
    out.copy_((a.double() * wide_a) @ b.double() * scale_b.double().t())


def sample(dims: Dims, num_tokens: int, make: Sample) -> tuple[torch.Tensor, ...]:
    scales = make.uniform((dims.k // GROUP, scale_stride(num_tokens)), low=1e-3, high=1e-2)
    return (
        make.empty((num_tokens, dims.n), torch.bfloat16),
        make.randn((num_tokens, dims.k), FP8, std=60.0),
        make.randn((dims.n, dims.k), FP8, std=60.0).t(),
        scales[:, :num_tokens].t(),
        make.uniform((dims.n, 1), low=1e-4, high=1e-3),
        make.zeros((split_k.SIZE,), torch.float32),
    )


OP = Op(
    name="scaled_mm_groupwise",
    schema="(Tensor(a!) out, Tensor a, Tensor b, Tensor scale_a, Tensor scale_b, "
    "Tensor workspace, int plan=-1) -> ()",
    kernel=kernel,
    kernel_for=kernel_for,
    kernel_args=split_k.kernel_args,
    reference=reference,
    dims=Dims,
    dims_of=lambda out, a, b, *_: Dims(b.shape[1], b.shape[0]),
    sample=sample,
    default_config=lambda dims, num_tokens: gemm.groupwise_config(dims.n, dims.k, num_tokens),
    space=lambda dims, num_tokens: gemm.space(dims.n, dims.k, num_tokens),
    serves=gemm.serves,
    most_tokens=gemm.MOST_GROUPWISE,
    bytes_moved=lambda dims, m: (
        m * dims.k + dims.k * dims.n + 2 * m * dims.n + 4 * (m * dims.k // GROUP + dims.n)
    ),
    flops=lambda dims, m: 2 * m * dims.n * dims.k,
)
