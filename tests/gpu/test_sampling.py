# SPDX-License-Identifier: Apache-2.0
"""Tokens sampled with parameters in device memory are those that upstream's sampler takes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("vllm")

REQUESTS, VOCABULARY = 64, 151936


def test_the_same_tokens(monkeypatch):
    from vllm.helion import sampling
    from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample
    from vllm.v1.worker.gpu.sample.states import SamplingStates

    source = np.random.default_rng()
    both = {}
    for serves in (False, True):
        monkeypatch.setattr(sampling, "_serves", serves)
        both[serves] = SamplingStates(REQUESTS, VOCABULARY)
    drawn = 0
    for count in (1, 3, 32, 5):
        requests = source.choice(REQUESTS, count, replace=False)
        for request in requests:
            wanted = SimpleNamespace(
                temperature=source.choice([0.0, 0.5, 1.0]), min_p=source.choice([0.0, 1e-3])
            )
            wanted.top_p, wanted.top_k, wanted.logprobs = 1.0, 0, None
            wanted.seed = int(source.integers(1 << 60))
            for states in both.values():
                states.add_request(request, wanted)
        logits = torch.randn(count, VOCABULARY, device="cuda")
        index = torch.from_numpy(requests).to("cuda", torch.int32)
        position = torch.arange(count, device="cuda")
        tokens = {}
        for serves, states in both.items():
            monkeypatch.setattr(sampling, "_serves", serves)
            states.apply_staged_writes()
            rows = logits.clone()
            states.apply_temperature(rows, index, requests)
            states.apply_min_p(rows, index, requests)
            temperature, seeds = states.temperature.gpu, states.seeds.gpu
            tokens[serves] = gumbel_sample(rows, index, temperature, seeds, position, False)
        assert torch.equal(tokens[True], tokens[False])
        drawn += (tokens[True] != logits.argmax(-1)).sum().item()
    assert drawn, "nothing was drawn, so no parameter was read"
