# SPDX-License-Identifier: Apache-2.0
"""Replays of a CUDA graph agree bit for bit: every op at Qwen3-8B's sizes. Steps: test_step.py.

Before each of 1000 replays all outputs are poisoned and all inputs written anew, by turns with
those of two seeds: what a replay leaves behind neither helps nor hides in the next one.
"""

from typing import Any

import pytest
import torch
from watch import replay

from helion_kernels import OPS, plan, timing
from helion_kernels.accuracy import copy_of, fresh_outputs
from helion_kernels.qwen3 import MODELS, dims_of
from helion_kernels.sample import Random

REPLAYS = 1000
TOKENS = (1, 8, 32, 300)
"""The last takes the configs for many tokens."""
SIZES = MODELS["8b"]
CASES = [(name, dims) for name in OPS for dims in dims_of(SIZES, name)]
CASES += [(name, (*dims[:-1], 4)) for name, dims in CASES if "query_len" in OPS[name].dims._fields]
DEVICE = torch.device("cuda", 0)
Calls = dict[tuple[str, tuple[Any, ...]], tuple[Any, int]]


@pytest.fixture(scope="module")
def calls() -> Calls:
    """(op, dims) -> how an engine calls it."""
    wanted = [(OPS[name], dims) for name, dims in CASES]
    ids = plan.prepare(wanted, max(TOKENS), DEVICE, workers=16)
    return {case: plan.entry(i) for case, i in zip(CASES, ids, strict=True)}


@pytest.mark.parametrize("num_tokens", TOKENS)
@pytest.mark.parametrize(
    ("name", "dims"), CASES, ids=[f"{n}-{'x'.join(str(int(d)) for d in ds)}" for n, ds in CASES]
)
def test_ops(name, dims, num_tokens, calls) -> None:
    op, (function, number) = OPS[name], calls[name, dims]
    inputs, expected = [], []
    for seed in (1, 2):
        inputs.append(op.sample(op.dims(*dims), num_tokens, Random(DEVICE, seed)))
        right = fresh_outputs(op, inputs[-1])
        function(*right, number)
        expected.append([right[i] for i in op.outputs if right[i] is not None])
    static = tuple(copy_of(x) if torch.is_tensor(x) else x for x in inputs[0])
    graph = timing.Graph([lambda: function(*static, number)], 1)

    def run(i: int) -> None:
        for to, value in zip(static, inputs[i % 2], strict=True):
            if torch.is_tensor(to):
                to.copy_(value)
        graph.graph.replay()

    written = [(op.arguments[i].name, static[i]) for i in op.outputs if static[i] is not None]
    assert replay(written, expected, REPLAYS, run) == ""
