# SPDX-License-Identifier: Apache-2.0
"""fused_qk_norm_rope_paged_attention: lengths, layouts, what must not leak, parts that are joined.

Interpreted, and as generated Triton tile by tile; against PyTorch's attention (attention.py).
"""

from itertools import product

import pytest
import torch
from attention import INFINITY, LAYOUTS, NAN, OP, Arguments, Sequences, arguments, wrong
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helion_kernels import attention, split_k

few = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
call = getattr(torch.ops.helion_kernels, OP.name)
TILE, LEAST, SPLITS = 128, 4096, 64
"""Of Helion's interpreter: the largest that the kernel allows."""
GROUPS = (1, 4, 5, 8)
BLOCK_SIZES = (16, 32, 64)
FORWARD, BACKWARD = 0, -1


def around(*sizes):
    return tuple(size + step for size in sizes for step in (-1, 0, 1))


# -- interpreted


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_lengths(block_size):
    lengths = (0, 1, *around(block_size, TILE))
    assert wrong(Sequences((2, 1, 32, block_size), lengths), [call]) == []


def test_parts_of_a_long_sequence():
    lengths = (*around(LEAST), 2 * LEAST + 1, 5)
    assert wrong(Sequences((1, 1, 32, 64), lengths), [call, call]) == []


def test_longer_than_all_parts():
    case = Sequences((1, 1, 16, 64), (SPLITS * LEAST + 100,))
    assert wrong(case, [call]) == []


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("group", GROUPS)
def test_groups_and_layouts(group, layout):
    case = Sequences((2 * group, 2, 32, 16), (33, 0, 17), layout)
    assert wrong(case, [call]) == []


@pytest.mark.parametrize("poison", [NAN, INFINITY, -INFINITY, 3e38])
def test_what_is_in_other_places_of_the_cache_never_leaks(poison):
    """Past a sequence's end in its last block, and in blocks of nobody."""
    case = Sequences((4, 1, 32, 16), (1, 15, 16, 17, 40), poison=poison)
    assert wrong(case, [call]) == []


def test_a_bad_key_spoils_its_own_sequence_alone():
    case = Sequences((4, 2, 32, 16), (20, 30, 25))
    args = arguments(case)
    out, clean = args.out, args.out.clone()
    call(*args._replace(out=clean))
    args.kv_cache[args.block_table[1, 1], 0, 3] = NAN
    call(*args)
    assert torch.equal(out[[0, 2]], clean[[0, 2]])
    # Of the two query heads of the key's head nothing is left, of the others all.
    assert out[1, :64].isnan().all()
    assert torch.equal(out[1, 64:], clean[1, 64:])


def test_a_sequence_without_tokens_gets_zeros():
    case = Sequences((4, 2, 32, 16), (0, 3, 0))
    args = arguments(case)
    call(*args)
    out = args.out
    assert (out[[0, 2]].view(torch.int16) == 0).all()
    assert out[1].isfinite().all() and out[1].any()


def test_sequences_may_share_blocks():
    case = Sequences((4, 2, 32, 16), (40, 40))
    args = arguments(case)
    for x in (args.block_table, args.slot_mapping, args.qkv, args.positions):
        x[1] = x[0]
    call(*args)
    assert torch.equal(args.out[0], args.out[1])


def test_a_token_without_a_slot_is_attended_to_and_not_written():
    case = Sequences((4, 2, 32, 16), (20, 33))
    args = arguments(case)
    before = args.kv_cache.clone()
    want = arguments(case)
    call(*want)
    args.slot_mapping.fill_(-1)
    call(*args)
    assert torch.equal(args.out, want.out)
    assert torch.equal(args.kv_cache.view(torch.int16), before.view(torch.int16))


def test_a_quantised_head_is_a_group():
    """As per_token_group_fp8_quant has it, of the output that is not rounded before."""
    case = Sequences((4, 2, 128, 16), (1, 0, 40))
    args = arguments(case)
    quantised = arguments(case._replace(quantised=True))
    call(*args)
    call(*quantised)
    assert wrong(case._replace(quantised=True), [call]) == []
    back = quantised.out.float() * quantised.scale.repeat_interleave(128, dim=1)
    assert torch.allclose(back, args.out.float(), rtol=2**-4 + 2**-7, atol=1e-3)
    assert not quantised.out[1].float().any() and (quantised.scale[1] < 1.01e-10 / 448).all()


@pytest.mark.parametrize("query_len", [2, 4, 8])
@pytest.mark.parametrize("group", [1, 4, 8])
def test_guesses_see_those_before_them(query_len, group):
    """And what is cached; a sequence may have nothing but new tokens, in one block or in two."""
    lengths = (query_len, 0, query_len + 1, 17, 30 + query_len, *around(TILE + query_len))
    case = Sequences((2 * group, 2, 32, 16), lengths, LAYOUTS[query_len % 3], query_len=query_len)
    assert wrong(case, [call]) == []


