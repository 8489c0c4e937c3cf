# SPDX-License-Identifier: Apache-2.0
"""Generated Triton code at real tile sizes, on a CPU: Helion's own interpreter ignores tiles.

Sizes are such that tiles overhang in every dimension and that a reduction takes several tiles.
"""

import pytest
from anything import cases
from dims import SMALL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helion_kernels import OPS, config_file, split_k
from helion_kernels.gemm import MOST_GEMV, MOST_SKINNY, is_gemv, is_skinny

SEVERAL_PROGRAMS = 5
"""Tokens for all but the GEMMs: the interpreter takes 50 ms for a program that reduces."""


def most(name, gemm):
    return gemm if name.startswith("scaled_mm") else SEVERAL_PROGRAMS


FEW = {"gemv": (is_gemv, MOST_GEMV), "skinny": (is_skinny, MOST_SKINNY)}
"""GEMMs for few tokens: which configs are theirs, and the most tokens that they serve."""


def few(name, dims, kind, num_tokens):
    """The configs of that kind in the space of a GEMM."""
    op = OPS[name]
    return [c for c in op.space(op.dims(*dims), num_tokens) if FEW[kind][0](c)]


def configs(name):
    """(num_tokens, config): the op's own rule at each bucket, and some of its space."""
    op, dims = OPS[name], OPS[name].dims(*SMALL[name])
    for num_tokens in (1, 19, 37, 130):
        yield min(num_tokens, most(name, 130)), op.default_config(dims, num_tokens)
    space = op.space(dims, 19)
    for config in space[:: max(1, len(space) // 3)]:
        yield min(19, most(name, 130)), config
    for kind in FEW if name.startswith("scaled_mm") else ():
        for num_tokens in (1, FEW[kind][1]):
            for config in few(name, dims, kind, num_tokens)[::2]:
                yield num_tokens, config
    for config in [c for c in space if split_k.MIN_PART in c["block_sizes"][2:]][:2]:
        yield 19, config


@pytest.mark.parametrize("name", OPS)
def test_right_at_every_tile_size(name, triton):
    for num_tokens, config in configs(name):
        assert triton.ask("random", name, SMALL[name], num_tokens, config) == [], config


@pytest.mark.parametrize("num_tokens", [1, 19, 37, 64, 130])
def test_groups_in_pairs_in_parts_and_whole(num_tokens, triton):
    """SMALL has an odd number of groups, which go one by one."""
    op, dims = OPS["scaled_mm_blockwise"], (200, 1280)
    rule = op.default_config(op.dims(*dims), num_tokens)
    for part in (split_k.MIN_PART, split_k.WHOLE):
        if num_tokens <= split_k.MAX_TOKENS or part == split_k.WHOLE:
            config = rule | {"block_sizes": [*rule["block_sizes"][:2], part]}
            assert triton.ask("random", op.name, dims, num_tokens, config) == [], config


@pytest.mark.parametrize("name", ["scaled_mm", "scaled_mm_blockwise"])
@pytest.mark.parametrize("dims", [(200, 1280), (96, 4096), (64, 3072)])
@pytest.mark.parametrize("kind", FEW)
def test_few_tokens_in_one_piece_and_in_several(kind, dims, name, triton):
    """Rows overhang in the first; K is 5, 1 and 3 times its largest power of two."""
    most = FEW[kind][1]
    configs = few(name, dims, kind, most)
    assert len({tuple(c["block_sizes"]) for c in configs}) >= 3
    for config in configs[::4]:
        assert triton.ask("random", name, dims, most, config) == [], config


@pytest.mark.parametrize("name", ["scaled_mm", "scaled_mm_blockwise"])
@pytest.mark.parametrize("kind", FEW)
def test_kernels_for_few_tokens_serve_what_they_say(kind, name):
    op, sizes, most = OPS[name], (4096, 12288), FEW[kind][1]
    dims, configs = op.dims(*sizes), few(name, sizes, kind, most)
    assert configs
    assert not few(name, sizes, kind, most + 1)
    assert all(op.serves(dims, c, most) for c in configs)
    assert not any(op.serves(dims, c, most + 1) for c in configs)


def test_pieces_of_k_are_within_it():
    for name in ("scaled_mm", "scaled_mm_blockwise"):
        op = OPS[name]
        for config in few(name, (4096, 12288), "gemv", 1):
            assert not op.serves(op.dims(4096, 12288 + 128), config, 1)
        for config in few(name, (4096, 12288), "skinny", 1):
            assert op.serves(op.dims(4096, 12288 + 128), config, 1)
            assert not op.serves(op.dims(4096, 12288 + 64), config, 1)
            assert not op.serves(op.dims(4096, 128 * (config["block_sizes"][2] - 1)), config, 1)
        assert not few(name, (4096, 12288 + 64), "skinny", 1)


@pytest.mark.parametrize("name", ["scaled_mm", "scaled_mm_blockwise"])
@pytest.mark.parametrize("kind", FEW)
def test_files_may_name_kernels_for_few_tokens_where_they_serve(kind, name):
    op, sizes, most = OPS[name], (4096, 12288), FEW[kind][1]
    dims = op.dims(*sizes)
    for config in few(name, sizes, kind, 1):
        entry = {"dims": dims._asdict(), "upto": most, "config": config}
        assert config_file.checked(op, entry) == (dims, most)
        with pytest.raises(ValueError, match=f"cannot serve {most + 1} tokens"):
            config_file.checked(op, entry | {"upto": most + 1})
        longer = config | {"range_unroll_factors": [0, 0, 0]}
        with pytest.raises(ValueError, match="range_unroll_factors has 2 values"):
            config_file.checked(op, entry | {"config": longer})


@pytest.mark.parametrize("name", OPS)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_anything(name, triton, data):
    """Strides, extremes and what is not finite, in code that the GPU would run."""
    case = data.draw(cases(name, st.just(SMALL[name]), most(name, 40)))
    _, config = data.draw(st.sampled_from(list(configs(name))))
    assert triton.ask("anything", case, config) == []
