# SPDX-License-Identifier: Apache-2.0
"""fused_qk_norm_rope_kv_write: layouts of the paged cache, padding, and what stays untouched."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helion_kernels import OPS
from helion_kernels.accuracy import expect, fresh_outputs, problems
from helion_kernels.sample import Random

OP = OPS["fused_qk_norm_rope_kv_write"]
UNTOUCHED = -7.0


def make_cache(layout, blocks, block_size, kv, d):
    """[blocks, kv, block_size, 2 d] as vLLM shapes it, over memory of the given layout."""
    if layout == "NHD":
        cache = torch.empty(blocks, block_size, kv, 2 * d, dtype=torch.bfloat16).transpose(1, 2)
    elif layout == "HND":
        cache = torch.empty(blocks, kv, block_size, 2 * d, dtype=torch.bfloat16)
    else:  # one layer's part of a buffer in which layers lie side by side
        cache = torch.empty(blocks, 3, kv, block_size, 2 * d, dtype=torch.bfloat16)[:, 1]
    return cache.fill_(UNTOUCHED)


@settings(max_examples=40, deadline=None)
@given(
    num_tokens=st.integers(1, 40),
    padding=st.integers(0, 8),
    skipped=st.integers(1, 9),
    layout=st.sampled_from(["NHD", "HND", "layers side by side"]),
    block_size=st.sampled_from([1, 16, 32, 48]),
    heads=st.tuples(st.integers(1, 9), st.integers(1, 5), st.sampled_from([32, 128])),
    seed=st.integers(0, 2**31),
)
def test_layouts(num_tokens, padding, skipped, layout, block_size, heads, seed):
    """Every `skipped`-th slot is -1, and `padding` tokens have no slot at all."""
    _, kv, d = heads
    make = Random("cpu", seed)
    blocks = -(-num_tokens // block_size) + 2
    cache = make_cache(layout, blocks, block_size, kv, d)
    slots = make.permutation(num_tokens, blocks * block_size)
    slots[::skipped] = -1
    args = list(OP.sample(OP.dims(*heads), num_tokens + padding, make))
    args[1], args[2] = cache, slots
    expected, actual = expect(OP, tuple(args)), fresh_outputs(OP, tuple(args))
    getattr(torch.ops.helion_kernels, OP.name)(*actual)
    assert problems(OP, expected, actual) == []
    by_slot = actual[1].transpose(1, 2).flatten(0, 1)
    written = set(slots.tolist()) - {-1}
    rest = [slot for slot in range(len(by_slot)) if slot not in written]
    assert (by_slot[rest] == UNTOUCHED).all()


def test_all_slots_skipped():
    args = list(OP.sample(OP.dims(4, 2, 64), 5, Random("cpu")))
    args[1] = make_cache("NHD", 3, 16, 2, 64)
    args[2] = torch.full((5,), -1)
    getattr(torch.ops.helion_kernels, OP.name)(*args)
    assert (args[1] == UNTOUCHED).all()
    assert (args[0] < 1e30).all()  # queries are written all the same


def test_values_are_copied_bit_for_bit():
    args = list(OP.sample(OP.dims(4, 2, 64), 5, Random("cpu")))
    getattr(torch.ops.helion_kernels, OP.name)(*args)
    values = args[3][:, -2 * 64 :].unflatten(1, (2, 64))
    cached = args[1].transpose(1, 2).flatten(0, 1)[args[2], :, 64:]
    assert torch.equal(cached, values)


@pytest.mark.parametrize("layout", ["NHD", "layers side by side"])
def test_the_neighbouring_layers_stay_as_they_are(layout):
    args = list(OP.sample(OP.dims(4, 2, 64), 5, Random("cpu")))
    args[1] = make_cache(layout, 2, 16, 2, 64)
    base = args[1]._base if args[1]._base is not None else args[1]
    base.fill_(UNTOUCHED)
    getattr(torch.ops.helion_kernels, OP.name)(*args)
    assert int((base != UNTOUCHED).sum()) <= 5 * 2 * 2 * 64
