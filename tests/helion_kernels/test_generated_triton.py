# SPDX-License-Identifier: Apache-2.0
"""Generated Triton code at real tile sizes, on a CPU: Helion's own interpreter ignores tiles.

Sizes are such that tiles overhang in every dimension and that a reduction takes several tiles.
"""

import pytest
from accumulation import INPUTS
from anything import cases
from dims import GEMMS, SMALL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helion_kernels import OPS, config_file, split_k
from helion_kernels.gemm import MOST_GEMV, is_gemv

SEVERAL_PROGRAMS = 5
"""Tokens for all but the GEMMs: the interpreter takes 50 ms for a program that reduces."""


def most(name, gemm):
    return gemm if name.startswith("scaled_mm") else SEVERAL_PROGRAMS


def is_gemv_of(name, config):
    return name.startswith("scaled_mm") and is_gemv(config)


def configs(name):
    """(num_tokens, config): the op's own rule at each bucket, and some of its space."""
    op, dims = OPS[name], OPS[name].dims(*SMALL[name])
    for num_tokens in (1, 19, 37, 130):
        yield min(num_tokens, most(name, 130)), op.default_config(dims, num_tokens)
    space = op.space(dims, 19)
    for config in space[:: max(1, len(space) // 3)]:
        yield min(19, most(name, 130)), config
    for config in [c for c in op.space(dims, MOST_GEMV) if is_gemv_of(name, c)][::2]:
        yield MOST_GEMV, config
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


@pytest.mark.parametrize("name", GEMMS)
@pytest.mark.parametrize("dims", [(200, 1280), (96, 4096), (64, 3072)])
def test_gemv_in_one_piece_and_in_several(dims, name, triton):
    """Rows overhang in the first; K is 5, 1 and 3 times its largest power of two."""
    op = OPS[name]
    configs = [c for c in op.space(op.dims(*dims), MOST_GEMV) if is_gemv(c)]
    assert len({tuple(c["block_sizes"]) for c in configs}) >= 3
    for config in configs[::4]:
        assert triton.ask("random", name, dims, MOST_GEMV, config) == [], config


@pytest.mark.parametrize("name", GEMMS)
@pytest.mark.parametrize("kind", INPUTS)
def test_gemv_sums_like_float32(kind, name, triton):
    """What tensor cores cut off (test_accumulation.py) it keeps."""
    for k in (4096, 12288):
        singles = [c for c in OPS[name].space(OPS[name].dims(128, k), 1) if is_gemv(c)]
        for config in singles[::5]:
            assert triton.ask("hard_sums", name, kind, (128, k), 1, config) == [], config


def test_gemv_serves_what_it_says():
    for name in GEMMS:
        op, dims = OPS[name], OPS[name].dims(4096, 12288)
        singles = [c for c in op.space(dims, 1) if is_gemv(c)]
        assert not any(is_gemv(c) for c in op.space(dims, MOST_GEMV + 1))
        assert all(op.serves(dims, c, MOST_GEMV) for c in singles)
        assert not any(op.serves(dims, c, MOST_GEMV + 1) for c in singles)
        assert not any(op.serves(op.dims(4096, 12288 + 128), c, 1) for c in singles)


def test_files_may_name_gemv_where_it_serves():
    for name in GEMMS:
        op, dims = OPS[name], OPS[name].dims(4096, 12288)
        for config in (c for c in op.space(dims, 1) if is_gemv(c)):
            entry = {"dims": dims._asdict(), "upto": MOST_GEMV, "config": config}
            assert config_file.checked(op, entry) == (dims, MOST_GEMV)
            with pytest.raises(ValueError, match=f"{MOST_GEMV + 1} tokens"):
                config_file.checked(op, entry | {"upto": MOST_GEMV + 1})
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
