# SPDX-License-Identifier: Apache-2.0
"""Upstream's kernels in our ops' place are right at any number of tokens, ragged ones too."""

import pytest
import torch

pytest.importorskip("vllm.helion.stock", reason="vLLM-Helion is not installed")

from helion_kernels import OPS, plan
from helion_kernels.accuracy import ACCUMULATION, expect, fresh_outputs, problems
from helion_kernels.sample import Random
from vllm.helion import stock

LOOSER = {"scaled_mm": 2.0**-6}
"""CUTLASS leaves all of K to the tensor core's accumulator."""


@pytest.mark.parametrize("num_tokens", [1, 2, 65, 127, 130, 511, 1025])
@pytest.mark.parametrize("name", ["scaled_mm", "scaled_mm_blockwise"])
def test_products(name, num_tokens) -> None:
    stock.register()
    if name not in plan.stock():
        pytest.skip(f"upstream has no {name} for this GPU")
    op = OPS[name]
    args = op.sample(op.dims(1024, 4096), num_tokens, Random("cuda", num_tokens))
    expected, actual = expect(op, args), fresh_outputs(op, args)
    plan.stock()[name](*actual)
    torch.cuda.synchronize()
    assert problems(op, expected, actual, LOOSER.get(name, ACCUMULATION["cuda"])) == []
