# SPDX-License-Identifier: Apache-2.0
"""A block-FP8 linear kernel for CPUs without AMX, where upstream has none.

It is registered behind upstream's: served Qwen3 layers do not use it to run, but upstream builds
every FP8 layer around a kernel of its registry and refuses the model where there is none.
"""

import torch

from vllm.model_executor.kernels.linear import _POSSIBLE_FP8_BLOCK_KERNELS
from vllm.model_executor.kernels.linear.scaled_mm import Fp8BlockScaledMMLinearKernel
from vllm.platforms import PlatformEnum, current_platform


class HelionFp8BlockScaledMMKernel(Fp8BlockScaledMMLinearKernel):
    """`scaled_mm_blockwise`, interpreted."""

    @classmethod
    def is_supported(cls, compute_capability: int | None = None) -> tuple[bool, str | None]:
        return (True, None) if current_platform.is_cpu() else (False, "requires CPU")

    def apply_block_scaled_mm(
        self, A: torch.Tensor, B: torch.Tensor, As: torch.Tensor, Bs: torch.Tensor
    ) -> torch.Tensor:
        from helion_kernels import split_k

        out = torch.empty((A.shape[0], B.shape[0]), dtype=self.config.out_dtype)
        workspace = split_k.shared(A.device)
        torch.ops.helion_kernels.scaled_mm_blockwise(out, A, B.t(), As, Bs.float(), workspace)
        return out


def register() -> None:
    """Add the kernel behind upstream's; idempotent."""
    kernels = _POSSIBLE_FP8_BLOCK_KERNELS.setdefault(PlatformEnum.CPU, [])
    if HelionFp8BlockScaledMMKernel not in kernels:
        kernels.append(HelionFp8BlockScaledMMKernel)
