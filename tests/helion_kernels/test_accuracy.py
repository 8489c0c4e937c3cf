# SPDX-License-Identifier: Apache-2.0
"""The comparison itself: each kind of wrong output is noticed, each tolerated one is not."""

import pytest
import torch

from helion_kernels import OPS
from helion_kernels.accuracy import copy_of, expect, fresh_outputs, problems
from helion_kernels.fp8 import FP8
from helion_kernels.sample import Random

DIMS = {
    "dynamic_per_token_scaled_fp8_quant": (640,),
    "per_token_group_fp8_quant": (640,),
    "rms_norm_dynamic_per_token_quant": (640, True),
    "rms_norm_per_block_quant": (640, True),
    "silu_and_mul_dynamic_per_token_quant": (640,),
    "silu_and_mul_per_block_quant": (640,),
    "fused_qk_norm_rope": (4, 2, 64),
    "fused_qk_norm_rope_kv_write": (4, 2, 64),
    "fused_qk_norm_rope_paged_attention": (4, 2, 64, 16, False),
    "scaled_mm": (96, 256),
    "scaled_mm_blockwise": (200, 256),
    "scaled_mm_groupwise": (200, 256),
}


def run(name, args):
    actual = fresh_outputs(OPS[name], args)
    getattr(torch.ops.helion_kernels, name)(*actual)
    return actual


CASES = [*DIMS.items(), ("fused_qk_norm_rope_paged_attention", (4, 2, 128, 16, True))]


def written(op, args):
    return [i for i in op.outputs if args[i] is not None]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1][-1]}")
def right(request):
    """(op, its arguments, what is expected, outputs that are right)."""
    name, dims = request.param
    op = OPS[name]
    args = op.sample(op.dims(*dims), 7, Random("cpu", 3))
    return op, args, expect(op, args), run(op.name, args)


def test_right_outputs_pass(right):
    op, _, expected, actual = right
    assert problems(op, expected, actual) == []


def test_outputs_left_unwritten_are_noticed(right):
    op, _, expected, actual = right
    for i in written(op, actual):
        unwritten = list(actual)
        unwritten[i] = copy_of(actual[i])
        poison = Random("cpu").empty(actual[i].shape, actual[i].dtype)
        # A row suffices, but a cache's last block is one that the op does not write.
        rows = slice(None) if op.arguments[i].name == "kv_cache" else slice(-1, None)
        unwritten[i][rows] = poison[rows]
        assert problems(op, expected, tuple(unwritten)), op.arguments[i].name


def test_one_wrong_element_is_noticed(right):
    """Off by 1 %, or two float8 steps, wherever it is largest; by 4 % where weights are bf16."""
    op, _, expected, actual = right
    for i in written(op, actual):
        wrong = list(actual)
        wrong[i] = copy_of(actual[i])
        wide = wrong[i].double()
        wide = torch.where(wide.abs() > 1e30, 0.0, wide)  # poison that stays in a cache
        at = tuple(int(x) for x in torch.unravel_index(wide.abs().argmax(), wide.shape))
        factor = 1.01
        if op.name == "fused_qk_norm_rope_paged_attention":
            factor = 1.1 if op.arguments[i].name == "scale" else 1.04
        factor = 0.75 if wrong[i].dtype == FP8 else factor
        wrong[i][at] = (wide[at] * factor).to(torch.float32).to(wrong[i].dtype)
        assert problems(op, expected, tuple(wrong)), op.arguments[i].name


def test_a_wrong_formula_is_noticed(right):
    """Another reference, which differs in one thing each, must not agree with the kernel."""
    op, args, _, actual = right
    names = [argument.name for argument in op.arguments]
    change = {
        "input": lambda x: x * 1.02,
        "weight": lambda x: x.flip(0),
        "scale_b": lambda x: x.flip(0),
        "positions": lambda x: x + 1 - 2 * (x == 4095),
        "q_weight": lambda x: x.flip(0),
        "qkv": lambda x: x.flip(0),
        "block_table": lambda x: x.flip(1),
        "seq_lens": lambda x: x - 1,
        "softmax_scale": lambda x: x * 1.02,
    }
    changed = [name for name in change if name in names]
    assert changed
    for name in changed:
        other = list(args)
        other[names.index(name)] = change[name](args[names.index(name)])
        assert problems(op, expect(op, tuple(other)), actual), name


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_never_pass(bad):
    op = OPS["scaled_mm"]
    args = op.sample(op.dims(32, 128), 3, Random("cpu"))
    expected, actual = expect(op, args), run("scaled_mm", args)
    actual[0][1, 2] = bad
    assert "1 of 96 places" in problems(op, expected, actual)[0]


def test_truncation_instead_of_rounding_is_noticed():
    """bf16 outputs cut off rather than rounded: within two units, and wrong."""
    op = OPS["fused_qk_norm_rope"]
    args = op.sample(op.dims(4, 2, 64), 7, Random("cpu"))
    expected = expect(op, args)
    actual = list(fresh_outputs(op, args))
    for i in op.outputs:
        exact = expected.args[i].to(torch.float32)
        cut = (exact.view(torch.int32) & -65536).view(torch.float32)
        actual[i] = cut.to(torch.bfloat16)
    assert problems(op, expected, tuple(actual))


def test_at_a_tie_both_neighbours_pass_and_no_third():
    op = OPS["dynamic_per_token_scaled_fp8_quant"]
    x = torch.zeros(1, 128, dtype=torch.bfloat16)
    x[0, 0], x[0, 1] = 448.0, 17.0  # scale 1; 17 lies between 16 and 18
    args = (torch.empty(1, 128, dtype=FP8), x, torch.ones(1, 1))
    expected = expect(op, args)
    for value, passes in ((16.0, True), (18.0, True), (15.0, False), (20.0, False)):
        out = expected.args[0].to(torch.float32).to(FP8)
        out[0, 1] = value
        assert (problems(op, expected, (out, x, torch.ones(1, 1))) == []) is passes
