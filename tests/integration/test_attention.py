# SPDX-License-Identifier: Apache-2.0
"""Whose attention a served layer runs: ours in decode steps, upstream's in all others."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

pytest.importorskip("vllm.helion")

from helion_kernels import OPS, split_k
from helion_kernels.qwen3 import FEW
from helion_kernels.sample import Random
from vllm import envs
from vllm.helion import graphs, layer
from vllm.helion.fp8 import BLOCK, PER_TOKEN
from vllm.helion.layer import Call, HelionDecoderLayer

HEADS = (4, 2, 128)
BLOCK_SIZE = 16
LENGTHS = (5, 33, 17)
CONFIG = SimpleNamespace(kv_transfer_config=None)
NAME = "model.layers.0.self_attn.attn"


class Upstream:
    """vLLM's Attention, as far as a layer looks at it; it gives zeros and remembers its calls."""

    layer_name = NAME

    def __init__(self, cache):
        self.kv_cache = cache
        self.impl = SimpleNamespace(
            scale=HEADS[2] ** -0.5,
            sliding_window=(-1, -1),
            alibi_slopes=None,
            logits_soft_cap=0,
            sinks=None,
        )
        self.called = 0

    def __call__(self, q, k, v):
        self.called += 1
        return torch.zeros_like(q)


