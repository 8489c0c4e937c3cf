# SPDX-License-Identifier: Apache-2.0
"""What is particular to an op, interpreted, besides what test_anything.py asks of each.

The bounds stand in helion_kernels/accuracy.py; outputs are poisoned before every call.
"""

import pytest
import torch
from dims import GEMMS
from hypothesis import given, settings
from hypothesis import strategies as st

from helion_kernels import OPS
from helion_kernels.accuracy import expect, fresh_outputs, problems
from helion_kernels.fp8 import FP8, MIN_TOKEN_SCALE
from helion_kernels.sample import Random

few = settings(max_examples=25, deadline=None)
tokens = st.integers(1, 40)
heads = st.tuples(st.integers(1, 9), st.integers(1, 5), st.sampled_from([32, 64, 128]))
PER_TOKEN = [n for n in OPS if n.endswith("per_token_quant") or n.startswith("dynamic")]
PER_GROUP = [n for n in OPS if n.endswith("quant") and ("per_block" in n or "group" in n)]
QUANT = PER_TOKEN + PER_GROUP


def dims_for(name, size, residual=True):
    return OPS[name].dims(*((size, residual) if name.startswith("rms_norm") else (size,)))


def assert_right(op, args):
    expected, actual = expect(op, args), fresh_outputs(op, args)
    getattr(torch.ops.helion_kernels, op.name)(*actual)
    assert problems(op, expected, actual) == []
    return actual


def at(op, name):
    return [argument.name for argument in op.arguments].index(name)


@pytest.mark.parametrize("hidden_size", [640, 2560, 5120])
@pytest.mark.parametrize("name", QUANT)
def test_sizes_of_models_that_are_no_powers_of_two(name, hidden_size):
    op = OPS[name]
    assert_right(op, op.sample(dims_for(name, hidden_size), 3, Random("cpu", hidden_size)))


@few
@given(num_tokens=tokens, heads=heads)
def test_cos_and_sin_in_float32(num_tokens, heads):
    op = OPS["fused_qk_norm_rope"]
    args = list(op.sample(op.dims(*heads), num_tokens, Random("cpu", num_tokens)))
    args[at(op, "cos_sin_cache")] = args[at(op, "cos_sin_cache")].float()
    assert_right(op, tuple(args))


@pytest.mark.parametrize("name", PER_TOKEN)
def test_a_token_of_zeros_has_the_smallest_scale(name):
    op = OPS[name]
    args = op.sample(dims_for(name, 384, residual=False), 2, Random("cpu"))
    args[at(op, "input")].zero_()
    actual = assert_right(op, args)
    assert torch.allclose(actual[at(op, "scale")], torch.tensor(MIN_TOKEN_SCALE), rtol=1e-6)
    assert (actual[at(op, "out")].float() == 0).all()


@pytest.mark.parametrize("name", QUANT)
def test_the_largest_element_becomes_448(name):
    op = OPS[name]
    actual = assert_right(op, op.sample(dims_for(name, 384), 6, Random("cpu")))
    rows = actual[at(op, "out")].float().abs()
    if name in PER_GROUP:
        rows = rows.unflatten(1, (-1, 128))
    assert (rows.amax(-1) == 448).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", OPS)
def test_a_bad_token_spoils_no_other(name, bad):
    op = OPS[name]
    of_family = {"fused": (4, 2, 64), "scale": (96, 256)}
    dims = of_family.get(name[:5])
    if name.endswith("paged_attention"):
        dims = (4, 2, 128, 16, True)
    dims = op.dims(*dims) if dims else dims_for(name, 384)
    args = op.sample(dims, 10, Random("cpu"))
    (source,) = [i for i, a in enumerate(op.arguments) if a.name in ("input", "qkv", "a")]
    call = getattr(torch.ops.helion_kernels, name)
    clean = fresh_outputs(op, args)
    call(*clean)
    spoilt = list(fresh_outputs(op, args))
    spoilt[source] = spoilt[source].clone()
    spoilt[source][7] = bad
    call(*spoilt)
    rest = [row for row in range(10) if row != 7]
    for i in op.outputs:
        outs = [clean[i], spoilt[i]]
        if op.arguments[i].name == "kv_cache":
            slots = args[at(op, "slot_mapping")][rest]
            outs = [out.transpose(1, 2).flatten(0, 1)[slots] for out in outs]
        else:
            outs = [out[rest] for out in outs]
        assert torch.equal(*(out.contiguous().view(torch.uint8) for out in outs))


def test_residual_is_updated_in_place_and_nothing_else_is():
    for name in ("rms_norm_dynamic_per_token_quant", "rms_norm_per_block_quant"):
        op = OPS[name]
        args = op.sample(op.dims(384, True), 5, Random("cpu"))
        before = [x.clone() for x in args if isinstance(x, torch.Tensor)]
        getattr(torch.ops.helion_kernels, name)(*args)
        total = (before[1].float() + before[-1].float()).to(torch.bfloat16)
        assert torch.equal(args[-1], total)
        assert torch.equal(args[1], before[1])
        assert torch.equal(args[2], before[2])


def test_outputs_are_poisoned():
    assert Random("cpu").empty((3, 5), FP8).float().isnan().all()
    assert (Random("cpu").empty((3, 5), torch.bfloat16) > 3e38).all()


@pytest.mark.parametrize("name", [n for n in OPS if n.startswith("rms_norm")])
def test_a_token_whose_squares_overflow_float32_becomes_zeros(name):
    """As upstream, and as the model defines its norm: the mean of squares is a float32."""
    op = OPS[name]
    args = op.sample(dims_for(name, 384, residual=False), 3, Random("cpu"))
    args[at(op, "input")][1] = 3e38
    getattr(torch.ops.helion_kernels, name)(*args)
    assert (args[at(op, "out")].float()[1] == 0).all()
    assert (args[at(op, "scale")][1] <= MIN_TOKEN_SCALE).all()


@pytest.mark.parametrize("name", GEMMS)
def test_the_largest_scale_overflows_nothing_that_is_finite(name):
    op = OPS[name]
    args = op.sample(op.dims(200, 512), 3, Random("cpu"))
    args[at(op, "scale_a")][1] = torch.finfo(torch.bfloat16).max / 448
    args[at(op, "scale_b")].fill_(1e-9)
    assert assert_right(op, args)[0].isfinite().all()
