# SPDX-License-Identifier: Apache-2.0
"""Which steps upstream's sampler takes the largest logit in, and that it draws in all others."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("vllm.helion")

from vllm.helion import greedy
from vllm.v1.worker.gpu.sample import sampler as upstream

DRAWN = torch.tensor([-1])


@pytest.fixture
def sampler(monkeypatch) -> Any:
    """Upstream's, of eight requests; what changes logits beforehand adds a bias to them."""
    sampler = object.__new__(upstream.Sampler)
    sampler.use_flashinfer = sampler.use_fp64_gumbel = False
    sampler.sampling_states = SimpleNamespace(
        temperature=SimpleNamespace(np=np.zeros(8, np.float32), gpu=None),
        seeds=SimpleNamespace(gpu=None),
        get_top_k_top_p=lambda *requests: (None, None),
    )
    sampler.bias = torch.zeros(16)
    monkeypatch.setattr(
        upstream.Sampler, "apply_sampling_params", lambda self, logits, *_, **__: logits + self.bias
    )
    monkeypatch.setattr(upstream, "gumbel_sample", lambda *_, **__: DRAWN)
    monkeypatch.setattr(greedy, "_serves", True)
    return sampler


def sample(sampler: Any, logits: torch.Tensor, requests: list[int]) -> tuple[Any, torch.Tensor]:
    return sampler.sample(logits, None, np.array(requests), None, None, None)


def test_a_greedy_step_takes_the_largest_of_the_changed_logits(sampler):
    logits = torch.randn(3, 16)
    sampler.bias[5] = 100
    logits[1, 2] = 200
    tokens, processed = sample(sampler, logits, [4, 0, 7])
    assert tokens.tolist() == [5, 2, 5]
    assert tokens.dtype == torch.int64
    assert torch.equal(processed, logits + sampler.bias)


def test_the_first_of_equal_logits(sampler):
    logits = torch.zeros(2, 16)
    logits[0, [3, 9]] = 1
    assert sample(sampler, logits, [0, 1])[0].tolist() == [3, 0]


def test_one_request_that_draws_makes_the_step_draw(sampler):
    sampler.sampling_states.temperature.np[6] = 0.1
    logits = torch.randn(2, 16)
    assert sample(sampler, logits, [0, 6])[0] is DRAWN
    assert sample(sampler, logits, [0, 5])[0] is not DRAWN, "request 6 is not in this step"


def test_guesses_have_rows_of_their_own(sampler):
    logits = torch.randn(8, 16)
    assert sample(sampler, logits, [0, 1])[0].tolist() == [
        max(range(16), key=row.tolist().__getitem__) for row in logits
    ]


def test_models_that_run_stock_draw_as_upstream_does(sampler):
    greedy.use(False)
    assert sample(sampler, torch.randn(1, 16), [0])[0] is DRAWN
