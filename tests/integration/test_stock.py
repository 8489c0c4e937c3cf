# SPDX-License-Identifier: Apache-2.0
"""Upstream's kernels under our ops' signatures."""

from types import SimpleNamespace

import pytest
import torch

from helion_kernels import OPS
from helion_kernels.accuracy import expect, fresh_outputs, problems
from helion_kernels.sample import Random
from vllm.helion import stock


@pytest.fixture
def cutlass(monkeypatch):
    """In upstream's place a product in float64 that is as particular as upstream's kernel is."""
    met = []

    def cutlass_scaled_mm(out, a, b, scale_a, scale_b, bias):
        assert a.shape[0] % 4 == 0
        assert out.shape == (a.shape[0], b.shape[1])
        assert scale_a.shape == (a.shape[0], a.shape[1] // 128)
        assert scale_a.stride() == (1, a.shape[0])
        met.append(a.shape[0])
        OPS["scaled_mm_blockwise"].reference(out, a, b, scale_a, scale_b.t())

    ops = SimpleNamespace(_C=SimpleNamespace(cutlass_scaled_mm=cutlass_scaled_mm))
    monkeypatch.setattr(stock, "torch", _Torch(ops))
    return met


class _Torch:
    def __init__(self, ops):
        self.ops = ops

    def __getattr__(self, name):
        return getattr(torch, name)


@pytest.mark.parametrize("num_tokens", [4, 128, 129, 130, 511])
def test_block_products_of_any_number_of_tokens(num_tokens, cutlass):
    op = OPS["scaled_mm_blockwise"]
    args = op.sample(op.dims(96, 256), num_tokens, Random("cpu", num_tokens))
    expected, actual = expect(op, args), fresh_outputs(op, args)
    stock._scaled_mm_blockwise(*actual)
    assert problems(op, expected, actual) == []
    assert cutlass == [-(-num_tokens // 4) * 4]
