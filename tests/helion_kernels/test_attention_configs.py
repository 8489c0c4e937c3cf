# SPDX-License-Identifier: Apache-2.0
"""Configs of attention in decode steps for all of Qwen3, whole and sharded: room, shared memory."""

from itertools import product

import pytest

from helion_kernels import OPS, attention, select, split_k
from helion_kernels.aot import cubin
from helion_kernels.aot.target import TARGETS
from helion_kernels.qwen3 import MODELS, calls

OP = OPS["fused_qk_norm_rope_paged_attention"]
SHARED_MEMORY = 227 << 10
"""Bytes that a program may have on Hopper."""
TOKENS = (1, 2, 3, 8, 16, 33, 64, 128, 200, 256, 512)
KV_HEADS = (8, 4, 2, 1)
"""Of a rank, at tensor parallel sizes of 1 to 8."""


def dims_of(model, tp):
    (dims,) = {dims for name, dims in calls(MODELS[model], True, tp) if name == OP.name}
    return OP.dims(*dims)


ALL = sorted({dims_of(model, tp) for model, tp in product(MODELS, (1, 2, 4, 8))})
CHECKING = [
    dims._replace(query_len=query_len)
    for dims, query_len in product(ALL, (2, 4))
    if attention.serves_query_len(*dims[:2], query_len)
]
"""With guesses to check."""


def test_shards_have_all_numbers_of_heads():
    assert {dims.num_kv_heads for dims in ALL} == set(KV_HEADS)
    assert {dims.num_q_heads // dims.num_kv_heads for dims in ALL} == {2, 4, 5, 8}


@pytest.mark.parametrize("dims", ALL + CHECKING, ids=lambda dims: "x".join(map(str, dims)))
def test_the_rule_serves_what_it_is_for(dims):
    for num_tokens in (*TOKENS, 8192, select.UNBOUNDED):
        config = OP.default_config(dims, num_tokens)
        assert OP.serves(dims, config, num_tokens)
        splits, least, tile = config["block_sizes"]
        assert splits & (splits - 1) == 0 and tile <= least


@pytest.mark.parametrize("dims", ALL, ids=lambda dims: "x".join(map(str, dims)))
def test_the_rule_splits_what_leaves_the_gpu_idle(dims):
    few, many = (OP.default_config(dims, n)["block_sizes"][:2] for n in (1, 512))
    # One sequence alone is dealt to many programs; with enough of them only a long one is.
    assert few == [32, 64] and many[1] == 1024


@pytest.mark.parametrize(
    ("heads", "query_len", "served"),
    [
        ((32, 8), 1, True),
        ((32, 8), 2, True),
        ((32, 8), 3, False),
        ((32, 8), 4, True),
        ((32, 8), 8, True),
        ((32, 8), 16, False),
        ((64, 8), 4, True),
        ((64, 8), 8, False),
        ((40, 8), 1, True),
        ((40, 8), 4, False),
    ],
)
def test_how_many_tokens_of_a_sequence(heads, query_len, served):
    assert attention.serves_query_len(*heads, query_len) is served


@pytest.mark.parametrize("dims", ALL + CHECKING, ids=lambda dims: "x".join(map(str, dims)))
def test_no_more_parts_are_joined_at_once_than_registers_hold(dims):
    queries = dims.query_len * dims.num_q_heads // dims.num_kv_heads
    assert attention.joined_at_once(2, queries) == 2
    rows = attention.joined_at_once(1024, queries) * queries
    assert attention.JOINED // 2 < rows <= attention.JOINED


@pytest.mark.parametrize("dims", ALL + CHECKING, ids=lambda dims: "x".join(map(str, dims)))
def test_long_sequences_keep_memory_busy(dims):
    """Or as busy as any config does."""
    for num_seqs in TOKENS:
        space = [attention.flight(dims, config, num_seqs) for config in OP.space(dims, num_seqs)]
        assert min(space) >= attention.FLIGHT or len(set(space)) == 1
    starved = attention._config(8, 128, 128, 4, 3)  # once shipped for one sequence of Qwen3-8B
    whole = OP.dims(32, 8, 128, 16, True, 1)
    assert attention.flight(whole, starved, 1) == 4 << 20
    assert starved not in OP.space(whole, 1) and starved in OP.space(whole, 2)


@pytest.mark.parametrize("dims", ALL + CHECKING, ids=lambda dims: "x".join(map(str, dims)))
def test_the_space_holds_what_can_serve_and_nothing_twice(dims):
    for num_tokens in TOKENS:
        space = OP.space(dims, num_tokens)
        assert len({str(config) for config in space}) == len(space) > 0
        assert all(OP.serves(dims, config, num_tokens) for config in space)
        rule = OP.default_config(dims, num_tokens)["block_sizes"][0]
        assert rule in {config["block_sizes"][0] for config in space}


@pytest.mark.parametrize(
    ("dims", "splits"), [*product(ALL, (2, 16, 64)), *product(CHECKING, (2, attention.LONG))]
)
def test_what_serves_has_room(dims, splits):
    """Neither counters, nor parts, nor their logarithms leave the workspace, nor meet."""
    config = attention._config(splits, 64, 64, 4, 3)
    served = [n for n in range(1, 9000) if OP.serves(dims, config, n)]
    assert served == list(range(1, len(served) + 1)) != []
    most = len(served)
    rows = splits * most * dims.query_len * dims.num_q_heads
    assert most * dims.num_kv_heads <= split_k.COUNTED
    end = split_k.COUNTED + rows * dims.head_dim
    assert end <= split_k.SIZE - attention.SUMS
    assert rows <= attention.SUMS
    # One more sequence would not fit.
    more = splits * (most + 1) * dims.query_len * dims.num_q_heads
    assert (
        more > attention.SUMS
        or more * dims.head_dim > attention.ROOM
        or (most + 1) * dims.num_kv_heads > split_k.COUNTED
    )


@pytest.mark.parametrize("dims", [ALL[0], ALL[-1]], ids=lambda dims: "x".join(map(str, dims)))
def test_the_largest_tiles_fit_shared_memory(dims):
    """Those of the space that hold the most keys and values; a bound for all, and what Triton says
    of one: the tiles of K and V in as many copies as there are stages would be too much."""
    space = OP.space(dims, 1)
    deepest = max(space, key=lambda c: (c["block_sizes"][2], c["num_stages"], c["block_sizes"][0]))
    code = cubin.compile(OP, dims, deepest, TARGETS["sm_90"])
    assert code.shared_memory <= SHARED_MEMORY
    assert TARGETS["sm_90"].shared_memory <= SHARED_MEMORY
