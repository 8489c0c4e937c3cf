# SPDX-License-Identifier: Apache-2.0
"""Every op as compiled for the GPU, at the sizes of Qwen3, against its float64 reference."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from helion_kernels import OPS, plan
from helion_kernels.accuracy import expect, fresh_outputs, problems
from helion_kernels.op import Op
from helion_kernels.ops import fused_qk_norm_rope_paged_attention as attention
from helion_kernels.qwen3 import MODELS, dims_of
from helion_kernels.sample import POISON, Random
from helion_kernels.tune.cases import LM_HEAD_ROWS

TOKENS = (1, 2, 3, 7, 16, 17, 64, 127, 512, 2049, 8192)
LM_HEAD_TOKENS = 1024
"""vLLM's default for the sequences of a step. Float64 of 8192 times a vocabulary is 10 GB."""
MODEL_NAMES = ("1.7b", "8b", "32b")
CASES = list(
    dict.fromkeys(
        (name, dims)
        for model in MODEL_NAMES
        for name in OPS
        for dims in dims_of(MODELS[model], name)
    )
)
CASES += [
    (name, (*dims[:-1], query_len))
    for name, dims in CASES
    for query_len in (2, 4)
    if "query_len" in OPS[name].dims._fields
]
"""Attention of guesses, too."""
SMALL: dict[str, tuple[Any, ...]] = {name: dims_of(MODELS["1.7b"], name)[-1] for name in OPS}
"""One set of dims for each op, for what does not depend on dims."""


UNPACKED: dict[str, tuple[Any, ...]] = {
    "per_token_group_fp8_quant": (640,),
    "rms_norm_per_block_quant": (640, True),
    "silu_and_mul_per_block_quant": (640,),
}
"""Dims of no model."""


class Plans(dict[tuple[str, tuple[Any, ...]], int]):
    """Plan ids of cases; those of an op are compiled at once, when the first is asked for."""

    def __missing__(self, case: tuple[str, tuple[Any, ...]]) -> int:
        cases = [each for each in CASES if each[0] == case[0]]
        wanted = [(OPS[name], OPS[name].dims(*dims)) for name, dims in cases]
        ids = plan.prepare(wanted, max(TOKENS), torch.device("cuda", 0), workers=16)
        self.update(zip(cases, ids, strict=True))
        return self[case]


@pytest.fixture(scope="module")
def plans() -> Plans:
    return Plans()


def call(name: str, plan_id: int, args: tuple[Any, ...]) -> None:
    getattr(torch.ops.helion_kernels, name)(*args, plan=plan_id)


def sample(name: str, dims: tuple[Any, ...], num_tokens: int, seed: int = 0) -> tuple[Any, ...]:
    op = OPS[name]
    return op.sample(op.dims(*dims), num_tokens, Random("cuda", seed))


def assert_right(op: Op, args: tuple[Any, ...], plan_id: int) -> None:
    expected = expect(op, args)
    actual = fresh_outputs(op, args)
    call(op.name, plan_id, actual)
    assert problems(op, expected, actual) == []


@pytest.mark.parametrize(
    ("name", "dims"), CASES, ids=[f"{n}-{'x'.join(str(int(d)) for d in ds)}" for n, ds in CASES]
)
def test_every_num_tokens(name, dims, plans, compiled) -> None:
    """And nothing is compiled after `plan.prepare`."""
    plan_id = plans[name, dims]
    compiled.clear()
    tokens = [n for n in TOKENS if n <= (OPS[name].most_tokens or n)]
    if name == "scaled_mm" and dims[0] >= LM_HEAD_ROWS:  # which gets a token of each sequence
        tokens = [n for n in tokens if n <= LM_HEAD_TOKENS]
    for seed, num_tokens in enumerate(tokens):
        assert_right(OPS[name], sample(name, dims, num_tokens, seed), plan_id)
    assert compiled == []


