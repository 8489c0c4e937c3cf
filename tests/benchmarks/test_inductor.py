# SPDX-License-Identifier: Apache-2.0
"""The eager code that Inductor is given, on a CPU: its numbers, and that it is one graph.

The bounds stand in helion_kernels/accuracy.py; outputs are poisoned before every call.
"""

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import inductor
from benchmarks.eager import EAGER
from helion_kernels import OPS
from helion_kernels.accuracy import expect, fresh_outputs, problems
from helion_kernels.sample import Random

OTHERS = {name for name in OPS if "scaled_mm" in name or "attention" in name}
"""Which vLLM's graphs leave to kernels of their own."""
EXTREMES = {
    "zeros": lambda x: x.zero_(),
    "denormals": lambda x: x.fill_(1e-39),
    "outlier": lambda x: x[:, 5].fill_(3e4),
    "one value": lambda x: x.fill_(-1.5),
}


def dims_for(name, groups, residual=True):
    if name.startswith("fused_qk"):
        return OPS[name].dims(2 * groups, groups, 64)
    more = (residual,) if name.startswith("rms_norm") else ()
    return OPS[name].dims(128 * groups, *more)


def wrong(name, args, function):
    """What is wrong with what function returns, or writes, for a copy of args."""
    op = OPS[name]
    expected, actual = expect(op, args), list(fresh_outputs(op, args))
    for at, result in zip(op.outputs, function(*actual), strict=True):
        if result is not None:
            assert (result.shape, result.dtype) == (actual[at].shape, actual[at].dtype)
            actual[at] = result
    return problems(op, expected, tuple(actual))


def test_every_op_that_inductor_compiles_has_eager_code():
    assert set(EAGER) == set(OPS) - OTHERS
    assert all(inductor.arms(name, (1, 1)) == {} for name in OTHERS)


@pytest.mark.parametrize("name", EAGER)
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 33), st.integers(1, 7), st.booleans(), st.integers(0, 2**31))
def test_numbers(name, num_tokens, groups, residual, seed):
    args = OPS[name].sample(dims_for(name, groups, residual), num_tokens, Random("cpu", seed))
    assert wrong(name, args, EAGER[name]) == []


@pytest.mark.parametrize("kind", EXTREMES)
@pytest.mark.parametrize("name", [name for name in EAGER if not name.startswith("fused_qk")])
def test_extremes(name, kind):
    args = OPS[name].sample(dims_for(name, 3), 5, Random("cpu"))
    EXTREMES[kind](args[1])
    assert wrong(name, args, EAGER[name]) == []


def test_tokens_past_the_slots_write_nothing():
    op = OPS["fused_qk_norm_rope_kv_write"]
    args = list(op.sample(op.dims(4, 2, 64), 9, Random("cpu")))
    args[2] = args[2][:6]
    assert wrong(op.name, tuple(args), EAGER[op.name]) == []


@pytest.mark.parametrize("name", EAGER)
def test_one_graph_serves_every_number_of_tokens(name):
    """Compiled once without guards, as on a GPU: a size baked in would show in the numbers."""
    dims, counters = dims_for(name, 4), torch._dynamo.utils.counters
    counters.clear()
    function = inductor.compiled(name, dims, 64, "cpu", "aot_eager")
    for num_tokens in (1, 7, 64, 80):
        args = OPS[name].sample(dims, num_tokens, Random("cpu", num_tokens))
        assert wrong(name, args, function) == []
    assert counters["stats"]["unique_graphs"] == 1


def test_scales_of_groups_have_the_layout_that_the_gemm_reads():
    for name in (name for name in EAGER if "group" in name or "per_block" in name):
        args = OPS[name].sample(dims_for(name, 3), 8, Random("cpu"))
        assert EAGER[name](*args)[1].stride() == (1, 8)


def test_outputs_live_until_the_next_call(monkeypatch):
    made = []

    def function(x):
        result = x.clone()
        made.append(weakref.ref(result))
        return result

    inductor._attempt.cache_clear()
    monkeypatch.setattr(inductor, "compiled", lambda name, dims: function)
    bind = inductor.arms("per_token_group_fp8_quant", (128,))["inductor"]
    first, second = bind(torch.zeros(1)), bind(torch.ones(1))
    for run in (first, second, first):
        run()
    assert [ref() is not None for ref in made] == [False, True, True]


def test_what_does_not_compile_is_tried_once(monkeypatch):
    tried = []

    def fail(name, dims):
        tried.append(dims)
        raise RuntimeError("no Triton")

    inductor._attempt.cache_clear()
    monkeypatch.setattr(inductor, "compiled", fail)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no Triton"):
            inductor.arms("per_token_group_fp8_quant", (128,))["inductor"](torch.zeros(1))
    inductor._attempt.cache_clear()
    assert tried == [(128,)]


def test_num_tokens_alone_is_dynamic():
    op = OPS["rms_norm_per_block_quant"]
    out, _, weight, scale, _, residual = inductor.example(op, dims_for(op.name, 3), 64, "cpu")
    marked = [getattr(x, "_dynamo_dynamic_indices", set()) for x in (out, weight, scale, residual)]
    assert marked == [{0}, set(), {0}, {0}]