def test_a_guess_gives_the_bits_of_a_token_alone():
    """What a step of four tokens writes is what four steps of one write."""
    case = Sequences((4, 2, 32, 16), (40, 19), query_len=4)
    together = arguments(case)
    call(*together)
    alone = arguments(case)
    out = torch.empty_like(together.out)
    for i in range(4):
        mine = {name: getattr(alone, name)[:, i] for name in ("slot_mapping", "qkv", "positions")}
        step = alone._replace(out=out[:, i], seq_lens=alone.seq_lens - 3 + i, **mine)
        call(*step)
    assert torch.equal(alone.kv_cache.view(torch.int16), together.kv_cache.view(torch.int16))
    assert torch.allclose(out.float(), together.out.float(), rtol=2**-7, atol=1e-3)


def test_quantised_guesses():
    case = Sequences((4, 2, 128, 16), (4, 0, 40), quantised=True, query_len=4)
    assert wrong(case, [call]) == []


@few
@given(
    group=st.integers(1, 9),
    kv_heads=st.integers(1, 3),
    d=st.sampled_from([32, 64]),
    block_size=st.sampled_from(BLOCK_SIZES),
    lengths=st.lists(st.integers(0, 300), min_size=1, max_size=4),
    layout=st.sampled_from(LAYOUTS),
    poison=st.sampled_from([NAN, INFINITY]),
    query_len=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 2**31),
)
def test_any_sequences(group, kv_heads, d, block_size, lengths, layout, poison, query_len, seed):
    dims = (group * kv_heads, kv_heads, d, block_size)
    lengths = tuple(length and max(length, query_len) for length in lengths)
    case = Sequences(dims, lengths, layout, poison, seed, query_len=query_len)
    assert wrong(case, [call]) == []


# -- the check itself


