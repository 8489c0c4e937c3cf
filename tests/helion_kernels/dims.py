# SPDX-License-Identifier: Apache-2.0
"""Small static dims of every op, at which tiles overhang and reductions take several tiles."""

from typing import Any

from helion_kernels import OPS

GEMMS = tuple(name for name in OPS if name.startswith("scaled_mm"))

SMALL: dict[str, tuple[Any, ...]] = {
    "dynamic_per_token_scaled_fp8_quant": (640,),
    "per_token_group_fp8_quant": (640,),
    "rms_norm_dynamic_per_token_quant": (640, True),
    "rms_norm_per_block_quant": (640, False),
    "silu_and_mul_dynamic_per_token_quant": (640,),
    "silu_and_mul_per_block_quant": (640,),
    "fused_qk_norm_rope": (6, 3, 64),
    "fused_qk_norm_rope_kv_write": (6, 3, 64),
    "fused_qk_norm_rope_paged_attention": (6, 2, 32, 16, False),
    "scaled_mm": (200, 640),
    "scaled_mm_blockwise": (200, 640),
    "scaled_mm_groupwise": (200, 640),
}
CHECKING = ("fused_qk_norm_rope_paged_attention", (4, 2, 128, 16, True, 4))
"""Attention of steps that check three guesses."""
