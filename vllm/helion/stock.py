# SPDX-License-Identifier: Apache-2.0
"""Upstream's kernels under our ops' signatures, for config entries that say `stock`."""

import torch
from torch.nn.functional import pad

ALIGNED_TOKENS = 4
"""Tokens that Hopper's block kernel takes are a multiple of this: it reads 16 bytes of scales at a
time (https://github.com/vllm-project/vllm/pull/23280)."""


def register() -> None:
    """Offer what this build of vLLM has; idempotent."""
    from helion_kernels.plan import register_stock
    from vllm._custom_ops import cutlass_scaled_mm_supports_block_fp8
    from vllm.platforms import current_platform

    if not current_platform.is_cuda():
        return
    register_stock("scaled_mm", _scaled_mm)
    capability = current_platform.get_device_capability()
    if capability and cutlass_scaled_mm_supports_block_fp8(capability.to_int()):
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
    more = -a.shape[0] % ALIGNED_TOKENS
    if not more:
        torch.ops._C.cutlass_scaled_mm(out, a, b, scale_a, scale_b.t(), None)
        return
    padded = out.new_empty((out.shape[0] + more, out.shape[1]))
    a = pad(a.view(torch.uint8), (0, 0, 0, more)).view(a.dtype)
    scale_a = pad(scale_a.t(), (0, more)).t()  # still a column per group
    torch.ops._C.cutlass_scaled_mm(padded, a, b, scale_a, scale_b.t(), None)
    out.copy_(padded[: out.shape[0]])


def _dynamic_per_token_scaled_fp8_quant(
    out: torch.Tensor, input: torch.Tensor, scale: torch.Tensor
) -> None:
    torch.ops._C.dynamic_per_token_scaled_fp8_quant(out, input, scale, None)
