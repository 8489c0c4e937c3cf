# SPDX-License-Identifier: Apache-2.0
"""The bound that the GEMMs promise, at every K of the models: |error| <= 2^-8 |exact| (the rounding
to bf16) + accumulation x sum |a| |b|, with float32 sums on a CPU (2^-20) and, on a GPU, sums that
leave the tensor core every K tile (2^-10; tests/gpu/test_accumulation.py). Neither grows with K.
"""

import pytest
import torch
from accumulation import INPUTS, WORST, K, arguments, mean_error, tensor_core
from dims import GEMMS

from helion_kernels import OPS
from helion_kernels.accuracy import ACCUMULATION, expect, fresh_outputs, problems
from helion_kernels.gemm import STEP
from helion_kernels.sample import Random


@pytest.mark.parametrize("k", K)
@pytest.mark.parametrize("kind", ["normal", "spiked", *INPUTS])
@pytest.mark.parametrize("name", GEMMS)
def test_bound_holds_interpreted(name, kind, k):
    op = OPS[name]
    if kind == "normal":
        args = op.sample(op.dims(24, k), 4, Random("cpu", k))
    else:
        args = arguments(name, kind, 4, 128, k, "cpu", seed=k)
    expected, actual = expect(op, args), fresh_outputs(op, args)
    getattr(torch.ops.helion_kernels, name)(*actual)
    assert problems(op, expected, actual) == []


def modelled(kind, k, step, bound=ACCUMULATION["cuda"]):
    """(what breaks the bound, mean error relative to the magnitudes) of sums that leave the model
    of the tensor core every step of K."""
    args = arguments("scaled_mm", kind, 4, 16, k, "cpu", seed=k)
    expected = expect(OPS["scaled_mm"], args)
    sums = tensor_core(args[1].double(), args[2].double(), step)
    out = (sums * args[3].double() * args[4].double().t()).to(torch.bfloat16)
    actual = (out, *args[1:])
    found = problems(OPS["scaled_mm"], expected, actual, bound)
    return found, abs(mean_error(expected, actual))


@pytest.mark.parametrize("k", K)
@pytest.mark.parametrize("kind", INPUTS)
def test_the_gpu_bound_holds_for_the_tile_of_the_kernels(kind, k):
    found, mean = modelled(kind, k, STEP)
    assert found == []
    assert mean < ACCUMULATION["cuda"]


@pytest.mark.parametrize("k", K)
@pytest.mark.parametrize("kind", ["positive", "heavy positive"])
def test_the_gpu_bound_fails_for_larger_tiles(kind, k):
    """Two tiles at once by the mean, and one sum over all of K in every element."""
    _, mean = modelled(kind, k, 2 * STEP)
    assert mean > ACCUMULATION["cuda"]
    found, mean = modelled(kind, k, k)
    assert "in 64 of 64 places" in found[0]
    assert mean > 16 * ACCUMULATION["cuda"]


@pytest.mark.parametrize("k", K)
def test_the_worst_case_is_bounded_too(k):
    """2^-10 is for values as models have them; spikes that hide the rest of their tile break it."""
    found, mean = modelled("spiked", k, STEP, WORST)
    assert found == []
    assert ACCUMULATION["cuda"] < mean < WORST
    assert modelled("spiked", k, STEP)[0]


def test_the_model_is_exact_where_nothing_is_cut_off():
    """Small integers: all bits fit."""
    make = Random("cpu")
    a, b = (make.integers(shape, -3, 4).double() for shape in ((5, 256), (256, 7)))
    assert torch.equal(tensor_core(a, b, 256), a @ b)
    # 2^13 and 1 have 14 bits, 2^14 and 1 have one more.
    one = torch.ones(2, 1).double()
    for largest, kept in ((2.0**13, 1.0), (2.0**14, 0.0)):
        row = torch.tensor([[largest, 1.0]]).double()
        assert float(tensor_core(row, one, 32)) == largest + kept