@pytest.mark.parametrize("num_seqs", [1, 4, 16])
@pytest.mark.parametrize("dims", [dims for name, dims in CASES if name == attention.OP.name])
def test_attention_of_long_sequences(dims, num_seqs, plans, monkeypatch) -> None:
    """Which have as many parts as a config allows."""
    monkeypatch.setattr(attention, "CONTEXT", 20000)
    name = attention.OP.name
    assert_right(attention.OP, sample(name, dims, num_seqs), plans[name, dims])


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("num_tokens", [1, 17, 300])
def test_graph_replays_on_new_inputs(name, num_tokens, plans) -> None:
    op, dims = OPS[name], SMALL[name]
    static = sample(name, dims, num_tokens)
    warm = fresh_outputs(op, static)
    call(name, plans[name, dims], warm)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call(name, plans[name, dims], static)
    for seed in (1, 2, 3):
        new = sample(name, dims, num_tokens, seed)
        for to, value in zip(static, new, strict=True):
            if isinstance(to, torch.Tensor):
                # A permutation may differ in length from graph to graph, never within one.
                to.copy_(value)
        expected = expect(op, static)
        graph.replay()
        assert problems(op, expected, static) == []


@pytest.mark.parametrize("name", OPS)
def test_two_runs_agree_bit_for_bit(name, plans) -> None:
    op, dims = OPS[name], SMALL[name]
    args = sample(name, dims, 300)
    runs = [fresh_outputs(op, args) for _ in range(2)]
    for run in runs:
        call(name, plans[name, dims], run)
    for i in op.outputs:
        if args[i] is not None:
            first, second = (run[i].contiguous().view(torch.uint8) for run in runs)
            assert torch.equal(first, second)


@pytest.mark.parametrize("name", OPS)
def test_beyond_the_largest_num_tokens_planned(name) -> None:
    op, dims = OPS[name], OPS[name].dims(*SMALL[name])
    # dims of its own, lest it be planned already: the last bucket's launcher serves what is larger.
    before = dict(plan._ids)
    plan._ids.clear()
    try:
        (plan_id,) = plan.prepare([(op, dims)], 64, torch.device("cuda", 0))
    finally:
        plan._ids.clear()
        plan._ids.update(before)
    assert_right(op, sample(name, dims, 200), plan_id)


@pytest.mark.parametrize("name", OPS)
def test_no_tokens(name, plans) -> None:
    call(name, plans[name, SMALL[name]], sample(name, SMALL[name], 0))


@pytest.mark.parametrize(
    "name", [n for n in OPS if n.endswith("quant") and ("per_block" in n or "group" in n)]
)
def test_scales_in_either_layout(name) -> None:
    """As a compiled kernel takes them; a pack is made for one, and says so."""
    op, dims = OPS[name], UNPACKED[name]
    args = list(sample(name, dims, 33))
    (position,) = [i for i, a in enumerate(op.arguments) if a.name == "scale"]
    rows, groups = args[position].shape
    layouts = {
        "row-major": torch.empty(rows, groups, device="cuda"),
        "column-major": torch.empty(groups, rows, device="cuda").t(),
        "columns aligned to 4": torch.empty(groups, 36, device="cuda").t()[:rows],
    }
    for layout, scale in layouts.items():
        args[position] = scale.fill_(float("nan"))
        expected = expect(op, tuple(args))
        actual = fresh_outputs(op, tuple(args))
        call(name, plan.UNPLANNED, actual)
        assert problems(op, expected, actual) == [], layout


@pytest.mark.parametrize("block_size", [16, 32, 48])
@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_kv_cache_layouts(block_size, layout, plans) -> None:
    """Slots of -1 and tokens past the slots write nothing; each layout and block size is met."""
    name = "fused_qk_norm_rope_kv_write"
    op, dims = OPS[name], SMALL[name]
    _, kv, d = dims
    args = list(sample(name, dims, 50))
    blocks = 7
    if layout == "NHD":
        cache = torch.empty(blocks, block_size, kv, 2 * d, dtype=torch.bfloat16, device="cuda")
        cache = cache.transpose(1, 2)
    else:
        cache = torch.empty(blocks, kv, block_size, 2 * d, dtype=torch.bfloat16, device="cuda")
    cache.fill_(-7.0)
    slots = torch.randperm(blocks * block_size, device="cuda")[:41]
    slots[::5] = -1
    args[1], args[2] = cache, slots
    assert_right(op, tuple(args), plans[name, dims])


