# SPDX-License-Identifier: Apache-2.0
"""Kernels of one pack on two GPUs of one process."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from one_launch import on

from helion_kernels import OPS, native, packs
from helion_kernels.accuracy import fresh_outputs
from helion_kernels.op import Op
from helion_kernels.sample import Random

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
DEVICES = ("cuda:0", "cuda:1")
Arguments = tuple[Any, ...]
Work = dict[str, list[tuple[Op, int, Arguments]]]
"""By device, the same in each: op, plan, arguments."""


def plans() -> Iterator[tuple[Op, Arguments, int]]:
    """(op, dims, a plan that both devices have prepared), the pack's first kernel of each op."""
    found = packs.usable(0, ())
    if not found:
        pytest.skip("no pack for this GPU: python -m distribution compile")
    pack = found[0]
    seen: set[str] = set()
    for kernel in pack.pack.kernels:
        signature = pack.pack.signatures[kernel.signature]
        op = OPS[signature.op]
        if op.name not in seen:
            seen.add(op.name)
            dims = op.dims(*signature.dims)
            number = pack.plan(op.name, dims, [(kernel.config, 16384)])
            assert number is not None
            for index in range(len(DEVICES)):
                native.prepare(number, index)
            yield op, dims, number


@pytest.fixture(scope="module")
def work() -> Work:
    found: Work = {device: [] for device in DEVICES}
    for op, dims, number in plans():
        args = op.sample(dims, 9, Random("cpu", 1))
        for device in DEVICES:
            found[device].append((op, number, on(device, args)))
    return found


def run(items: list[tuple[Op, int, Arguments]], device: str) -> None:
    with torch.cuda.device(device):
        for op, number, args in items:
            native.operator(op.name)(*args, number)


def written(items: list[tuple[Op, int, Arguments]]) -> list[torch.Tensor]:
    return [
        args[i].contiguous().view(torch.uint8).cpu()
        for op, _, args in items
        for i in op.outputs
        if args[i] is not None
    ]


def fresh(work: Work) -> Work:
    return {
        device: [(op, number, fresh_outputs(op, args)) for op, number, args in items]
        for device, items in work.items()
    }


def one_after_another(work: Work) -> None:
    """A launch here, a launch there."""
    for pair in zip(*(work[device] for device in DEVICES), strict=True):
        for device, item in zip(DEVICES, pair, strict=True):
            run([item], device)


def in_threads(work: Work) -> None:
    threads = [threading.Thread(target=run, args=(work[device], device)) for device in DEVICES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def in_graphs(work: Work) -> None:
    before = {device: written(work[device]) for device in DEVICES}
    graphs = []
    for device in DEVICES:
        graph = torch.cuda.CUDAGraph()
        # A stream of its own: PyTorch's for captures is the first device's.
        with torch.cuda.graph(graph, stream=torch.cuda.Stream(device)):
            for op, number, args in work[device]:
                native.operator(op.name)(*args, number)
        graphs.append(graph)
    for device in DEVICES:
        assert all(map(torch.equal, before[device], written(work[device])))
    for graph in graphs:
        graph.replay()


@pytest.mark.parametrize("way", [one_after_another, in_threads, in_graphs])
def test_both_write_the_same_bits(work: Work, way: Callable[[Work], None]) -> None:
    mine = fresh(work)
    way(mine)
    for device in DEVICES:
        torch.cuda.synchronize(device)
    first, second = (written(mine[device]) for device in DEVICES)
    untouched = written(fresh(work)[DEVICES[0]])
    assert len(first) >= len(OPS)
    for a, b, poison in zip(first, second, untouched, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, poison)


def test_arguments_on_two_devices_are_refused(work: Work) -> None:
    for (op, number, here), (_, _, there) in zip(*(work[d] for d in DEVICES), strict=True):
        with torch.cuda.device(0), pytest.raises(RuntimeError, match=op.name):
            native.operator(op.name)(here[0], *there[1:], number)
        torch.cuda.synchronize(0)