class Step:
    """A decode step of three sequences: the layer, and what its forward context says."""

    def __init__(self, block_size=BLOCK_SIZE, format=PER_TOKEN, query_len=1, few=False):
        """few: per-token FP8 may have scales per group."""
        make, op = Random("cpu"), OPS["fused_qk_norm_rope_kv_write"]
        _, kv_heads, d = HEADS
        blocks = 3 * len(LENGTHS)
        cache = make.randn((blocks, block_size, kv_heads, 2 * d), torch.bfloat16).transpose(1, 2)
        table = make.permutation(blocks, blocks).view(len(LENGTHS), -1).to(torch.int32)
        lengths = torch.tensor(LENGTHS, dtype=torch.int32)
        new = lengths.long().unsqueeze(1) - query_len + torch.arange(query_len)
        block = table.gather(1, new // block_size)
        self.slots = (block.long() * block_size + new % block_size).flatten()
        self.metadata = SimpleNamespace(
            max_query_len=query_len, use_cascade=False, seq_lens=lengths, block_table=table
        )
        _, _, _, self.qkv, q_weight, k_weight, cos_sin, self.positions, epsilon = op.sample(
            op.dims(*HEADS), len(self.slots), make
        )
        self.attn = Upstream(cache)
        self.layer = object.__new__(HelionDecoderLayer)
        vars(self.layer).update(
            attn=self.attn,
            q_size=HEADS[0] * d,
            kv_size=kv_heads * d,
            q_norm=SimpleNamespace(weight=q_weight),
            k_norm=SimpleNamespace(weight=k_weight),
            rope=SimpleNamespace(cos_sin_cache=cos_sin),
            epsilon=epsilon,
            qk_norm_rope=Call("fused_qk_norm_rope", *HEADS),
            qk_norm_rope_kv_write=Call("fused_qk_norm_rope_kv_write", *HEADS),
            decode_attention=Call(
                "fused_qk_norm_rope_paged_attention",
                *HEADS,
                BLOCK_SIZE,
                format.grouped,
                query_len,
            ),
            few_tokens=FEW if few else 0,
            few_attention=Call(
                "fused_qk_norm_rope_paged_attention", *HEADS, BLOCK_SIZE, True, query_len
            ),
            o_mm="o",
            few_o_mm="few o",
            attn_quant=Call(format.quant, HEADS[0] * d),
            format=format,
            writes_kv=True,
            attends=True,
            workspace=split_k.workspace("cpu"),
        )
        self.context = SimpleNamespace(
            slot_mapping={NAME: self.slots}, attn_metadata={NAME: self.metadata}
        )

    def run(self):
        return self.layer._attention(self.positions, self.qkv)


@pytest.fixture
def step(monkeypatch):
    """Makes the step that the layer is in."""

    def make(**options):
        made = Step(**options)
        monkeypatch.setattr(layer, "get_forward_context", lambda: made.context)
        monkeypatch.setattr(graphs, "_query_len", options.get("query_len", 1))
        return made

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return make


@pytest.fixture
def captured(monkeypatch):
    """What runs is captured into a graph of so many tokens a sequence."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    for name in ("_query_len", "_decode", "_warming_up"):
        monkeypatch.setattr(graphs, name, 0)

    def capture(query_len):
        graphs.use(query_len)
        graphs.capturing(SimpleNamespace(uniform_token_count=query_len))

    return capture


@pytest.mark.parametrize("query_len", [1, 4])
@pytest.mark.parametrize(
    ("format", "few"),
    [(PER_TOKEN, False), (PER_TOKEN, True), (BLOCK, False)],
    ids=["per token", "few per token", "block"],
)
def test_a_decode_step_is_ours_and_right(format, few, query_len, step, captured):
    """Each token sees those before it, itself, and no guess behind it."""
    captured(query_len)
    made = step(format=format, query_len=query_len, few=few)
    values, scales, o_mm = made.run()
    assert made.attn.called == 0
    grouped = few and len(values) <= FEW
    assert o_mm == ("few o" if grouped else "o")
    assert scales.shape[1] == (HEADS[0] if grouped or format.grouped else 1)
    out = values.float() * scales.repeat_interleave(values.shape[1] // scales.shape[1], dim=1)
    q, cache = torch.empty_like(out, dtype=torch.bfloat16), made.attn.kv_cache
    inputs = made.layer.q_norm.weight, made.layer.k_norm.weight, made.layer.rope.cos_sin_cache
    op = OPS["fused_qk_norm_rope_kv_write"]
    op.reference(q, cache, made.slots, made.qkv, *inputs, made.positions, made.layer.epsilon)
    for row in range(len(out)):
        seq, number = divmod(row, query_len)
        seen = LENGTHS[seq] - query_len + number + 1
        tokens = cache[made.metadata.block_table[seq]].transpose(1, 2).flatten(0, 1)[:seen]
        keys, values = tokens.transpose(0, 1).double().chunk(2, dim=-1)
        query = q[row].view(HEADS[0], 1, -1).double()
        want = scaled_dot_product_attention(query, keys, values, enable_gqa=True)
        assert torch.allclose(out[row].double(), want.flatten(), rtol=2**-4 + 0.02, atol=0.02)


def mixed(made):
    made.metadata.max_query_len = 2


def cascade(made):
    made.metadata.use_cascade = True


def a_sequence_of_two_tokens(made):
    """Padded to the same number of tokens as there would be sequences."""
    made.metadata.seq_lens = made.metadata.seq_lens[:2]


def switched_off(made):
    made.layer.attends = False


@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("change", [mixed, cascade, a_sequence_of_two_tokens, switched_off])
def test_other_steps_are_upstreams(change, few, step):
    made = step(few=few)
    change(made)
    _, scales, o_mm = made.run()
    assert made.attn.called == 1
    assert (scales.shape[1], o_mm) == (1, "o")  # upstream's output has no groups of ours


def test_a_cache_of_other_blocks_is_upstreams(step):
    """Upstream may choose the size when it knows all layers' caches, after ours was prepared."""
    made = step(block_size=32)
    made.run()
    assert made.attn.called == 1


@pytest.mark.parametrize("decode", [True, False])
def test_while_a_graph_is_captured_its_kind_decides(decode, step, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(graphs, "_decode", not decode)
    monkeypatch.setattr(graphs, "_warming_up", False)
    made = step()
    graphs.capturing(SimpleNamespace(uniform_token_count=1 if decode else None))
    made.run()
    assert made.attn.called == (0 if decode else 1)


def test_while_memory_is_profiled_it_is_upstreams(step):
    made = step()
    made.context.slot_mapping, made.context.attn_metadata = {}, None
    made.run()
    assert made.attn.called == 1


def test_what_is_never_called_is_not_prepared(step):
    made = step().layer
    assert made.decode_attention in made.calls
    made.attends = False
    assert made.decode_attention not in made.calls
    assert made.qk_norm_rope_kv_write in made.calls


@pytest.fixture
def switch(monkeypatch):
    """Sets an environment variable of upstream's or ours."""
    monkeypatch.delenv("VLLM_HELION_ATTENTION", raising=False)
    monkeypatch.delenv("VLLM_BATCH_INVARIANT", raising=False)

    def turn(name, value):
        monkeypatch.setenv(name, value)
        if hasattr(envs.__getattr__, "cache_clear"):
            envs.__getattr__.cache_clear()

    return turn


def test_plain_attention_is_ours(switch):
    assert all(layer._attends(Upstream(None), size, CONFIG) for size in (16, 32, 64, 128))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sliding_window", (4095, 0)),
        ("alibi_slopes", torch.ones(4)),
        ("logits_soft_cap", 30.0),
        ("sinks", torch.ones(4)),
    ],
)
def test_attention_of_another_kind_is_upstreams(name, value, switch):
    attn = Upstream(None)
    setattr(attn.impl, name, value)
    assert not layer._attends(attn, BLOCK_SIZE, CONFIG)


def test_with_a_kv_connector_it_is_upstreams_which_calls_it_around_each_layer(switch):
    assert not layer._attends(Upstream(None), BLOCK_SIZE, SimpleNamespace(kv_transfer_config=1))


def test_blocks_of_a_size_that_is_no_power_of_two_are_upstreams(switch):
    assert not layer._attends(Upstream(None), 48, CONFIG)


@pytest.mark.parametrize(
    ("name", "value"), [("VLLM_HELION_ATTENTION", "0"), ("VLLM_BATCH_INVARIANT", "1")]
)
def test_switches(name, value, switch):
    switch(name, value)
    assert not layer._attends(Upstream(None), BLOCK_SIZE, CONFIG)
