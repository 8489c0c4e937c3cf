# SPDX-License-Identifier: Apache-2.0
"""FP8 kernels for Qwen3, written in Helion, usable without vLLM.

`import helion_kernels` registers `torch.ops.helion_kernels.<name>` for every file under `ops/`.
Outputs come first and are allocated by the caller:

    out = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    scale = torch.empty(len(x), 1, device=x.device)
    torch.ops.helion_kernels.dynamic_per_token_scaled_fp8_quant(out, x, scale)

On CPU tensors a kernel is interpreted; on CUDA tensors it is compiled when first met, or ahead of
time by `plan.prepare`, whose id, passed as `plan=`, makes the call an array index.
"""

from helion_kernels.registry import OPS, register

register()

__all__ = ["OPS"]
