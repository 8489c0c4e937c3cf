# SPDX-License-Identifier: Apache-2.0
"""Kernels out of a pack against the same kernels compiled here: equal bit for bit.

The pack is the package's own, or the one in the folder that HELION_KERNELS_TEST_PACK names.
"""

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from helion_kernels import OPS, launch, native, packs, plan, select
from helion_kernels.accuracy import fresh_outputs
from helion_kernels.op import Op
from helion_kernels.sample import Random

DEVICE = torch.device("cuda", 0)
TOKENS = (1, 2, 7, 16, 17, 33, 64, 65, 128, 257, 2049)


@pytest.fixture(scope="module")
def pack() -> native.Pack:
    given = os.environ.get("HELION_KERNELS_TEST_PACK")
    found = packs.usable(0, (Path(given),) if given else ())
    if not found:
        pytest.skip("no pack for this GPU: python -m distribution compile")
    return found[0]


def cases(pack: native.Pack) -> list[tuple[Op, tuple[Any, ...], str]]:
    """(op, dims, `Choice.key`) of every kernel in the pack."""
    found = []
    for kernel in pack.pack.kernels:
        signature = pack.pack.signatures[kernel.signature]
        op = OPS[signature.op]
        found.append((op, op.dims(*signature.dims), kernel.config))
    return found


def native_plan(pack: native.Pack, op: Op, dims: tuple[Any, ...], key: str) -> int:
    number = pack.plan(op.name, dims, [(key, 16384)])
    assert number is not None
    native.prepare(number, 0)
    return number


def whole_plans(pack: native.Pack) -> list[tuple[Op, tuple[Any, ...], int]]:
    """A plan of one kernel for each (op, dims)."""
    unique = {(op.name, dims): key for op, dims, key in cases(pack)}
    return [
        (OPS[name], dims, native_plan(pack, OPS[name], dims, key))
        for (name, dims), key in unique.items()
    ]


def sample(op: Op, dims: tuple[Any, ...], num_tokens: int, seed: int = 0) -> tuple[Any, ...]:
    return op.sample(dims, num_tokens, Random("cuda", seed))


def assert_same(op: Op, one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    for i in op.outputs:
        if one[i] is not None:
            pair = [x[i].contiguous().view(torch.uint8) for x in (one, other)]
            assert torch.equal(*pair), (op.name, op.arguments[i].name)


def compile_all(pack: native.Pack) -> Iterator[tuple[Op, tuple[Any, ...], str, launch.Launcher]]:
    """What `cases` has, each compiled here, by as many processes as there are cores."""
    from helion_kernels.tune.cases import Case
    from helion_kernels.tune.gpu import Gpu, load

    with Gpu({}) as compilers:
        sources = [
            (op, dims, key, compilers.compile(Case(op, dims, 1, 1.0), json.loads(key)))
            for op, dims, key in cases(pack)
        ]
        for op, dims, key, source in sources:
            yield op, dims, key, load(op, dims, source.result(), DEVICE)


def test_every_kernel_equals_the_compiled_one(pack: native.Pack) -> None:
    for op, dims, key, compiled in compile_all(pack):
        number = native_plan(pack, op, dims, key)
        served = [n for n in TOKENS if op.serves(dims, json.loads(key), n)]
        for seed, num_tokens in enumerate(served):
            args = sample(op, dims, num_tokens, seed)
            one, other = fresh_outputs(op, args), fresh_outputs(op, args)
            compiled(*one)
            native.operator(op.name)(*other, number)
            assert_same(op, one, other)


def test_graphs_replay_on_new_inputs(pack: native.Pack) -> None:
    for op, dims, number in whole_plans(pack):
        operator = native.operator(op.name)
        static = sample(op, dims, 17)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            operator(*static, number)
        for seed in (1, 2):
            for to, value in zip(static, sample(op, dims, 17, seed), strict=True):
                if isinstance(to, torch.Tensor):
                    to.copy_(value)
            eager = fresh_outputs(op, static)
            operator(*eager, number)
            graph.replay()
            assert_same(op, eager, static)


def test_launches_go_to_the_current_stream(pack: native.Pack) -> None:
    """What a stream that is held up has yet to run is not done; the other stream's is."""
    op, dims, number = whole_plans(pack)[0]
    operator = native.operator(op.name)
    args = sample(op, dims, 64)
    right = fresh_outputs(op, args)
    operator(*right, number)
    late, soon = fresh_outputs(op, args), fresh_outputs(op, args)
    torch.cuda.synchronize()
    held, free = torch.cuda.Stream(), torch.cuda.Stream()
    with torch.cuda.stream(held):
        torch.cuda._sleep(200_000_000)
        operator(*late, number)
    with torch.cuda.stream(free):
        operator(*soon, number)
    free.synchronize()
    assert not held.query()
    with torch.cuda.stream(free):
        assert_same(op, right, soon)
        free.synchronize()
    torch.cuda.synchronize()
    assert_same(op, right, late)


def test_eight_threads_on_streams_of_their_own(pack: native.Pack) -> None:
    plans = whole_plans(pack)
    errors: list[BaseException] = []
    work = []
    for op, dims, number in plans:
        args = sample(op, dims, 33)
        right = fresh_outputs(op, args)
        native.operator(op.name)(*right, number)
        work.append((op, number, right, [fresh_outputs(op, args) for _ in range(8)]))
    torch.cuda.synchronize()

    def run(thread: int) -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                for i in range(5 * len(work)):
                    op, number, _, outputs = work[(i + thread) % len(work)]
                    native.operator(op.name)(*outputs[thread], number)
                torch.cuda.current_stream().synchronize()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    # An op that adds to its residual does so each time: only ops whose inputs stay are compared.
    for op, _, right, outputs in work:
        if not op.name.startswith("rms_norm"):
            for each in outputs:
                assert_same(op, right, each)


def test_plans_take_packs_and_compile_nothing(pack: native.Pack, compiled: list[str]) -> None:
    """Every (op, dims) of the pack, for an engine of 2048 tokens, all buckets."""
    unique = {(op.name, dims): op for op, dims, _ in cases(pack)}
    plan._ids.clear()
    for op in OPS.values():
        plan._stock.setdefault(op.name, lambda *_: None)
    try:
        folders = [pack.path.parent]
        wanted = [(op, dims) for (_, dims), op in unique.items()]
        ids = plan.prepare(wanted, 2048, DEVICE, pack_folders=folders)
        gpu = select.slug(torch.cuda.get_device_name(0))
        for i in ids if gpu == "nvidia_h100" else []:
            assert set(plan.PLANS[i].kinds) <= {"pack", "stock"}
            if plan.PLANS[i].native is not None:
                operator, number = plan.entry(i)
                operator(*sample(plan.PLANS[i].op, plan.PLANS[i].dims, 3), number)
        torch.cuda.synchronize()
    finally:
        plan._ids.clear()
        plan._stock.clear()
    assert compiled == []


def test_memory_does_not_grow(pack: native.Pack) -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    op, dims, number = next(item for item in whole_plans(pack) if item[0].name == "scaled_mm")
    args, operator = sample(op, dims, 1), native.operator(op.name)

    def launches(count: int) -> None:
        for i in range(count):
            operator(*args, number)
            if i % 1000 == 0:
                torch.cuda.synchronize()
        torch.cuda.synchronize()

    launches(20_000)
    before = resident()
    launches(1_000_000)
    assert resident() - before < 4 << 20