def test_kv_cache_of_more_than_2_gib(plans) -> None:
    """Offsets into the cache do not fit in 32 bits."""
    name = "fused_qk_norm_rope_kv_write"
    op, dims = OPS[name], SMALL[name]
    _, kv, d = dims
    blocks = (5 << 30) // (2 * 16 * kv * 2 * d)
    cache = torch.empty(blocks, 16, kv, 2 * d, dtype=torch.bfloat16, device="cuda").transpose(1, 2)
    args = list(sample(name, dims, 3))
    slots = torch.tensor([blocks * 16 - 1, blocks * 8, 0], device="cuda")
    args[1], args[2] = cache, slots
    call(name, plans[name, dims], tuple(args))
    small = cache.new_empty((3, 1, kv, 2 * d)).transpose(1, 2)
    args[1], args[2] = small, torch.arange(3, device="cuda")
    expected = expect(op, tuple(args))
    got = torch.stack([cache[slot // 16, :, slot % 16] for slot in slots.tolist()]).unsqueeze(2)
    args[1] = got
    assert problems(op, expected, tuple(args)) == []


def test_a_block_table_of_any_width_compiles_nothing(compiled) -> None:
    """Its width follows from an engine's longest sequence; samples have 57 blocks."""
    name = "fused_qk_norm_rope_paged_attention"
    op, dims = OPS[name], OPS[name].dims(10, 2, 64, 16, False)  # of no model, so of no pack
    (plan_id,) = plan.prepare([(op, dims)], 64, torch.device("cuda", 0))
    assert set(plan.PLANS[plan_id].kinds) == {"compiled"}
    ready = len(compiled)
    assert ready
    (at,) = [i for i, argument in enumerate(op.arguments) if argument.name == "block_table"]
    for columns in (57, 64, 96, 128):
        args = list(op.sample(dims, 20, Random("cuda", columns)))
        table = args[at].new_zeros((20, columns))
        table[:, : args[at].shape[1]] = args[at]
        args[at] = table
        assert_right(op, tuple(args), plan_id)
    assert len(compiled) == ready


EXTREMES: dict[str, Callable[[torch.Tensor], object]] = {
    "zeros": lambda x: x.zero_(),
    "denormals": lambda x: x.fill_(1e-39),
    "outlier": lambda x: x[:, 5].fill_(3e4),
    "large": lambda x: x.mul_(1e4),
}


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("name", [n for n in OPS if n.endswith("quant")])
def test_extremes(name, extreme, plans) -> None:
    op, dims = OPS[name], SMALL[name]
    args = sample(name, dims, 9)
    (position,) = [i for i, a in enumerate(op.arguments) if a.name == "input"]
    EXTREMES[extreme](args[position])
    assert_right(op, args, plans[name, dims])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", OPS)
def test_a_bad_token_spoils_no_other(name, bad, plans) -> None:
    op, dims = OPS[name], SMALL[name]
    args = sample(name, dims, 20)
    (source,) = [i for i, a in enumerate(op.arguments) if a.name in ("input", "qkv", "q", "a")]
    clean = fresh_outputs(op, args)
    call(name, plans[name, dims], clean)
    spoilt = list(fresh_outputs(op, args))
    spoilt[source] = spoilt[source].clone()
    spoilt[source][7] = bad
    call(name, plans[name, dims], tuple(spoilt))
    rest = [row for row in range(20) if row != 7]
    for i in op.outputs:
        if args[i] is None:
            continue
        if op.arguments[i].name == "kv_cache":
            slots = args[2][[row for row in rest if row < len(args[2])]]
            pick = [
                cache.transpose(1, 2).flatten(0, 1)[slots].view(torch.uint8)
                for cache in (clean[i], spoilt[i])
            ]
        else:
            pick = [out[rest].contiguous().view(torch.uint8) for out in (clean[i], spoilt[i])]
        assert torch.equal(*pick), op.arguments[i].name


def test_outputs_are_poisoned() -> None:
    """So that an element which a kernel leaves out is noticed."""
    out = Random("cuda").empty((3, 5), torch.float8_e4m3fn)
    assert (out.view(torch.uint8) == POISON).all() and out.float().isnan().all()
