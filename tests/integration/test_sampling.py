# SPDX-License-Identifier: Apache-2.0
"""Copies of sampling parameters follow what upstream keeps in host memory."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("vllm.helion")

from vllm.helion import sampling
from vllm.v1.worker.gpu.sample.states import SamplingStates


class OnDevice(torch.Tensor):
    is_cuda = True


class Parameter:
    """Upstream's UvaBackedTensor, on a machine without a device."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.cpu = torch.zeros(8, dtype=dtype)
        self.np = self.cpu.numpy()
        self.copy_to_uva()

    def copy_to_uva(self) -> None:
        self.gpu = self.uva = self.cpu.clone().as_subclass(OnDevice)


@pytest.fixture
def states(monkeypatch) -> Any:
    """Upstream's, of eight requests."""
    monkeypatch.setattr(sampling, "_serves", True)
    states = object.__new__(SamplingStates)
    for name in ("temperature", "top_p", "min_p"):
        setattr(states, name, Parameter(torch.float32))
    states.top_k, states.seeds = Parameter(torch.int32), Parameter(torch.int64)
    states.seeds_set, states.num_logprobs = np.zeros(8, bool), np.zeros(8, np.int32)
    states.vocab_size = 100
    states.apply_staged_writes()
    return states


def request(temperature: float, seed: int | None = None) -> Any:
    return SimpleNamespace(
        temperature=temperature, top_p=0.9, top_k=5, min_p=0.25, seed=seed, logprobs=None
    )


def test_kernels_read_copies_of_what_requests_ask_for(states):
    before = {name: getattr(states, name).gpu.data_ptr() for name in sampling.PARAMETERS}
    states.add_request(3, request(0.75, seed=1 << 40))
    states.apply_staged_writes()
    for name in sampling.PARAMETERS:
        parameter = getattr(states, name)
        assert parameter.gpu is not parameter.uva
        assert parameter.gpu.data_ptr() == before[name], "steps in flight may still read it"
        assert parameter.gpu.tolist() == parameter.np.tolist()
    assert states.temperature.gpu[3] == 0.75
    assert states.seeds.gpu[3] == 1 << 40
    assert states.top_k.gpu is states.top_k.uva


def test_a_step_without_new_requests_copies_nothing(states):
    states.temperature.gpu[0] = 7
    states.apply_staged_writes()
    assert states.temperature.gpu[0] == 7
    states.add_request(5, request(0.5))
    states.apply_staged_writes()
    assert states.temperature.gpu.tolist() == [0, 0, 0, 0, 0, 0.5, 0, 0]


def test_in_and_outside_of_inference_mode(states):
    for name in sampling.PARAMETERS:
        del getattr(states, name).helion
    with torch.inference_mode():
        states.apply_staged_writes()
    states.add_request(0, request(0.5))
    states.apply_staged_writes()
    assert states.temperature.gpu[0] == 0.5


def test_models_that_run_stock_read_what_upstream_has(states):
    sampling.use(False)
    states.add_request(3, request(0.75))
    states.apply_staged_writes()
    assert all(
        getattr(states, name).gpu is getattr(states, name).uva for name in sampling.PARAMETERS
    )
