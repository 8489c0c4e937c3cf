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
from vllm.model_executor.layers.attention import Attention
from vllm.v1.attention.backends import flash_attn
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
    monkeypatch.setattr(graphs, "_alone", False)
    monkeypatch.setattr(graphs, "_scheduled", True)
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


# -- the schedule of upstream's attention


def attention(count):
    """Modules as a model has them."""
    return [object.__new__(Attention) for _ in range(count)]


def model(modules):
    return SimpleNamespace(modules=lambda: iter([torch.nn.Linear(1, 1), *modules]))


def ours(modules, attends=True):
    return [SimpleNamespace(attn=module, attends=attends) for module in modules]


@pytest.fixture
def alone(used):
    """Every attention of the model is ours in a decode step."""
    modules = attention(3)
    graphs.prepare(model(modules), ours(modules))


def scheduled(*query_lens, query_len=1):
    graphs.starting(dispatched(manager(decode_query_len=query_len), *query_lens))
    return graphs.needs_schedule()


def test_a_decode_step_of_one_token_needs_no_schedule(alone, query_len):
    """Of guesses it does: a draft's attention may share the metadata."""
    assert scheduled(query_len, query_len, query_len=query_len) is (query_len > 1)


@pytest.mark.parametrize("query_lens", [(2,), (1, 2), (5, 1, 1), (17,), (1,) * 9])
def test_any_other_step_needs_one(query_lens, alone, query_len):
    """Those without a graph, too; so does one behind a decode step."""
    scheduled(query_len, query_len=query_len)
    assert scheduled(*query_lens, query_len=query_len)


def test_what_is_captured_gets_one(alone, query_len):
    """Mixed graphs read it in each replay, wherever it was when they were captured."""
    scheduled(query_len, query_len=query_len)
    for tokens in (query_len, None):
        graphs.capturing(SimpleNamespace(uniform_token_count=tokens))
        assert graphs.needs_schedule()


@pytest.mark.parametrize("left", ["a layer that is not ours", "none attends", "none is ours"])
def test_attention_that_is_left_to_upstream_needs_one(left, used, query_len):
    modules = attention(3)
    some = modules[1:] if left == "a layer that is not ours" else modules
    graphs.prepare(
        model(modules),
        [] if left == "none is ours" else ours(some, attends=left != "none attends"),
    )
    assert scheduled(query_len, query_len=query_len)


def test_a_layer_that_leaves_a_decode_step_to_upstream_says_so(alone, query_len):
    graphs.upstream_attends()
    assert scheduled(query_len, query_len=query_len)


@pytest.mark.parametrize("decode", [True, False])
def test_flash_attention_makes_a_schedule_where_it_is_needed(decode, alone, query_len, monkeypatch):
    """What upstream's builder says of steps in turn: its buffer is written where graphs read it."""
    made = []

    def get_scheduler_metadata(**arguments):
        made.append(arguments)
        return torch.full((5,), len(made), dtype=torch.int32)

    monkeypatch.setattr(flash_attn, "get_scheduler_metadata", get_scheduler_metadata, raising=False)
    builder = object.__new__(flash_attn.FlashAttentionMetadataBuilder)
    vars(builder).update(
        aot_schedule=True,
        aot_sliding_window=(-1, -1),
        use_full_cuda_graph=True,
        max_cudagraph_size=16,
        max_num_splits=32,
        dcp_world_size=1,
        cache_config=SimpleNamespace(cache_dtype="auto"),
        kv_cache_dtype=torch.bfloat16,
        kv_cache_spec=SimpleNamespace(),
        num_heads_q=4,
        num_heads_kv=2,
        headdim=128,
        block_size=16,
        rswa_window=None,
        scheduler_metadata=torch.full((9,), -1, dtype=torch.int32),
    )
    each = query_len if decode else query_len + 1
    needed = scheduled(each, each, query_len=query_len)
    common = SimpleNamespace(
        num_reqs=2,
        num_actual_tokens=2 * each,
        max_query_len=each,
        max_seq_len=100,
        query_start_loc=torch.tensor([0, each, 2 * each], dtype=torch.int32),
        seq_lens=torch.tensor([100, 20], dtype=torch.int32),
        block_table_tensor=torch.zeros((2, 8), dtype=torch.int32),
        slot_mapping=torch.zeros(2 * each, dtype=torch.int64),
        causal=True,
        mm_req_doc_ranges=None,
        rswa_prefix_lens=None,
    )
    metadata = builder.build(0, common)
    assert needed is (not decode or query_len > 1)
    assert len(made) == needed == (metadata.scheduler_metadata is not None)
    assert builder.scheduler_metadata.tolist() == ([1] * 5 + [0] * 4 if needed else [-1] * 9)
