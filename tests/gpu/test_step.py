# SPDX-License-Identifier: Apache-2.0
"""A step of two layers of Qwen3-8B in a CUDA graph: 1000 replays agree bit for bit.

With what the same launches write one at a time, so that kernels which overlap and race show; and
launch by launch, so that the first that differs is named. As in test_determinism.py outputs are
poisoned, and inputs written anew, before each replay; of the cache what the step writes.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from watch import Written, at_rest, bits, poison, replay

from helion_kernels import OPS, timing
from helion_kernels.qwen3 import MODELS
from helion_kernels.sample import Random

pytest.importorskip("safetensors")
from benchmarks import step

REPLAYS = 1000
SIZES = MODELS["8b"]
DEVICE = torch.device("cuda", 0)


class Recorder:
    """What each launch of a step writes; holds on to it, so that no other launch gets its memory.

    Nothing is launched in between, which would keep kernels from overlapping.
    """

    def __init__(self, entries: step.Entries) -> None:
        self.launches: Written = []
        self.entries = {name: (self._noting(name, f), n) for name, (f, n) in entries.items()}

    def _noting(self, name: str, function: Any) -> Any:
        op = OPS[function.name().split("::")[1].split(".")[0]]

        def call(*args: Any) -> None:
            function(*args)
            for i in op.outputs:
                if args[i] is not None:
                    cache = op.arguments[i].name == "kv_cache"
                    out = step.written(args[i], len(args[0])) if cache else args[i]
                    self.launches.append((name, out))

        return call


@pytest.fixture(scope="module")
def entries() -> Iterator[dict[bool, step.Entries]]:
    yield {block: step.prepare(SIZES, block, 32) for block in (False, True)}
    torch.cuda.empty_cache()


def one_at_a_time(model: step.Model, recorder: Recorder, value: torch.Tensor) -> Written:
    """What a step writes whose launches wait for each other, copied."""
    model.input.copy_(value)
    for cache in model.caches:
        poison(step.written(cache, model.m))
    recorder.launches.clear()
    model.step(lambda name, out: torch.cuda.synchronize())
    return [(name, bits(x).clone()) for name, x in at_rest(recorder.launches)]


def differing(model: step.Model, recorder: Recorder) -> str:
    """Empty, or what differs first in a replay, and whether the graph is to blame."""

    def record() -> None:
        recorder.launches.clear()
        model.step()

    inputs = [Random(DEVICE, seed).randn(model.input.shape, torch.bfloat16) for seed in (1, 2)]
    expected = [[x for _, x in one_at_a_time(model, recorder, value)] for value in inputs]
    graph = timing.Graph([record], 1)
    written = at_rest(recorder.launches)

    def run(i: int) -> None:
        model.input.copy_(inputs[i % 2])
        graph.graph.replay()

    if not (found := replay(written, expected, REPLAYS, run)):
        return ""
    again = zip(one_at_a_time(model, recorder, inputs[0]), expected[0], strict=True)
    unequal = [name for (name, x), y in again if not torch.equal(x, y)]
    alone = f"differ too, first {unequal[0]}" if unequal else "do not: a race between launches"
    return f"{found}; two runs without a graph {alone}"


@pytest.mark.parametrize("block", [False, True], ids=["token", "block"])
@pytest.mark.parametrize("num_tokens", [1, 8, 32])
def test_step(num_tokens, block, entries) -> None:
    recorder = Recorder(entries[block])
    assert differing(step.Model(SIZES, 2, block, num_tokens, recorder.entries), recorder) == ""
