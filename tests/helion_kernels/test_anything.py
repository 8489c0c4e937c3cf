# SPDX-License-Identifier: Apache-2.0
"""Every op, interpreted, on any sizes, strides and extremes: see anything.py for what is right."""

import pytest
import torch
from anything import INFINITY, NAN, Case, Edit, cases, wrong
from hypothesis import given, settings
from hypothesis import strategies as st

from helion_kernels import OPS

SIZES = st.tuples(st.integers(1, 700))
GROUPED = st.tuples(st.integers(1, 9).map(lambda groups: 128 * groups))
ATTENTION = st.builds(
    lambda group, kv_heads, head, block_size: (
        group * kv_heads,
        kv_heads,
        head[0],
        block_size,
        head[1],
    ),
    st.integers(1, 9),
    st.integers(1, 3),
    st.sampled_from([(32, False), (64, False), (128, True)]),
    st.sampled_from([16, 32]),
)
GROUPED_MM = st.tuples(st.integers(1, 300), st.integers(1, 9).map(lambda groups: 128 * groups))
HEADS = st.tuples(st.integers(1, 9), st.integers(1, 5), st.sampled_from([32, 64, 128]))
DIMS = {
    "dynamic_per_token_scaled_fp8_quant": SIZES,
    "per_token_group_fp8_quant": GROUPED,
    "rms_norm_dynamic_per_token_quant": st.tuples(st.integers(1, 700), st.booleans()),
    "rms_norm_per_block_quant": st.tuples(GROUPED.map(lambda dims: dims[0]), st.booleans()),
    "silu_and_mul_dynamic_per_token_quant": SIZES,
    "silu_and_mul_per_block_quant": GROUPED,
    "fused_qk_norm_rope": HEADS,
    "fused_qk_norm_rope_kv_write": HEADS,
    "fused_qk_norm_rope_paged_attention": ATTENTION,
    "scaled_mm": st.tuples(st.integers(1, 300), st.integers(1, 40).map(lambda k: 16 * k)),
    "scaled_mm_blockwise": GROUPED_MM,
    "scaled_mm_groupwise": GROUPED_MM,
}


@pytest.mark.parametrize("name", OPS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_interpreted(name, data):
    # Helion's interpreter takes 15 ms for a sequence's head.
    most = 4 if name == "fused_qk_norm_rope_paged_attention" else 40
    case = data.draw(cases(name, DIMS[name], most))
    assert wrong(case, "cpu", getattr(torch.ops.helion_kernels, name)) == []


# -- the checks themselves: each kind of defect is noticed


def case_of(name, dims, *edits):
    return Case(name, dims, 6, 8, False, edits, 0)


def call(name):
    return getattr(torch.ops.helion_kernels, name)


@pytest.mark.parametrize("margin", [(6, slice(None)), (0, slice(-1, None))])
def test_an_element_written_around_an_output_is_noticed(margin):
    rows, columns = margin

    def careless(out, *rest):
        call("scaled_mm")(out, *rest)
        wide = out.as_strided((7, out.shape[1] + 1), out.stride())
        wide[rows, columns] = 0

    found = wrong(case_of("scaled_mm", (96, 128)), "cpu", careless)
    assert len(found) == 1 and "written around" in found[0]


LOST = {
    "dynamic_per_token_scaled_fp8_quant": ("input", (200,)),
    "per_token_group_fp8_quant": ("input", (256,)),
    "rms_norm_dynamic_per_token_quant": ("residual", (200, True)),
    "silu_and_mul_per_block_quant": ("input", (256,)),
    "fused_qk_norm_rope": ("qkv", (2, 1, 32)),
    "fused_qk_norm_rope_paged_attention": ("qkv", (2, 1, 128, 16, True)),
    "scaled_mm": ("scale_a", (96, 128)),
}


@pytest.mark.parametrize("value", [NAN, INFINITY])
@pytest.mark.parametrize("name", LOST)
def test_what_is_not_finite_may_not_get_lost(name, value):
    argument, dims = LOST[name]
    case = case_of(name, dims, Edit(argument, value, "element", 2, 3))
    assert wrong(case, "cpu", call(name)) == []

    def hides(*args):
        finite = [
            x.copy_(x.float().nan_to_num(1.0, 1.0, 1.0)) if torch.is_tensor(x) and x.ndim > 1 else x
            for x in args
        ]
        call(name)(*finite)

    assert wrong(case, "cpu", hides)


def test_nan_may_not_spread():
    case = case_of("per_token_group_fp8_quant", (256,), Edit("input", NAN, "element", 2, 3))

    def spreads(out, x, scale):
        call("per_token_group_fp8_quant")(out, x, scale)
        scale[2] = NAN

    assert "scale in 1 places" in wrong(case, "cpu", spreads)[0]
