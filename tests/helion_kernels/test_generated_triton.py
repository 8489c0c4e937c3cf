# SPDX-License-Identifier: Apache-2.0
"""Generated Triton code at real tile sizes, on a CPU: Helion's own interpreter ignores tiles.

Sizes are such that tiles overhang in every dimension and that a reduction takes several tiles.
"""

import pytest
from anything import cases
from dims import SMALL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helion_kernels import OPS, split_k

SEVERAL_PROGRAMS = 5
"""Tokens for all but the GEMMs: the interpreter takes 50 ms for a program that reduces."""


def most(name, gemm):
    return gemm if name.startswith("scaled_mm") else SEVERAL_PROGRAMS


def configs(name):
    """(num_tokens, config): the op's own rule at each bucket, and some of its space."""
    op, dims = OPS[name], OPS[name].dims(*SMALL[name])
    for num_tokens in (1, 19, 37, 130):
        yield min(num_tokens, most(name, 130)), op.default_config(dims, num_tokens)
    space = op.space(dims, 19)
    for config in space[:: max(1, len(space) // 3)]:
        yield min(19, most(name, 130)), config
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


@pytest.mark.parametrize("name", OPS)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_anything(name, triton, data):
    """Strides, extremes and what is not finite, in code that the GPU would run."""
    case = data.draw(cases(name, st.just(SMALL[name]), most(name, 40)))
    _, config = data.draw(st.sampled_from(list(configs(name))))
    assert triton.ask("anything", case, config) == []
