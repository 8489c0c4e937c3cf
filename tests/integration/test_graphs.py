# SPDX-License-Identifier: Apache-2.0
"""Upstream's CudaGraphManager with our hook: which graphs there are, which is replayed for a step,
and what a layer is told while one is captured.
"""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("vllm.helion")

from vllm.config.compilation import CUDAGraphMode
from vllm.helion import graphs
from vllm.v1.worker.gpu import cudagraph_utils
from vllm.v1.worker.gpu.cudagraph_utils import (
    CudaGraphManager,
    ModelCudaGraphManager,
    get_uniform_token_count,
)

SIZES = [1, 2, 4, 8, 16]
MOST_REQUESTS = 8
MODES = [mode for mode in CUDAGraphMode if mode != CUDAGraphMode.NONE]


def manager(mode=CUDAGraphMode.FULL, decode_query_len=1, kind=ModelCudaGraphManager):
    """As for a server of 8 requests, without a device."""
    made = object.__new__(kind)
    vars(made).update(
        vllm_config=SimpleNamespace(speculative_config=None, num_speculative_tokens=0),
        compilation_config=SimpleNamespace(
            cudagraph_capture_sizes=SIZES, max_cudagraph_capture_size=SIZES[-1]
        ),
        cudagraph_mode=mode,
        decode_query_len=decode_query_len,
        max_num_reqs=MOST_REQUESTS,
        lora_capture_cases=[0],
        use_breakable_cg=False,
        device=torch.device("cpu"),
        pool=None,
        graphs={},
        _lora_dispatch_map={},
        _max_lora_case=0,
        _candidates={},
        _capture_descs={},
        _graphs_captured=True,
    )
    made._init_candidates()
    return made


@pytest.fixture(params=[1, 4])
def query_len(request):
    """Tokens of a sequence in a decode step."""
    return request.param


@pytest.fixture
def used(monkeypatch, query_len):
    """A layer runs our attention; nothing was captured yet."""
    monkeypatch.setattr(graphs, "_query_len", 0)
    monkeypatch.setattr(graphs, "_decode", False)
    monkeypatch.setattr(graphs, "_warming_up", False)
    graphs.use(query_len)


@pytest.fixture
def unused(monkeypatch):
    monkeypatch.setattr(graphs, "_query_len", 0)


def dispatched(to, *query_lens):
    """The graph for a step of requests with so many tokens each."""
    requests, tokens = len(query_lens), sum(query_lens)
    uniform = get_uniform_token_count(requests, tokens, max(query_lens))
    return to.dispatch(requests, tokens, uniform, 0)


def test_both_kinds_are_captured(used, query_len):
    (descs,) = manager(decode_query_len=query_len)._capture_descs.values()
    decode = [desc.num_tokens for desc in descs if desc.uniform_token_count == query_len]
    mixed = [desc.num_tokens for desc in descs if desc.uniform_token_count is None]
    # A decode step has no more tokens than its requests give it.
    assert decode == {1: [8, 4, 2, 1], 4: [16, 8, 4]}[query_len] and mixed == [16, 8, 4, 2, 1]
    assert all(desc.cg_mode == CUDAGraphMode.FULL for desc in descs)


def test_a_decode_step_gets_the_decode_graph(used, query_len):
    made = manager(decode_query_len=query_len)
    for requests in range(1, min(MOST_REQUESTS, SIZES[-1] // query_len) + 1):
        desc = dispatched(made, *[query_len] * requests)
        assert desc.uniform_token_count == query_len
        assert desc.num_tokens == query_len * desc.num_reqs >= query_len * requests


@pytest.mark.parametrize("query_lens", [(2,), (1, 2), (5, 1, 1), (8, 8), (3, 3), (4, 3)])
def test_any_other_step_gets_the_mixed_graph(query_lens, used, query_len):
    desc = dispatched(manager(decode_query_len=query_len), *query_lens)
    assert desc.cg_mode == CUDAGraphMode.FULL
    assert desc.uniform_token_count is None


def test_a_step_beyond_all_graphs_gets_none(used, query_len):
    assert dispatched(manager(decode_query_len=query_len), 17).cg_mode == CUDAGraphMode.NONE


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_without_a_layer_of_ours_graphs_are_upstreams(mode, unused, monkeypatch):
    ours = manager(mode)
    monkeypatch.setattr(graphs, "separate_decode", lambda manager: False)
    upstreams = manager(mode)
    assert ours._candidates == upstreams._candidates
    assert ours._capture_descs == upstreams._capture_descs


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != CUDAGraphMode.FULL],
                         ids=lambda mode: mode.name)  # fmt: skip
