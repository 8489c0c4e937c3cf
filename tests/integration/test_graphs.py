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
from vllm.v1.worker.gpu.cudagraph_utils import CudaGraphManager, get_uniform_token_count

SIZES = [1, 2, 4, 8, 16]
MOST_REQUESTS = 8
MODES = [mode for mode in CUDAGraphMode if mode != CUDAGraphMode.NONE]


def manager(mode=CUDAGraphMode.FULL, decode_query_len=1):
    """As for a server of 8 requests, without a device."""
    made = object.__new__(CudaGraphManager)
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


@pytest.fixture
def used(monkeypatch):
    """A layer runs our attention; nothing was captured yet."""
    monkeypatch.setattr(graphs, "_used", False)
    monkeypatch.setattr(graphs, "_decode", False)
    graphs.use()


@pytest.fixture
def unused(monkeypatch):
    monkeypatch.setattr(graphs, "_used", False)


def dispatched(to, *query_lens):
    """The graph for a step of requests with so many tokens each."""
    requests, tokens = len(query_lens), sum(query_lens)
    uniform = get_uniform_token_count(requests, tokens, max(query_lens))
    return to.dispatch(requests, tokens, uniform, 0)


def test_both_kinds_are_captured(used):
    (descs,) = manager()._capture_descs.values()
    decode = [desc.num_tokens for desc in descs if desc.uniform_token_count == 1]
    mixed = [desc.num_tokens for desc in descs if desc.uniform_token_count is None]
    # A decode step has no more tokens than requests.
    assert decode == [8, 4, 2, 1] and mixed == [16, 8, 4, 2, 1]
    assert all(desc.cg_mode == CUDAGraphMode.FULL for desc in descs)


def test_a_decode_step_gets_the_decode_graph(used):
    made = manager()
    for requests in range(1, MOST_REQUESTS + 1):
        desc = dispatched(made, *[1] * requests)
        assert desc.uniform_token_count == 1
        assert desc.num_tokens == desc.num_reqs >= requests


@pytest.mark.parametrize("query_lens", [(2,), (1, 2), (5, 1, 1), (8, 8), (3, 3)])
def test_any_other_step_gets_the_mixed_graph(query_lens, used):
    desc = dispatched(manager(), *query_lens)
    assert desc.cg_mode == CUDAGraphMode.FULL
    assert desc.uniform_token_count is None


def test_a_step_beyond_all_graphs_gets_none(used):
    assert dispatched(manager(), 17).cg_mode == CUDAGraphMode.NONE


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_without_a_layer_of_ours_graphs_are_upstreams(mode, unused, monkeypatch):
    ours = manager(mode)
    monkeypatch.setattr(graphs, "separate_decode", lambda manager: False)
    upstreams = manager(mode)
    assert ours._candidates == upstreams._candidates
    assert ours._capture_descs == upstreams._capture_descs


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != CUDAGraphMode.FULL],
                         ids=lambda mode: mode.name)  # fmt: skip
def test_other_modes_stay_as_they_are(mode, used, monkeypatch):
    ours = manager(mode)
    monkeypatch.setattr(graphs, "_used", False)
    assert ours._candidates == manager(mode)._candidates


def test_speculative_decoding_stays_as_it_is(used, monkeypatch):
    ours = manager(decode_query_len=3)
    monkeypatch.setattr(graphs, "_used", False)
    assert ours._candidates == manager(decode_query_len=3)._candidates


def test_what_a_layer_is_told_while_graphs_are_captured(used, monkeypatch):
    """Mixed graphs are captured with one token a request too: the metadata cannot tell."""
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
    one_token_each = SimpleNamespace(max_query_len=1)
    told = {}

    def create_forward_fn(desc, warmup):
        def forward(mode):
            if capturing[0]:
                told[desc] = graphs.is_decode(one_token_each)

        return forward

    made = manager()
    made.capture(create_forward_fn)
    assert set(told) == set(made.graphs) and len(told) == 9
    assert all(decode is (desc.uniform_token_count == 1) for desc, decode in told.items())


@pytest.mark.parametrize(("query_len", "decode"), [(1, True), (2, False), (700, False)])
def test_without_a_graph_the_metadata_says_it(query_len, decode, used, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert graphs.is_decode(SimpleNamespace(max_query_len=query_len)) is decode
