# SPDX-License-Identifier: Apache-2.0
"""Tokens of a greedy step are those of upstream's Gumbel kernel, which draws nothing for them."""

import pytest
import torch

pytest.importorskip("vllm")

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("rows", [1, 3, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_the_gumbel_kernel(rows, dtype):
    from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample

    logits = torch.randn(rows, 151936, device="cuda", dtype=dtype)
    logits[0] = logits[0].round()  # Many are equal: the first of them is it.
    logits[-1, :-5] = -torch.inf
    nothing = torch.zeros(rows, device="cuda")
    index = torch.arange(rows, device="cuda", dtype=torch.int32)
    position = torch.zeros(rows, device="cuda", dtype=torch.int64)
    expected = gumbel_sample(logits, index, nothing, position, position, apply_temperature=False)
    assert torch.equal(logits.argmax(dim=-1), expected)
