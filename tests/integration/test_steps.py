# SPDX-License-Identifier: Apache-2.0
"""What steps share is what upstream makes anew in each."""

import importlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("vllm.helion")

from vllm.helion import steps
from vllm.v1.worker.gpu import buffer_utils, model_runner
from vllm.v1.worker.gpu.sample import sampler

# The package has a function of the module's name.
preparation = importlib.import_module("vllm.helion.prepare")
CPU = torch.device("cpu")
CHUNK = 64
"""Most tokens of a prompt in a step."""
many = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def afterwards() -> Iterator[None]:
    yield
    steps.use(False)


@pytest.fixture(params=[True, False], ids=["ours", "upstream's"])
def serves(request) -> bool:
    steps.use(request.param)
    return request.param


@pytest.fixture(autouse=True)
def copies(monkeypatch) -> list[list[int]]:
    """What was copied to the device, on a machine without one."""
    made: list[list[int]] = []

    def async_copy_to_gpu(x, out=None, device=None):
        made.append(x.tolist())
        copied = torch.from_numpy(x.copy())
        return copied if out is None else out.copy_(copied)

    monkeypatch.setattr(buffer_utils, "async_copy_to_gpu", async_copy_to_gpu)
    monkeypatch.setattr(model_runner, "async_copy_to_gpu", async_copy_to_gpu)
    return made


@pytest.mark.parametrize("count", [1, 2, 1023, 1024, 1025, 5000])
def test_numbers(count, serves):
    for made, want in ((steps.numbers, torch.arange(count)), (steps.zeros, torch.zeros(count))):
        got = made(count, CPU)
        assert got.dtype == torch.int32 and got.is_contiguous()
        assert got.tolist() == want.tolist()


def test_known_numbers_are_made_once_in_and_outside_of_inference_mode():
    steps.use(True)
    with torch.inference_mode():
        inside = steps.numbers(5, CPU)
    assert steps.numbers(7, CPU).data_ptr() == inside.data_ptr()
    assert not inside.is_inference()
    steps.use(False)
    assert steps.numbers(5, CPU).data_ptr() != inside.data_ptr()


def test_requests_are_copied_when_they_change(serves, copies):
    first = np.array([3, 0], np.int32)
    one = steps.requests(first, CPU)
    same = steps.requests(first.copy(), CPU)
    assert (same is one) is serves
    for index in ([0, 3], [0, 3, 1], [0], [3, 0]):
        assert steps.requests(np.array(index, np.int32), CPU).tolist() == index
    assert one.tolist() == [3, 0], "steps in flight read it"
    assert len(copies) == (5 if serves else 6)


def test_requests_of_another_device_are_another_copy(copies):
    steps.use(True)
    index = np.array([3, 0], np.int32)
    steps.requests(index, CPU)
    steps.requests(index, torch.device("meta"))
    assert len(copies) == 2
    steps.use(True)  # another model in this process
    steps.requests(index, torch.device("meta"))
    assert len(copies) == 3


class Seen(Exception):
    pass


@pytest.mark.parametrize("layers", [True, False], ids=["served", "not served"])
def test_only_what_is_served(layers, monkeypatch):
    """When a worker has loaded its model."""

    def use(serves):
        raise Seen(serves)

    worker = SimpleNamespace(model_runner=SimpleNamespace(get_model=object), vllm_config=None)
    monkeypatch.setattr(preparation, "layers_of", lambda model: [object()] if layers else [])
    monkeypatch.setattr(steps, "use", use)
    with pytest.raises(Seen) as seen:
        preparation.prepare(worker)
    assert seen.value.args == (layers,)


# -- upstream's runner, with and without


Request = tuple[int, int]
"""Tokens of its prompt, and those that a step before has computed."""


@st.composite
def any_request(draw) -> Request:
    prompt = draw(st.integers(1, 3 * CHUNK))
    return prompt, draw(st.integers(0, prompt + CHUNK))


@st.composite
def batches(draw) -> list[list[Request]]:
    """Requests of several steps, some of which are the same."""
    step = st.lists(any_request(), min_size=1, max_size=5)
    some = draw(st.lists(step, min_size=1, max_size=3))
    return draw(st.lists(st.sampled_from(some), min_size=1, max_size=5))


