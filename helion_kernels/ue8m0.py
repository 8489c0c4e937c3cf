# SPDX-License-Identifier: Apache-2.0
"""Block FP8 weights with scales that are powers of two (UE8M0), as upstream has them for DeepGEMM.

    scale' = 2^ceil(log2(max(amax of the block, 1e-4) / 448))
    weight' = fp8(weight * scale / scale')

On Hopper upstream does so to every block weight that it loads (VLLM_USE_DEEP_GEMM_E8M0, on by
default), although DeepGEMM takes float32 scales there; activation scales are rounded up likewise.
Here it is weights alone, for comparison: what the rounding costs (`benchmarks.scales`).
"""

import torch

from helion_kernels.fp8 import FP8_MAX, GROUP

MIN_AMAX = 1e-4
"""Floor of a block's absolute maximum, upstream's."""


def power_of_two(x: torch.Tensor) -> torch.Tensor:
    """The smallest powers of two that are no less than positive x; exact."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp(torch.ones_like(x), exponent - (mantissa == 0.5).to(exponent.dtype))


def requantise(weight: torch.Tensor, scale: torch.Tensor) -> None:
    """Round scale [ceil(N / 128), K / 128] float32 up, and weight [N, K] to suit; both in place."""
    for row, blocks in zip(scale, weight.split(GROUP), strict=True):
        exact = blocks.float().unflatten(1, (-1, GROUP)) * row[:, None]
        row.copy_(power_of_two(exact.abs().amax((0, 2)).clamp(min=MIN_AMAX) / FP8_MAX))
        blocks.copy_((exact / row[:, None]).flatten(1))
