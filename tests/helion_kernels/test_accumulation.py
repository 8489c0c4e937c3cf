# SPDX-License-Identifier: Apache-2.0
"""The bound that the GEMMs promise, at every K of the models: |error| <= 2^-8 |exact| (the rounding
to bf16) + accumulation x sum |a| |b|, with float32 sums on a CPU (2^-20) and, on a GPU, sums that
leave the tensor core every K tile (2^-10; tests/gpu/test_ops.py). Neither grows with K.
"""

import pytest
import torch

from helion_kernels import OPS
from helion_kernels.accuracy import expect, fresh_outputs, problems
from helion_kernels.sample import Random

NAMES = ["scaled_mm", "scaled_mm_blockwise"]


def tensor_core(a: torch.Tensor, b: torch.Tensor, step: int, bits: int = 13) -> torch.Tensor:
    """a @ b of positive operands, in an accumulator that keeps `bits` bits after the first.

    32 products at a time; added from zero anew after every step of K.
    """
    total = torch.zeros(a.shape[0], b.shape[1], dtype=torch.double)
    for start in range(0, a.shape[1], step):
        partial = torch.zeros_like(total)
        for k in range(start, min(start + step, a.shape[1]), 32):
            partial = partial + a[:, k : k + 32] @ b[k : k + 32]
            unit = torch.exp2(torch.floor(torch.log2(partial.clamp(min=1e-300))) - bits)
            partial = torch.floor(partial / unit) * unit
        total += partial
    return total


def positive(name, k, num_tokens=4, n=24):
    """All products positive: nothing cancels, so that what is lost adds up."""
    op = OPS[name]
    args = list(op.sample(op.dims(n, k), num_tokens, Random("cpu", k)))
    for i in (1, 2):
        args[i] = (args[i].view(torch.uint8) & 0x7F).view(args[i].dtype)
    return op, tuple(args)


@pytest.mark.parametrize("k", [4096, 12288, 25600])
@pytest.mark.parametrize("name", NAMES)
def test_bound_holds_interpreted(name, k):
    for op, args in (
        positive(name, k),
        (OPS[name], OPS[name].sample(OPS[name].dims(24, k), 4, Random("cpu", k))),
    ):
        expected, actual = expect(op, args), fresh_outputs(op, args)
        getattr(torch.ops.helion_kernels, name)(*actual)
        assert problems(op, expected, actual) == []


@pytest.mark.parametrize("k", [4096, 12288, 25600])
def test_the_gpu_bound_tells_promoted_sums_from_others(k):
    """On a model of the tensor core: K tiles of 512 keep the bound, one sum over K breaks it."""
    op, args = positive("scaled_mm", k)
    expected = expect(op, args)
    scale = args[3].double() * args[4].double().t()
    a, b = args[1].double(), args[2].double()

    def outcome(step):
        out = (tensor_core(a, b, step) * scale).to(torch.bfloat16)
        error = (out.double() - expected.args[0]) / expected.args[0]
        found = problems(op, expected, (out, *args[1:]), accumulation=2.0**-10)
        return found, abs(float(error.mean()))

    promoted, mean = outcome(512)
    assert promoted == []
    assert mean < 2.0**-10
    _, mean = outcome(k)
    assert mean > 2.0**-10
