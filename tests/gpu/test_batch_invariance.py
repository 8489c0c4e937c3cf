# SPDX-License-Identifier: Apache-2.0
"""With batch invariance a token's bits are the same alone and in any batch, in any order."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from batches import Tokens

from helion_kernels import OPS, launch, plan
from helion_kernels.qwen3 import MODELS, dims_of

DEVICE = torch.device("cuda", 0)
CASES = [(name, dims) for name in OPS for dims in dims_of(MODELS["8b"], name)]
TOKENS = 40
BATCHES = 25
MOST = 700
"""Tokens in a batch: more than any bucket of the ops' own rules begins with."""


@pytest.fixture(scope="module")
def calls() -> dict[tuple[str, tuple[Any, ...]], Callable[..., None]]:
    """Of plans made for batch invariance, whatever other tests have planned."""
    before = dict(plan._ids)
    plan._ids.clear()
    plan.use_batch_invariance(True)
    try:
        ids = plan.prepare([(OPS[name], dims) for name, dims in CASES], MOST, DEVICE, workers=16)
    finally:
        plan.use_batch_invariance(False)
        plan._ids.clear()
        plan._ids.update(before)
    assert all(len(plan.PLANS[i].choices) == 1 for i in ids)
    return {case: _call(i) for case, i in zip(CASES, ids, strict=True)}


def _call(plan_id: int) -> Callable[..., None]:
    operator, number = plan.entry(plan_id)
    return lambda *args: operator(*args, number)


def batches(seed: int, most: int) -> Iterator[list[int]]:
    """Of every size, with tokens that come up again; then all of them, whole and in chunks."""
    chance = random.Random(seed)
    for _ in range(BATCHES):
        size = round(most ** chance.random())
        yield chance.choices(range(TOKENS), k=size)
    prompt = chance.sample(range(TOKENS), TOKENS)
    yield prompt
    cut = chance.randrange(1, TOKENS)
    yield prompt[:cut]
    yield prompt[cut:]


@pytest.mark.parametrize(
    ("name", "dims"), CASES, ids=[f"{n}-{'x'.join(str(int(d)) for d in ds)}" for n, ds in CASES]
)
def test_any_batch(name, dims, calls) -> None:
    op = OPS[name]
    tokens = Tokens(op, dims, TOKENS, calls[name, dims], DEVICE)
    for batch in batches(seed=len(name), most=min(MOST, op.most_tokens or MOST)):
        assert tokens.changed(batch) == [], f"in a batch of {len(batch)}"


def test_another_order_of_adding_is_noticed(calls) -> None:
    """Of scaled_mm_blockwise: the groups that scaled_mm adds come out of the tensor core with some
    14 bits, so that float32 adds them exactly, in any order (measured)."""
    name = "scaled_mm_blockwise"
    op, dims = OPS[name], OPS[name].dims(4096, 4096)
    tokens = Tokens(op, dims, TOKENS, calls[name, tuple(dims)], DEVICE)
    config = op.default_config(dims, TOKENS)
    config["block_sizes"] = [*config["block_sizes"][:2], 512]
    tokens.call = launch.launcher(op, launch.build(launch.generate(op, dims, config), DEVICE))
    assert len(tokens.changed(list(range(TOKENS)))) > TOKENS // 2