def runner(requests: list[Request]) -> Any:
    """Upstream's, whose kernels are done without."""
    made = object.__new__(model_runner.GPUModelRunner)
    prompts, computed = (np.array(each, np.int32) for each in zip(*requests, strict=True))
    vars(made).update(
        device=CPU,
        max_num_reqs=8,
        decode_query_len=1,
        use_dcp=False,
        use_pp=False,
        pcp_manager=None,
        model_config=SimpleNamespace(rswa_window=None),
        model_state=SimpleNamespace(num_new_sampled_tokens_per_step=1),
        req_states=SimpleNamespace(
            req_id_to_index={str(i): i for i in range(len(requests))},
            prefill_len=SimpleNamespace(np=prompts, gpu=None),
            num_computed_prefill_tokens=np.minimum(computed, prompts),
            num_computed_tokens_np=computed,
            num_computed_tokens=SimpleNamespace(gpu=torch.from_numpy(computed)),
            all_token_ids=SimpleNamespace(gpu=None),
            next_prefill_tokens=None,
            last_sampled_tokens=None,
            draft_tokens=None,
        ),
        input_buffers=SimpleNamespace(
            query_start_loc=torch.full((9,), -1, dtype=torch.int32),
            seq_lens=torch.zeros(8, dtype=torch.int32),
            input_ids=torch.arange(1000, 1000 + 8 * CHUNK),
            positions=torch.arange(2000, 2000 + 8 * CHUNK),
            is_padding=torch.zeros(8 * CHUNK, dtype=torch.bool),
        ),
    )
    return made


def tokens_of(request: Request) -> int:
    prompt, computed = request
    return min(CHUNK, prompt - computed) if computed < prompt else 1


def one_step(requests: list[Request]) -> tuple[Any, dict[str, Any]]:
    """The batch of a step, and all of it that is read later."""
    counts = {str(i): tokens_of(request) for i, request in enumerate(requests)}
    scheduled = SimpleNamespace(
        total_num_scheduled_tokens=sum(counts.values()),
        num_scheduled_tokens=counts,
        scheduled_spec_decode_tokens={},
        has_structured_output_requests=False,
    )
    padded = SimpleNamespace(num_tokens=scheduled.total_num_scheduled_tokens + 2, num_reqs=None)
    made = runner(requests)
    batch = made.prepare_inputs(scheduled, padded)
    hidden = torch.randn(padded.num_tokens, 4, generator=torch.Generator().manual_seed(0))
    sampled = sampler.Sampler.__call__(sampler_of(requests), hidden, batch)
    read = {
        name: getattr(batch, name).tolist()
        for name in ("idx_mapping", "expanded_idx_mapping", "expanded_local_pos", "cu_num_logits")
    }
    for name in ("input_ids", "positions"):
        read[name] = getattr(batch, name)[batch.logits_indices].tolist()
    read["hidden"] = hidden[batch.logits_indices].tolist()
    read["num_sampled"] = sampled.num_sampled.tolist()
    read["rejected"] = sampled.num_rejected.tolist()
    return batch, read


def sampler_of(requests: list[Request]) -> Any:
    prompts = torch.tensor([prompt for prompt, _ in requests], dtype=torch.int32)
    return SimpleNamespace(
        compute_nans=False,
        returns_logprobs=lambda index: False,
        sample=lambda logits, index, *rest, **flags: (index.long(), logits),
        req_states=SimpleNamespace(prefill_len=SimpleNamespace(gpu=prompts)),
    )


@pytest.fixture
def kernels(monkeypatch):
    """What upstream's do, in PyTorch."""

    def combine_sampled_and_draft_tokens(ids, index, last, starts, *rest):
        return (starts[1 : len(index) + 1] - 1).long()

    def get_num_sampled_and_rejected(ones, lengths, logits, index, prompts):
        unfinished = lengths < prompts[index]
        ones = torch.where(unfinished, 0, ones)
        rejected = torch.where(unfinished, 0, logits.diff() - ones)
        return ones, rejected

    def prepare_pos_seq_lens(index, starts, computed, positions, lengths):
        lengths[: len(index)] = computed[index] + starts.diff()[: len(index)]

    monkeypatch.setattr(model_runner, "prepare_prefill_inputs", lambda *args: None)
    monkeypatch.setattr(model_runner, "prepare_pos_seq_lens", prepare_pos_seq_lens)
    monkeypatch.setattr(
        model_runner, "combine_sampled_and_draft_tokens", combine_sampled_and_draft_tokens
    )
    monkeypatch.setattr(sampler, "get_num_sampled_and_rejected", get_num_sampled_and_rejected)


@many
@given(work=batches())
def test_any_steps_have_upstreams_batches(work, kernels):
    steps.use(True)
    ours = [one_step(requests)[1] for requests in work]
    steps.use(False)
    assert ours == [one_step(requests)[1] for requests in work]


def test_a_decode_step_makes_nothing_that_is_known(kernels, copies, monkeypatch):
    requests = [(5, 5), (7, 20)]
    steps.use(True)
    one_step(requests)
    del copies[:]
    monkeypatch.setattr(sampler, "get_num_sampled_and_rejected", None)
    batch, _ = one_step(requests)
    assert batch.logits_indices == slice(2)
    (starts,) = copies
    assert starts[:3] == [0, 1, 2]


def test_a_step_with_guesses_is_upstreams():
    steps.use(True)
    indices = torch.arange(8)
    assert steps.sampled_from(indices, 8, num_guesses=6) is indices
    assert steps.sampled_from(indices, 9, num_guesses=0) is indices
    batch = SimpleNamespace(num_draft_tokens=6, is_prefilling_np=np.zeros(2, bool))
    assert steps.sampled(batch) is None