DEFECTS = {
    "one token too few": lambda args: {"seq_lens": args.seq_lens - 1},
    "one token too many": lambda args: {"seq_lens": args.seq_lens + 1},
    "another block": lambda args: {"block_table": args.block_table.roll(1, 1)},
    "another scale": lambda args: {"softmax_scale": 1.1 * args.softmax_scale},
    "another position": lambda args: {"positions": args.positions.flip(0)},
    "another slot": lambda args: {"slot_mapping": args.slot_mapping + 1},
    "no slot": lambda args: {"slot_mapping": args.slot_mapping - 1000},
    "weights swapped": lambda args: {"q_weight": args.k_weight, "k_weight": args.q_weight},
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_would_be_noticed(defect):
    def off(*args):
        args = Arguments(*args)
        call(*args._replace(**DEFECTS[defect](args)))

    assert wrong(Sequences((4, 2, 32, 16), (20, 30, 25)), [off])


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_another_scale_of_a_head_would_be_noticed(factor):
    def off(*args):
        call(*args)
        args[-1][1, 2] *= factor

    assert wrong(Sequences((4, 2, 128, 16), (20, 30), quantised=True), [off])


def test_counters_that_are_left_would_be_noticed():
    def leaves(*args):
        call(*args)
        args[-2][3] = 1

    assert wrong(Sequences((1, 1, 32, 16), (5,)), [leaves]) == ["call 0: counters are left"]


# -- arguments


@pytest.mark.parametrize("dimension", [0, 1, 2])
def test_strides_that_are_no_multiples_of_16_bytes_are_refused(dimension):
    args = arguments(Sequences((4, 2, 32, 16), (20,), "HND"))
    cache = args.kv_cache
    strides = list(cache.stride())
    strides[dimension] += 4
    whole = torch.zeros(2 * cache.numel() + 4096, dtype=cache.dtype)
    args = args._replace(kv_cache=whole.as_strided(cache.shape, strides))
    with pytest.raises(ValueError, match="the last must be 1, the others multiples of 8"):
        call(*args)


def test_a_cache_whose_last_stride_is_not_1_is_refused():
    args = arguments(Sequences((4, 2, 32, 16), (20,), "HND"))
    args = args._replace(kv_cache=args.kv_cache.transpose(2, 3).contiguous().transpose(2, 3))
    with pytest.raises(ValueError, match="the last must be 1"):
        call(*args)


@pytest.mark.parametrize("kv_heads", [1, 3, 8])
@pytest.mark.parametrize("num_tokens", [1, 3000])
def test_any_number_of_sequences_and_heads_has_arguments(num_tokens, kv_heads):
    """What a config that does not split is handed of the workspace lies inside of it."""
    d = 32
    args = arguments(Sequences((2 * kv_heads, kv_heads, d, 16), (1,) * num_tokens))
    *_, partials, sums, arrived = OP.kernel_args(*args)
    ends = [x.storage_offset() + x.numel() for x in (arrived, partials, sums)]
    assert arrived.numel() <= split_k.COUNTED == partials.storage_offset()
    assert ends[1] <= sums.storage_offset() and ends[2] <= split_k.SIZE


# -- generated Triton


def config(splits, least, tile, warps=4):
    return {"block_sizes": [splits, least, tile], "num_warps": warps, "num_stages": 3}


CONFIGS = [
    config(1, 512, 32),
    config(1, 128, 128),
    config(2, 64, 32),
    config(4, 64, 64),
    config(8, 128, 64),
    config(16, 64, 16),
    config(32, 32, 32),
]
TRITON_DIMS = [(1, 1, 32, 16), (8, 2, 32, 32), (5, 1, 128, 64), (8, 1, 64, 16)]
"""G = 1, 4, 5, 8."""


def quantised(dims):
    """Where a head is a group, the output is."""
    return dims[2] == 128


def splits_and_least(chosen):
    return chosen["block_sizes"][:2]


@pytest.mark.parametrize("dims", TRITON_DIMS, ids=lambda dims: "x".join(map(str, dims)))
@pytest.mark.parametrize("chosen", CONFIGS, ids=lambda c: "x".join(map(str, c["block_sizes"])))
def test_triton_at_real_tile_sizes(dims, chosen, triton):
    """Around blocks, tiles, parts, and all parts together; counters zero, the workspace reused."""
    splits, least = splits_and_least(chosen)
    tile = chosen["block_sizes"][2]
    ends = {dims[3], tile, least, splits * least}
    lengths = sorted({0, 1, *around(*(end for end in ends if end <= 512)), splits * least + 40})
    case = Sequences(dims, tuple(lengths), LAYOUTS[dims[0] % 2], quantised=quantised(dims))
    found, joined = triton.ask("attend", case, chosen, [FORWARD, FORWARD])
    assert found == []
    assert joined is (splits > 1)


@pytest.mark.parametrize(
    ("chosen", "heads"),
    [
        (config(2, 64, 32), (8, 2)),
        (config(16, 64, 64), (8, 2)),
        (config(32, 32, 32), (16, 2)),  # in two turns
    ],
    ids=["2", "16", "32"],
)
def test_whoever_arrives_last_the_bits_are_the_same(chosen, heads, triton):
    splits, least = splits_and_least(chosen)
    case = Sequences((*heads, 32, 16), (splits * least + 77, least + 1, 3 * least - 5, 0, 7))
    found, joined = triton.ask("attend", case, chosen, [FORWARD, BACKWARD, 1, 2, 3, FORWARD])
    assert found == [] and joined


@pytest.mark.parametrize("query_len", [2, 4])
@pytest.mark.parametrize("dims", [(1, 1, 32, 16), (8, 2, 128, 32), (8, 1, 64, 16)])
@pytest.mark.parametrize(
    "chosen", [CONFIGS[0], CONFIGS[2], CONFIGS[-1]], ids=["whole", "parts", "many parts"]
)
def test_triton_checks_guesses(dims, chosen, query_len, triton):
    splits, least = splits_and_least(chosen)
    ends = (dims[3], chosen["block_sizes"][2], least)
    lengths = {0, query_len, *around(*(query_len + end for end in ends)), splits * least + 40}
    case = Sequences(dims, tuple(sorted(lengths - {query_len - 1})), query_len=query_len)
    case = case._replace(quantised=quantised(dims), layout=LAYOUTS[dims[0] % 2])
    found, joined = triton.ask("attend", case, chosen, [FORWARD, BACKWARD])
    assert found == []
    assert joined is (splits > 1)


def test_some_parts_are_joined_at_once_and_some_in_turns():
    """Of the cases here."""
    in_turns = {
        attention.joined_at_once(splits_and_least(chosen)[0], query_len * dims[0] // dims[1])
        < splits_and_least(chosen)[0]
        for dims, chosen, query_len in product(TRITON_DIMS, CONFIGS, (1, 4))
    }
    assert in_turns == {False, True}


@few
@given(
    dims=st.sampled_from(TRITON_DIMS),
    chosen=st.sampled_from(CONFIGS),
    lengths=st.lists(st.integers(0, 700), min_size=1, max_size=3),
    layout=st.sampled_from(LAYOUTS),
    poison=st.sampled_from([NAN, INFINITY]),
    order=st.integers(-1, 100),
    seed=st.integers(0, 2**31),
)
def test_triton_on_any_sequences(dims, chosen, lengths, layout, poison, order, seed, triton):
    case = Sequences(dims, tuple(lengths), layout, poison, seed, quantised(dims))
    found, _ = triton.ask("attend", case, chosen, [order, FORWARD])
    assert found == []