def test_other_modes_stay_as_they_are(mode, used, query_len, monkeypatch):
    ours = manager(mode, query_len)
    monkeypatch.setattr(graphs, "_query_len", 0)
    assert ours._candidates == manager(mode, query_len)._candidates


def test_steps_of_other_lengths_stay_as_they_are(used, monkeypatch):
    """Such as our attention does not serve."""
    ours = manager(decode_query_len=3)
    monkeypatch.setattr(graphs, "_query_len", 0)
    assert ours._candidates == manager(decode_query_len=3)._candidates


def test_graphs_of_a_draft_stay_as_they_are(used, query_len, monkeypatch):
    """One of its managers knows as many tokens as the target's."""
    ours = manager(decode_query_len=query_len, kind=CudaGraphManager)
    monkeypatch.setattr(graphs, "_query_len", 0)
    upstreams = manager(decode_query_len=query_len, kind=CudaGraphManager)
    assert ours._candidates == upstreams._candidates


def test_what_a_layer_is_told_while_graphs_are_captured(used, query_len, monkeypatch):
    """And when they are warmed up, so that nothing is launched for the first time in a capture.

    Mixed graphs are captured with as many tokens a request too: the metadata cannot tell.
    """
    capturing = [False]

    @contextmanager
    def graph(*_):
        capturing[0] = True
        yield
        capturing[0] = False

    offloader = SimpleNamespace(sync_prev_onload=int, join_after_forward=int)
    monkeypatch.setattr(cudagraph_utils, "graph_capture", lambda device: nullcontext())
    monkeypatch.setattr(cudagraph_utils, "is_global_first_rank", lambda: False)
    monkeypatch.setattr(cudagraph_utils, "get_offloader", lambda: offloader)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    as_many_each = SimpleNamespace(max_query_len=query_len)
    told, ahead = {}, {}

    def create_forward_fn(desc, warmup):
        def forward(mode):
            for _ in range(3):  # layers
                (told if capturing[0] else ahead)[desc] = graphs.is_decode(as_many_each)

        return forward

    made = manager(decode_query_len=query_len)
    CudaGraphManager.capture(made, create_forward_fn)
    assert set(told) == set(made.graphs) and len(told) == {1: 9, 4: 8}[query_len]
    assert all(decode is (desc.uniform_token_count == query_len) for desc, decode in told.items())
    assert ahead == told
    # Of steps that come later the metadata says it again, where it can.
    assert graphs.is_decode(as_many_each) is (query_len == 1)


@pytest.mark.parametrize("longest", [1, 2, 4, 700])
def test_without_a_graph_the_metadata_says_it_of_one_token_alone(longest, used, query_len,
                                                                 monkeypatch):  # fmt: skip
    """The longest of several may be of four tokens, and others shorter."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    decode = graphs.is_decode(SimpleNamespace(max_query_len=longest))
    assert decode is (longest == query_len == 1)


def test_what_is_announced_and_not_captured_makes_no_step_of_more_tokens_a_decode_step(
    used, query_len, monkeypatch
):
    """Such as another model's graph, which has no layer of ours."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    graphs.capturing(SimpleNamespace(uniform_token_count=query_len))
    assert not graphs.is_decode(SimpleNamespace(max_query_len=query_len + 1))
