# SPDX-License-Identifier: Apache-2.0
"""Every op, interpreted, against its float64 reference on open-ended inputs.

The bounds stand in helion_kernels/accuracy.py; outputs are poisoned before every call.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helion_kernels import OPS
from helion_kernels.accuracy import expect, fresh_outputs, problems
from helion_kernels.fp8 import FP8, MIN_TOKEN_SCALE
from helion_kernels.sample import Random

few = settings(max_examples=25, deadline=None)
tokens = st.integers(1, 40)
seeds = st.integers(0, 2**31)
groups = st.integers(1, 41)
heads = st.tuples(st.integers(1, 9), st.integers(1, 5), st.sampled_from([32, 64, 128]))
PER_TOKEN = [n for n in OPS if n.endswith("per_token_quant") or n.startswith("dynamic")]
PER_GROUP = [n for n in OPS if "per_block" in n or "group" in n]
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


@pytest.mark.parametrize("name", PER_TOKEN)
@few
@given(num_tokens=tokens, size=st.integers(1, 700), residual=st.booleans(), seed=seeds)
def test_per_token(name, num_tokens, size, residual, seed):
    op = OPS[name]
    args = op.sample(dims_for(name, size, residual), num_tokens, Random("cpu", seed))
    assert_right(op, args)


LAYOUTS = {
    "row-major": lambda m, g: torch.empty(m, g),
    "column-major": lambda m, g: torch.empty(g, m).t(),
    "columns aligned to 4": lambda m, g: torch.empty(g, -(-m // 4) * 4).t()[:m],
    "part of a wider buffer": lambda m, g: torch.empty(m, g + 3)[:, 1 : g + 1],
}


@pytest.mark.parametrize("name", PER_GROUP)
@few
@given(
    num_tokens=tokens,
    groups=groups,
    residual=st.booleans(),
    layout=st.sampled_from(list(LAYOUTS)),
    seed=seeds,
)
def test_per_group(name, num_tokens, groups, residual, layout, seed):
    op = OPS[name]
    dims = dims_for(name, 128 * groups, residual)
    args = list(op.sample(dims, num_tokens, Random("cpu", seed)))
    args[at(op, "scale")] = LAYOUTS[layout](num_tokens, groups).fill_(float("nan"))
    assert_right(op, tuple(args))


@pytest.mark.parametrize("hidden_size", [640, 2560, 5120])
@pytest.mark.parametrize("name", QUANT)
def test_sizes_of_models_that_are_no_powers_of_two(name, hidden_size):
    op = OPS[name]
    assert_right(op, op.sample(dims_for(name, hidden_size), 3, Random("cpu", hidden_size)))


@few
@given(num_tokens=tokens, heads=heads, dtype=st.sampled_from([torch.bfloat16, torch.float32]))
def test_qk_norm_rope(num_tokens, heads, dtype):
    op = OPS["fused_qk_norm_rope"]
    args = list(op.sample(op.dims(*heads), num_tokens, Random("cpu", num_tokens)))
    args[at(op, "cos_sin_cache")] = args[at(op, "cos_sin_cache")].to(dtype)
    assert_right(op, tuple(args))


@pytest.mark.parametrize("name", [n for n in OPS if n.startswith("fused_qk")])
def test_qkv_as_part_of_a_wider_buffer(name):
    op = OPS[name]
    args = list(op.sample(op.dims(4, 2, 64), 9, Random("cpu")))
    qkv = args[at(op, "qkv")]
    wide = torch.full((9, qkv.shape[1] + 64), float("nan"), dtype=qkv.dtype)
    wide[:, 32:-32] = qkv
    args[at(op, "qkv")] = wide[:, 32:-32]
    assert_right(op, tuple(args))


@few
@given(num_tokens=tokens, n=st.integers(1, 300), k=st.integers(1, 40), seed=seeds)
def test_scaled_mm(num_tokens, n, k, seed):
    op = OPS["scaled_mm"]
    assert_right(op, op.sample(op.dims(n, 16 * k), num_tokens, Random("cpu", seed)))


@few
@given(num_tokens=tokens, n=st.integers(1, 300), groups=st.integers(1, 9), seed=seeds)
def test_scaled_mm_blockwise(num_tokens, n, groups, seed):
    op = OPS["scaled_mm_blockwise"]
    args = list(op.sample(op.dims(n, 128 * groups), num_tokens, Random("cpu", seed)))
    if seed % 2:
        args[3] = args[3].contiguous()  # row-major scales
    assert_right(op, tuple(args))


# -- extremes

EXTREMES = {
    "zeros": lambda x: x.zero_(),
    "denormals": lambda x: x.fill_(1e-39),
    "outlier": lambda x: x[:, 5].fill_(3e4),
    "large": lambda x: x.mul_(1e4),
    "one value": lambda x: x.fill_(-1.5),
}


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("name", QUANT)
def test_extremes(name, extreme):
    op = OPS[name]
    args = op.sample(dims_for(name, 384), 5, Random("cpu"))
    EXTREMES[extreme](args[at(op, "input")])
    assert_right(op, args)


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
    dims = {"fused": (4, 2, 64), "scale": (96, 256)}.get(name[:5])
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
            outs = [out.transpose(1, 2).flatten(0, 1)[args[2][rest]] for out in outs]
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
