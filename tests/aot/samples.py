# SPDX-License-Identifier: Apache-2.0
"""Calls to compare with: what a generated host function does with tensors of given sizes."""

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from helion_kernels.aot import index

SMALL = {
    "dynamic_per_token_scaled_fp8_quant": (256,),
    "fused_qk_norm_rope": (4, 2, 128),
    "fused_qk_norm_rope_kv_write": (4, 2, 128),
    "fused_qk_norm_rope_paged_attention": (4, 2, 64, 16, False, 1),
    "per_token_group_fp8_quant": (512,),
    "rms_norm_dynamic_per_token_quant": (256, True),
    "rms_norm_per_block_quant": (512, False),
    "scaled_mm": (256, 512),
    "scaled_mm_blockwise": (256, 512),
    "scaled_mm_groupwise": (256, 512),
    "silu_and_mul_dynamic_per_token_quant": (256,),
    "silu_and_mul_per_block_quant": (512,),
}
"""Dims of each op, cheap to compile."""


def layout(argument: index.Argument, num_tokens: int, pad: int = 0, entries: int = 48):
    """(sizes, strides) that a signature allows: rows padded by 16 * pad, open sizes = entries.

    A cache's rows are padded by 128 * pad: kernels may be given its strides divided by 8.
    """
    unit = 128 if argument.wide else 16
    sizes = [
        size
        if isinstance(size, int)
        else num_tokens
        if size == index.NUM_TOKENS
        else min(num_tokens, entries)
        if size == index.AT_MOST_NUM_TOKENS
        else entries
        for size in argument.sizes
    ]
    # From the dimension whose stride is 1 outwards.
    order = sorted(range(len(sizes)), key=lambda d: (not argument.unit_strides[d], -d))
    strides, span = [0] * len(sizes), 1
    for d in order:
        strides[d] = 1 if argument.unit_strides[d] else span
        span = max(span, strides[d] * sizes[d])
        if argument.unit_strides[d] and sizes[d] > 1:
            span = -(-span // unit) * unit + unit * pad
    return sizes, strides


def arguments(signature: index.Signature, num_tokens: int, pad: int, device: str) -> list[Any]:
    """What the op is called with; float argument i is 0.5 + i."""
    made = []
    for i, argument in enumerate(signature.arguments):
        if argument.kind == "tensor":
            sizes, strides = layout(argument, num_tokens, pad)
            dtype = getattr(torch, argument.dtype)
            made.append(torch.empty_strided(sizes, strides, dtype=dtype, device=device))
        else:
            made.append(0.5 + i if argument.kind == "float" else None)
    return made


def host(op: Any, function: Any, signature: index.Signature, num_tokens: int, pad: int):
    """(op's arguments, grid, kernel's arguments) of one run of a generated host function."""
    caught: dict[str, Any] = {}

    def launcher(kernel: Any, grid: Any, *args: Any, **options: Any) -> None:
        caught.update(grid=grid, args=args)

    with FakeTensorMode():
        args = arguments(signature, num_tokens, pad, "cuda")
        function(*op.kernel_args(*args), _launcher=launcher)
    return args, caught["grid"], caught["args"]
