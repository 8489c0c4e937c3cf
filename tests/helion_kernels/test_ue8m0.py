# SPDX-License-Identifier: Apache-2.0
"""Weights whose block scales are powers of two."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helion_kernels.fp8 import FP8, GROUP
from helion_kernels.sample import Random
from helion_kernels.ue8m0 import power_of_two, requantise


def test_power_of_two():
    x = torch.tensor([1.0, 1.0 + 2.0**-23, 1.5, 2.0, 0.75, 2.0**-100, 3e-40, 2.0**127])
    expected = [1.0, 2.0, 2.0, 2.0, 1.0, 2.0**-100, 2.0**-131, 2.0**127]
    assert power_of_two(x).tolist() == expected


def wide(scale, n):
    return scale.repeat_interleave(GROUP, 0)[:n].repeat_interleave(GROUP, 1)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 400), groups=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_the_weight_stays_what_it_was_but_for_one_rounding(n, groups, seed):
    make = Random("cpu", seed)
    weight = make.randn((n, groups * GROUP), FP8, std=60.0)
    scale = make.uniform((-(-n // GROUP), groups), 1e-4, 1e-1)
    exact = weight.double() * wide(scale, n).double()
    largest = wide(torch.nn.functional.max_pool2d(
        exact.abs().float()[None], GROUP, ceil_mode=True)[0], n)  # fmt: skip
    requantise(weight, scale)
    assert torch.equal(scale, power_of_two(scale))
    rounded = wide(scale, n).double()
    assert (largest <= 448 * rounded).all() and (largest > 224 * rounded * (1 - 2.0**-20)).all()
    error = (weight.double() * rounded - exact).abs()
    # Half a step: 2^-4 of the value, or of the smallest normal e4m3.
    assert (error <= torch.maximum(exact.abs() * 2.0**-4, rounded * 2.0**-10) * 1.001).all()


def test_powers_of_two_are_kept_bit_for_bit():
    weight = Random("cpu").randn((256, 256), FP8, std=60.0)
    weight[::GROUP, ::GROUP] = 448
    scale = torch.tensor([[0.5, 0.25], [2.0, 1.0]])
    before = weight.clone(), scale.clone()
    requantise(weight, scale)
    assert torch.equal(scale, before[1])
    assert torch.equal(weight.float(), before[0].float())


def test_a_block_of_zeros_stays_zero():
    weight, scale = torch.zeros((100, 128)).to(FP8), torch.full((1, 1), 3e-3)
    requantise(weight, scale)
    assert (weight.float() == 0).all() and 0 < float(scale) < 1e-6
