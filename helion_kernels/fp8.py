# SPDX-License-Identifier: Apache-2.0
"""Constants of the FP8 formats that every op shares.

Values follow vLLM's `csrc/quantization/w8a8/fp8` so that a checkpoint quantised for it means the
same numbers here.
"""

import torch

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
"""Largest finite e4m3fn value."""
MIN_TOKEN_SCALE = 1.0 / (FP8_MAX * 512.0)
"""Floor of a per-token scale: an all-zero token must not divide by zero."""
GROUP_EPS = 1e-10
"""Floor of a group's absolute maximum before it is divided by FP8_MAX."""
GROUP = 128
"""Elements of K that share an activation scale, and the edge of a weight block (128 x 128)."""


SCALE_STEP = 4
"""Scales of a group's activations begin at multiples of this: Hopper's copy engine takes 16 bytes
at a time."""


def scale_stride(num_tokens: int) -> int:
    """From one group's scales of activations to the next's."""
    return (num_tokens + SCALE_STEP - 1) // SCALE_STEP * SCALE_STEP


def empty_group_scales(num_tokens: int, groups: int, device: torch.device | str) -> torch.Tensor:
    """Unwritten scales of activations, float32 [num_tokens, groups]: a column per group, as the
    GEMM reads those of neighbouring tokens side by side."""
    shape = (groups, scale_stride(num_tokens))
    return torch.empty(shape, dtype=torch.float32, device=device)[:, :num_tokens].t()


def as_group_scales(scales: torch.Tensor) -> torch.Tensor:
    """A copy that lies so."""
    num_tokens, groups = scales.shape
    return empty_group_scales(num_tokens, groups, scales.device).copy_(scales)
