# SPDX-License-Identifier: Apache-2.0
"""How a kernel is timed: CUDA graphs over rotating buffers, arms interleaved, medians.

An arm is a list of closures, one per set of buffers. They are captured into one graph in which each
call finds the L2 cache full of other sets' data, as in a model, where a layer's weights were last
used a step ago. Small activations stay warm there, and here too: no more than MAX_SETS sets are
made, and `cold` says whether they exceed the cache.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from helion_kernels.op import Op
from helion_kernels.sample import Random

MAX_SETS = 64
CALLS_US = 400.0
"""A graph holds calls for about this long, so that the start of the graph weighs little."""


def sets_needed(bytes_per_set: int, l2: int) -> int:
    """Sets of buffers whose total is twice the cache: two at least, MAX_SETS at most."""
    return max(2, min(MAX_SETS, -(-2 * l2 // max(1, bytes_per_set))))


def is_cold(bytes_per_set: int, sets: int, l2: int) -> bool:
    return bytes_per_set * (sets - 1) > l2


def make_sets(
    op: Op, dims: tuple[Any, ...], num_tokens: int, l2: int
) -> tuple[list[tuple[Any, ...]], bool]:
    """Sets of random arguments that rotate through the L2 cache, and whether they exceed it."""
    size = op.bytes_moved(dims, num_tokens)
    count = sets_needed(size, l2)
    sets = [op.sample(dims, num_tokens, Random("cuda", seed)) for seed in range(count)]
    return sets, is_cold(size, count, l2)


def calls_per_graph(sets: int, call_us: float) -> int:
    """Whole rotations that last about CALLS_US."""
    rotations = round(CALLS_US / (max(call_us, 1.0) * sets))
    return sets * max(1, rotations)


@dataclass(frozen=True)
class Timing:
    us: float
    """Median time of a call."""
    low: float
    high: float
    """First and third quartile."""


def summarise(samples: Sequence[float]) -> Timing:
    if len(samples) < 2:
        return Timing(samples[0], samples[0], samples[0])
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Timing(middle, low, high)


class Graph:
    """calls of an arm, captured once.

    The arm is kept: what its closures own and the graph writes, a buffer between two kernels, say,
    would be freed, and unmapped when the next graph is captured.
    """

    def __init__(self, arm: Sequence[Callable[[], object]], calls: int) -> None:
        self.arm, self.calls = arm, calls
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            arm[0]()  # load and set up outside the capture
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            for i in range(calls):
                arm[i % len(arm)]()

    def replay(self) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        self.graph.replay()
        end.record()
        return start, end


def measure(graphs: Sequence[Graph], rounds: int) -> list[Timing]:
    """Median per graph over interleaved rounds, after one that does not count."""
    events: list[list[tuple[torch.cuda.Event, torch.cuda.Event]]] = [[] for _ in graphs]
    for round_ in range(rounds + 1):
        for graph, samples in zip(graphs, events, strict=True):
            pair = graph.replay()
            if round_:
                samples.append(pair)
    torch.cuda.synchronize()
    return [
        summarise([1e3 * start.elapsed_time(end) / graph.calls for start, end in samples])
        for graph, samples in zip(graphs, events, strict=True)
    ]


def device_error() -> RuntimeError | None:
    """What the GPU answers if nothing runs on it any more in this process. What failed before may
    have reported that as an error of its own, as Triton's launches do."""
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        return error
    return None


@dataclass(frozen=True)
class Ceilings:
    """What this GPU reached in this run."""

    bytes_per_us: float
    """The better of a large copy (read and written bytes) and a large read."""
    copy_bytes_per_us: float
    read_bytes_per_us: float
    flops_per_us: float
    """A large FP8 matrix product through cuBLAS, random data; 0 if it could not be run."""

    def floor_us(self, bytes_moved: int, flops: int) -> float:
        arithmetic = flops / self.flops_per_us if self.flops_per_us else 0.0
        return max(bytes_moved / self.bytes_per_us, arithmetic)


def measure_ceilings() -> Ceilings:
    copied, was_read = _bandwidths()
    return Ceilings(max(copied, was_read), copied, was_read, _fp8_flops_per_us())


def _bandwidths() -> tuple[float, float]:
    """Bytes per microsecond of a copy and of a read of 1 GiB."""
    size = 1 << 30
    source = torch.randn(size // 4, device="cuda")
    target = torch.empty_like(source)
    total = torch.empty((), device="cuda")
    copy, read = measure(
        [
            Graph([lambda: target.copy_(source)], 1),
            Graph([lambda: torch.sum(source, dim=0, out=total)], 1),
        ],
        10,
    )
    return 2 * size / copy.us, size / read.us


def _fp8_flops_per_us() -> float:
    edge = 8192
    a = torch.randn(edge, edge, device="cuda").to(torch.float8_e4m3fn)
    b = torch.randn(edge, edge, device="cuda").to(torch.float8_e4m3fn).t()
    one = torch.ones((), device="cuda")
    try:
        product = Graph([lambda: torch._scaled_mm(a, b, one, one, out_dtype=torch.bfloat16)], 2)
    except RuntimeError:
        return 0.0
    return 2 * edge**3 / measure([product], 8)[0].us
