# SPDX-License-Identifier: Apache-2.0
"""scaled_mm: FP8 GEMM with per-token and per-channel scales.

    out[m, n] = bf16(scale_a[m] * scale_b[n] * sum_k a[m, k] * b[k, n])

Shapes: a [M, K] float8_e4m3fn, row-major; b [K, N] float8_e4m3fn, column-major (the transposed view
of an [N, K] weight); scale_a [M, 1], scale_b [N, 1] float32; out [M, N] bf16; workspace: of
`split_k.workspace`, for configs that split K.
Bytes: M K + K N + 2 M N + 4 (M + N); operations: 2 M N K. Source: vLLM `cutlass_scaled_mm`.

Operands are swapped, out^T = b^T a^T: a WGMMA has 64 rows at least and 8 columns, so that the few
tokens of a decode step are columns and FP8 goes to the tensor core as it is. (With tokens as rows
Triton uses mma.sync below 64, after converting every weight to f16.) H100, 16 tokens, cold L2:
6144 x 4096 11.8 us instead of 12.3, 4096 x 4096 8.95 instead of 9.6.

Accumulation: a Hopper FP8 WGMMA keeps about 14 bits of its sum, and Triton lets it run over all of
K unless told otherwise. Each K tile is therefore summed from zero and added in float32 outside the
tensor core, which bounds the error at every K (tests/helion_kernels/test_accumulation.py).

For a single token `gemv`, without tensor cores: see `helion_kernels/gemm.py`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch

from helion_kernels import gemm, pdl, split_k
from helion_kernels.fp8 import FP8
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
    weight, tokens = b.t(), a.t()
    size_m = hl.register_block_size(16, m)
    size_n = hl.register_block_size(16, n)
    size_part = hl.register_block_size(512, 65536)
    splits = (k + size_part - 1) // size_part
    for tile_m, tile_n, part in hl.tile([m, n, k], block_size=[size_m, size_n, size_part]):
        pdl.prefetch(weight, torch.clamp(tile_n.index, max=n - 1), k, part.begin)
        pdl.wait()
        acc = hl.zeros([tile_n, tile_m], dtype=torch.float32)
        for tile_k in hl.tile(part.begin, part.end, block_size=128):
            acc = acc + hl.dot(weight[tile_n, tile_k], tokens[tile_k, tile_m])
        pdl.launch_dependents()
        if splits > 1:
            partials[part.id, tile_n, tile_m] = acc
            before = hl.atomic_add(arrived, [tile_m.id, tile_n.id], 1, sem="acq_rel")
            if before == splits - 1:
                arrived[tile_m.id, tile_n.id] = 0
                place = tile_n.index[:, None] * m + tile_m.index[None, :]
                inside = (tile_n.index < n)[:, None] & (tile_m.index < m)[None, :]
                total = split_k.join(acc, partials, place, inside, k, size_part)
                scaled = total * scale_b[tile_n, 0][:, None] * scale_a[tile_m, 0][None, :]
                out[tile_m, tile_n] = scaled.to(out.dtype).transpose(0, 1)
        else:
            scaled = acc * scale_b[tile_n, 0][:, None] * scale_a[tile_m, 0][None, :]
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
            x = a[tile_m.begin, tile_k].to(torch.float32)
            acc = acc + (w.to(torch.float32) * x[None, :]).sum(1)
            w = ahead
        out[tile_m.begin, tile_n] = (acc * scale_n * scale_a[tile_m.begin, 0]).to(out.dtype)
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
    exact = a.double() @ b.double()
    out.copy_(exact * scale_a.double() * scale_b.double().t())


def sample(dims: Dims, num_tokens: int, make: Sample) -> tuple[torch.Tensor, ...]:
    return (
        make.empty((num_tokens, dims.n), torch.bfloat16),
        make.randn((num_tokens, dims.k), FP8, std=60.0),
        make.randn((dims.n, dims.k), FP8, std=60.0).t(),
        make.uniform((num_tokens, 1), low=1e-3, high=1e-2),
        make.uniform((dims.n, 1), low=1e-4, high=1e-3),
        make.zeros((split_k.SIZE,), torch.float32),
    )


OP = Op(
    name="scaled_mm",
    schema="(Tensor(a!) out, Tensor a, Tensor b, Tensor scale_a, Tensor scale_b, "
    "Tensor workspace, int plan=-1) -> ()",
    kernel=kernel,
    kernel_for=kernel_for,
    kernel_args=split_k.kernel_args,
    reference=reference,
    dims=Dims,
    dims_of=lambda out, a, b, *_: Dims(b.shape[1], b.shape[0]),
    sample=sample,
    default_config=lambda dims, num_tokens: gemm.default_config(dims.n, dims.k, num_tokens),
    space=lambda dims, num_tokens: gemm.space(dims.n, dims.k, num_tokens),
    serves=gemm.serves,
    bytes_moved=lambda dims, m: m * dims.k + dims.k * dims.n + 2 * m * dims.n + 4 * (m + dims.n),
    flops=lambda dims, m: 2 * m * dims.n * dims.k,
)
