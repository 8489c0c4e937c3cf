# SPDX-License-Identifier: Apache-2.0
"""Every op as compiled for the GPU, on odd sizes, strides and extremes: see anything.py."""

from functools import cache
from typing import Any

import pytest
import torch
from anything import cases, wrong
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helion_kernels import OPS, plan

MOST = 300
"""Tokens: enough for every bucket of the ops' own rules."""
GROUPED = [(640,), (2688,)]
NORM = [(999, True), (5152, False)]
GROUPED_NORM = [(640, True), (2688, False)]
HEADS = [(6, 3, 64), (5, 1, 128)]
DIMS: dict[str, list[tuple[Any, ...]]] = {
    "dynamic_per_token_scaled_fp8_quant": [(999,), (5152,)],
    "per_token_group_fp8_quant": GROUPED,
    "rms_norm_dynamic_per_token_quant": NORM,
    "rms_norm_per_block_quant": GROUPED_NORM,
    "silu_and_mul_dynamic_per_token_quant": [(999,), (5152,)],
    "silu_and_mul_per_block_quant": GROUPED,
    "fused_qk_norm_rope": HEADS,
    "fused_qk_norm_rope_kv_write": HEADS,
    "fused_qk_norm_rope_paged_attention": [(10, 2, 64, 16, False), (8, 1, 128, 32, True)],
    "scaled_mm": [(333, 528), (200, 1040)],
    "scaled_mm_blockwise": [(333, 640), (200, 1024)],
    "scaled_mm_groupwise": [(333, 640), (200, 1024)],
}
"""Of no model: a pack takes scales side by side only. Tiles overhang in every dimension that may;
rows of 999 and 333 are aligned to nothing."""


@cache
def plans(name: str) -> dict[tuple[Any, ...], int]:
    device = torch.device("cuda", 0)
    ids = plan.prepare([(OPS[name], dims) for dims in DIMS[name]], MOST, device, workers=16)
    assert all(set(plan.PLANS[i].kinds) == {"compiled"} for i in ids), "a pack has these dims"
    return dict(zip(DIMS[name], ids, strict=True))


@pytest.mark.parametrize("name", OPS)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_compiled(name, data) -> None:
    # Margins of 16 keep the alignment for which the prepared launchers are compiled.
    case = data.draw(cases(name, st.sampled_from(DIMS[name]), MOST, margins=(0, 16)))

    def call(*args: Any) -> None:
        getattr(torch.ops.helion_kernels, name)(*args, plan=plans(name)[case.dims])

    assert wrong(case, "cuda", call) == []
