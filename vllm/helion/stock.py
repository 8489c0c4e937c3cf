# SPDX-License-Identifier: Apache-2.0
"""Upstream's kernels under our ops' signatures, for config entries that say `stock`."""

import torch


def register() -> None:
    """Offer what this build of vLLM has; idempotent."""
    from helion_kernels.plan import register_stock
    from vllm.platforms import current_platform

    if not current_platform.is_cuda():
        return
    register_stock("scaled_mm", _scaled_mm)
    register_stock("scaled_mm_blockwise", _scaled_mm_blockwise)
    register_stock("dynamic_per_token_scaled_fp8_quant", _dynamic_per_token_scaled_fp8_quant)


def _scaled_mm(
    out: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    workspace: torch.Tensor,
) -> None:
    torch.ops._C.cutlass_scaled_mm(out, a, b, scale_a, scale_b, None)


def _scaled_mm_blockwise(
    out: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    workspace: torch.Tensor,
) -> None:
    # CUTLASS, not DeepGEMM: that compiles with nvcc at run time, and rounds scales.
    torch.ops._C.cutlass_scaled_mm(out, a, b, scale_a, scale_b.t(), None)


def _dynamic_per_token_scaled_fp8_quant(
    out: torch.Tensor, input: torch.Tensor, scale: torch.Tensor
) -> None:
    torch.ops._C.dynamic_per_token_scaled_fp8_quant(out, input, scale, None)
