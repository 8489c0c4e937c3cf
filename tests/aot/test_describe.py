# SPDX-License-Identifier: Apache-2.0
"""A pack's formulas say of any call what the generated host function would do."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import SMALL, host

from helion_kernels import OPS, launch, select
from helion_kernels.aot import describe, expression, index, trace
from helion_kernels.aot.expression import Inexpressible
from helion_kernels.aot.target import TARGETS, pretend

TARGET = TARGETS["sm_90"]
CASES = [*SMALL.items(), ("fused_qk_norm_rope_paged_attention", (4, 2, 128, 16, True, 4))]
"""The last with three guesses to check."""


@pytest.fixture(scope="module")
def described():
    """(signature, kernel, host function, Triton's signature) by case and bucket, made once."""
    done = {}

    def get(name, sizes, bucket):
        if (name, sizes, bucket) not in done:
            op, dims = OPS[name], OPS[name].dims(*sizes)
            choices = select.choose(op, dims, 8192, "some other GPU")
            with pretend(TARGET):
                specialised = launch.generate(op, dims, choices[bucket].config)
                compiled = specialised.compile()
                kernel = describe.kernel(op, dims, specialised, compiled, "", "", "")
            signature = describe.signature(op, dims)
            made = signature, kernel, specialised.function, compiled.src.signature
            done[name, sizes, bucket] = made
        return done[name, sizes, bucket]

    return get


@pytest.mark.parametrize(("name", "dims"), CASES)
@settings(max_examples=25, deadline=None)
@given(num_tokens=st.integers(1, 20000), pad=st.integers(0, 40), bucket=st.sampled_from([0, -1]))
def test_grid_and_parameters_are_those_of_the_host_function(
    name, dims, described, num_tokens, pad, bucket
):
    signature, kernel, function, triton = described(name, dims, bucket)
    args, grid, given_ = host(OPS[name], function, signature, num_tokens, pad)
    tensors = [arg if isinstance(arg, torch.Tensor) else None for arg in args]
    sizes = [None if t is None else t.shape for t in tensors]
    strides = [None if t is None else t.stride() for t in tensors]

    def value(words):
        return expression.evaluate(words, sizes, strides)

    assert [value(extent) for extent in kernel.grid] == [*grid, 1, 1][:3]
    forms = zip(given_, triton.values(), strict=False)
    passed = [arg for arg, form in forms if form != "constexpr"]
    assert len(passed) == len(kernel.parameters)
    for arg, parameter in zip(passed, kernel.parameters, strict=True):
        if parameter.form == "pointer":
            tensor = tensors[parameter.argument]
            assert arg.untyped_storage()._cdata == tensor.untyped_storage()._cdata
            assert arg.storage_offset() * arg.element_size() == value(parameter.value)
        elif parameter.form in ("fp32", "fp64"):
            assert arg == args[parameter.argument]
        else:
            assert arg == value(parameter.value)
    for assumption in kernel.assumptions:
        if assumption.rule == "divisible":
            assert value(assumption.value) % assumption.number == 0


@pytest.mark.parametrize("name", OPS)
def test_records_survive_json(name, described):
    signature, kernel, *_ = described(name, SMALL[name], 0)
    data = json.loads(json.dumps([index.encode(signature), index.encode(kernel)]))
    assert index.decode_signature(data[0], "it") == signature
    assert index.decode_kernel(data[1], "it", [signature]) == kernel


@pytest.mark.parametrize(
    ("name", "sizes"), [("cos_sin_cache", (8192, 128)), ("kv_cache", (7, 2, 32, 256))]
)
def test_open_sizes_are_in_no_kernel(name, sizes, monkeypatch):
    """The same Triton source, whatever they are in the sample."""
    op = OPS["fused_qk_norm_rope_kv_write"]
    dims, position = op.dims(4, 2, 128), [a.name for a in op.arguments].index(name)
    config, sample = op.default_config(dims, 16), op.sample

    def other(dims, num_tokens, make):
        args = list(sample(dims, num_tokens, make))
        args[position] = make.empty(sizes, args[position].dtype)
        return tuple(args)

    sources = []
    for each in (sample, other):
        object.__setattr__(op, "sample", each)
        launch.bind.cache_clear()
        try:
            with pretend(TARGET):
                sources.append(launch.generate(op, dims, config).kernel.src)
        finally:
            object.__setattr__(op, "sample", sample)
            launch.bind.cache_clear()
    assert sources[0] == sources[1]


def test_every_symbol_of_sizes_is_open_or_num_tokens():
    for name, dims in SMALL.items():
        for argument in describe.signature(OPS[name], dims).arguments:
            for d, size in enumerate(argument.sizes):
                open_ = size is None or size == index.AT_MOST_NUM_TOKENS
                assert open_ == trace.is_open(OPS[name], argument.name, d)


def test_what_cannot_be_written_down_is_refused():
    class Sine:
        is_Integer = False
        args = ()

    class Value:
        class node:
            expr = Sine()

    with pytest.raises(Inexpressible, match="no word for Sine"):
        expression.of(Value(), {})
