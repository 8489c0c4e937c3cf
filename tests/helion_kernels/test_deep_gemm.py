# SPDX-License-Identifier: Apache-2.0
"""DeepGEMM's tiles as configs: which there can be, when they serve, and what does elsewhere.

What a launch of them is: tests/csrc/test_tensor_maps.py.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helion_kernels import OPS, config_file, deep_gemm, select
from helion_kernels.deep_gemm import Tile
from helion_kernels.tune import entries
from helion_kernels.tune.journal import Record

GPU = "NVIDIA H100 80GB HBM3"
OP = OPS[deep_gemm.OP]
DIMS = OP.dims(6144, 4096)
TILE = Tile(128, 192, "b")
OURS = {"block_sizes": [64, 64, 65536], "num_warps": 4, "num_stages": 3}


@pytest.fixture
def shipped(tmp_path, monkeypatch, no_plans):
    """Writes the entries that are shipped for an op."""
    monkeypatch.delenv("HELION_KERNELS_CONFIG_DIR", raising=False)
    monkeypatch.setattr(select, "SHIPPED", tmp_path)

    def write(*found, op=OP):
        path = tmp_path / "nvidia_h100" / f"{op.name}.json"
        path.parent.mkdir(exist_ok=True)
        dims = dict(zip(DIMS._fields, DIMS, strict=True))
        document = [{"dims": dims, "upto": 8192, "config": TILE.config} | entry for entry in found]
        path.write_text(json.dumps({"entries": document}))
        return path

    return write


def chosen(packed=(), stock=(deep_gemm.OP,), invariant=False):
    """The config that serves 8192 tokens."""
    has = [select.key_of(tile.config) for tile in packed]
    return select.choose(OP, DIMS, 8192, GPU, frozenset(stock), invariant, packed=has.__contains__)[
        -1
    ].config


def test_it_serves_where_a_pack_has_it(shipped):
    shipped({})
    assert chosen(packed=[TILE]) == TILE.config


@pytest.mark.parametrize("packed", [(), [Tile(128, 192)]])
def test_elsewhere_what_is_written_beside_it_does(shipped, packed):
    shipped({"instead": OURS})
    assert chosen(packed) == OURS
    shipped({"instead": "stock"})
    config_file.load.cache_clear()
    assert chosen(packed) is None


def test_elsewhere_stock_where_nothing_is_written_and_the_rule_without_stock(shipped):
    shipped({})
    assert chosen() is None
    assert chosen(stock=()) == OP.default_config(DIMS, 8192)


def test_batch_invariance_keeps_to_what_needs_no_pack(shipped):
    shipped({"upto": 64, "config": OURS}, {"instead": OURS})
    assert chosen(packed=[TILE], invariant=True) == OURS


@pytest.mark.parametrize(
    "config",
    [
        {"block_m": 100, "block_n": 128, "multicast": ""},
        {"block_m": 128, "block_n": 100, "multicast": ""},
        {"block_m": 128, "block_n": 128, "multicast": "c"},
        {"block_m": 128, "block_n": True, "multicast": ""},
        {"block_m": 256, "block_n": 192, "multicast": ""},
        {"block_m": 128, "stages": 3},
        "128x128",
    ],
)
def test_a_tile_that_cannot_be_is_named_with_its_file(shipped, config):
    path = shipped({"config": {deep_gemm.KEY: config}})
    with pytest.raises(select.ConfigError, match=str(path)):
        chosen()


def test_it_stands_alone_and_for_its_own_op(shipped):
    path = shipped({"config": {**TILE.config, **OURS}})
    with pytest.raises(select.ConfigError, match="stands alone"):
        chosen()
    shipped({"instead": TILE.config})
    config_file.load.cache_clear()
    with pytest.raises(select.ConfigError, match="instead of a library's"):
        chosen()
    other = OPS["scaled_mm"]
    path = shipped({}, op=other)
    with pytest.raises(select.ConfigError, match=str(path)):
        select.choose(other, DIMS, 8192, GPU)


def test_tiles_fit_in_shared_memory_with_at_least_two_stages():
    for tile in deep_gemm.TILES:
        assert deep_gemm.tile_of(tile.config) == tile
        assert tile.stages >= 2
        assert tile.shared(deep_gemm.MOST_K) <= deep_gemm.SHARED
    # What upstream's own heuristics give the same tiles (H100, DeepGEMM of vLLM 0.26.0).
    stages = {Tile(64, 64): 13, Tile(64, 96): 10, Tile(128, 128): 5, Tile(128, 192): 4}
    stages[Tile(256, 128, "a")] = 3
    assert {tile: tile.stages for tile in stages} == stages


@pytest.mark.parametrize(
    ("n", "num_tokens", "tile"),
    [
        # The fastest of most of them, on an H200.
        (1024, 64, Tile(64, 16)),
        (4096, 64, Tile(64, 32)),
        (6144, 64, Tile(64, 48)),
        (4096, 128, Tile(128, 32)),
        (5120, 128, Tile(128, 48)),
        (4096, 512, Tile(128, 128)),
        (5120, 2048, Tile(128, 160)),
        (2048, 8192, Tile(256, 128)),
        # What the tuner took on an H100, and what it had not looked at there.
        (6144, 256, Tile(128, 96)),
        (4096, 2048, Tile(256, 128)),
        (5120, 256, Tile(128, 80)),
    ],
)
def test_the_likeliest_tile(n, num_tokens, tile):
    assert deep_gemm.likely(n, num_tokens)[0] == tile


@given(st.integers(1, 8192).map(lambda n: 8 * n), st.integers(1, 1 << 20))
def test_likely_tiles_are_those_of_nearly_the_least_cost(n, num_tokens):
    found = deep_gemm.likely(n, num_tokens)
    costs = [deep_gemm.cost(tile, n, num_tokens) for tile in found]
    least = min(deep_gemm.cost(tile, n, num_tokens) for tile in deep_gemm.TILES)
    assert costs == sorted(costs) and costs[0] == least and costs[-1] <= deep_gemm.NEAR * least
    assert len(found) == len(set(found)) <= deep_gemm.MOST_LIKELY
    # None is less than all that the multiprocessors could do at once.
    assert least * deep_gemm.MULTIPROCESSORS >= n * num_tokens


def everything(key):
    return True


def test_the_rule_prefers_it_where_a_pack_has_it(shipped):
    untuned = OP.dims(1016, 256)
    shipped({})
    for packed in (everything, lambda key: False):
        for choice in select.choose(OP, untuned, 8192, GPU, packed=packed):
            rule = OP.default_config(untuned, choice.upto)
            if packed is everything and choice.upto >= deep_gemm.FEWEST:
                rule = deep_gemm.likely(1016, choice.upto)[0].config
            assert (choice.config, choice.source) == (rule, "default")
    # Rows that the copy engine cannot address.
    odd = OP.dims(1020, 256)
    choices = select.choose(OP, odd, 8192, GPU, packed=everything)
    assert not any(deep_gemm.names(choice.config) for choice in choices)


def test_like_sizes_have_a_tile_of_their_own(shipped):
    shipped({})
    like = OP.dims(2 * DIMS.n // 3, DIMS.k)
    (choice,) = select.choose(OP, like, 8192, GPU, packed=everything)
    assert choice.source == "nearest"
    assert choice.config == deep_gemm.likely(like.n, 8192)[0].config != TILE.config


def test_entries_say_what_serves_without_it():
    slow = {**OURS, "num_warps": 8}

    def saved(stock_us):
        times = [(TILE.config, 10.0), (OURS, 20.0), (slow, 30.0)]
        dims = dict(zip(DIMS._fields, DIMS, strict=True))
        record = Record(OP.name, dims, 512, times, stock_us, 5.0, 3, 3, {})
        (entry,) = entries.entries([record])
        assert entry["config"] == TILE.config
        return entry["instead"]

    assert saved(25.0) == OURS
    assert saved(15.0) == "stock"
    assert saved(None) == OURS
