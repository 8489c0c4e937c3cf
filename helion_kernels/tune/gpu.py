# SPDX-License-Identifier: Apache-2.0
"""The device that tunes for real: compiler processes that need no GPU, and the GPU that times.

Generating and compiling a config takes about half a second, timing it ten milliseconds. So worker
processes compile, without a GPU (`aot.target.pretend`), into Triton's cache; this process loads the
generated source, finds the machine code in the cache, checks the outputs against the reference and
times. What was compiled for one num_tokens serves the others.
"""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import helion
import torch

from helion_kernels import OPS, deep_gemm, environment, launch, native, timing
from helion_kernels.accuracy import expect, fresh_outputs, problems
from helion_kernels.aot import build, index, make
from helion_kernels.aot.deep_gemm import headers, missing
from helion_kernels.aot.target import Target, pretend
from helion_kernels.op import Config, Op
from helion_kernels.sample import Random
from helion_kernels.tune.cases import Case
from helion_kernels.tune.device import STOCK, DeviceLostError, Trial, key

ROUNDS = 3
"""Replays of each config at first sight."""
FINAL_ROUNDS = 15
MOST_CRASHES = 3
"""Of compilers, with nothing compiled: a tuning would go on to its end and find nothing."""

Compiled = str | tuple[index.Kernel, bytes]
Name = tuple[str, tuple[Any, ...], str]
"""Op, dims, `device.key` of a config."""

# -- in the worker processes


def _start_worker() -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def compile_config(op_name: str, dims: tuple[Any, ...], config: Config, target: Target) -> Compiled:
    """The generated source, whose machine code is in Triton's cache afterwards; or a library's
    kernel."""
    if deep_gemm.names(config):
        return build.compile_deep_gemm(config, dims, make.cache_folder(), headers())
    with pretend(target):
        op = OPS[op_name]
        bound = launch.bind(op, op.kernel_of(config), dims, target.capability)
        source: str = bound.to_triton_code(helion.Config(**config))
        specialise(op, dims, source).compile()
    return source


# -- in both


def specialise(op: Op, dims: tuple[Any, ...], source: str) -> launch.Specialised:
    """What `compile_config` returned, to be compiled or found in Triton's cache."""
    from torch._inductor.codecache import PyCodeCache

    function = getattr(PyCodeCache.load(source), op.name)
    return launch.Specialised(function, launch.symbolic_args(op, dims))


# -- in the process that has the GPU


def load(
    op: Op, dims: tuple[Any, ...], compiled: Compiled, device: torch.device
) -> launch.Launcher:
    """What `compile_config` returned, on the current device."""
    if isinstance(compiled, str):
        return launch.launcher(op, launch.build(specialise(op, dims, compiled), device))
    return native.launcher(op, dims, *compiled)


class Gpu:
    """A `device.Device`: the current CUDA device. A context manager: it owns processes."""

    def __init__(
        self, stock: Mapping[str, launch.Launcher], workers: int = len(os.sched_getaffinity(0))
    ) -> None:
        """stock: op name -> upstream's function under the op's signature. workers: processes."""
        self.target = Target.present()
        self.gpu = self.target.gpu
        self.stock = stock
        self.ceilings = timing.measure_ceilings()
        self.environment = environment.versions()
        self._compiled: dict[Name, Future[Compiled]] = {}
        self.loaded: dict[Name, launch.Launcher] = {}
        """Libraries' kernels."""
        self._workers, self._crashes = workers, 0
        self._pool = self._start_pool()

    def _start_pool(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._workers, mp_context=context, initializer=_start_worker)

    def __enter__(self) -> "Gpu":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def clock(self) -> float:
        return time.monotonic()

    @cached_property
    def lacks_deep_gemm(self) -> str:
        """Why its kernels cannot be had; empty if they can."""
        if self.target.sm != 90:
            return f"they are for Hopper, not for {self.gpu}"
        try:
            native.load(OPS.values())
        except native.Unavailable as error:
            return str(error)
        return missing()

    def libraries(self, case: Case) -> list[Config]:
        if case.op.name != deep_gemm.OP or self.lacks_deep_gemm:
            return []
        return [tile.config for tile in deep_gemm.likely(case.dims[0], case.num_tokens)]

    @contextmanager
    def bench(self, case: Case) -> Iterator["GpuBench"]:
        yield GpuBench(self, case)

    def compile(self, case: Case, config: Config) -> Future[Compiled]:
        """Start compiling, unless that was done for another num_tokens."""
        name = (case.op.name, tuple(case.dims), key(config))
        future = self._compiled.get(name)
        if future is None or future.cancelled():
            task = partial(compile_config, name[0], name[1], config, self.target)
            try:
                future = self._pool.submit(task)
            except BrokenProcessPool:  # a compiler crashed, and its configs failed with it
                self._crashes += 1
                if self._crashes >= MOST_CRASHES and not any(
                    map(_succeeded, self._compiled.values())
                ):
                    raise ChildProcessError(
                        "the compiler processes end before they compile anything, see above for why"
                    ) from None
                self._pool = self._start_pool()
                future = self._pool.submit(task)
            self._compiled[name] = future
        return future


def _succeeded(future: Future[Compiled]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


class GpuBench:
    """A `device.Bench`. Buffers are made when first needed: while the first configs compile."""

    def __init__(self, device: Gpu, case: Case) -> None:
        self.device, self.case, self.op = device, case, case.op
        self.has_stock = case.op.name in device.stock
        moved = case.op.bytes_moved(case.dims, case.num_tokens)
        self.floor_us = device.ceilings.floor_us(moved, case.op.flops(case.dims, case.num_tokens))

    @cached_property
    def sets(self) -> list[tuple[Any, ...]]:
        l2 = self.device.target.l2
        return timing.make_sets(self.op, self.case.dims, self.case.num_tokens, l2)[0]

    @cached_property
    def full(self) -> "Check":
        return Check(self.op, self.sets[0])

    @cached_property
    def ragged(self) -> "Check":
        """About two thirds of the tokens, an odd number: no multiple of a tile."""
        fewer = self.case.num_tokens * 2 // 3 | 1
        return Check(self.op, self.op.sample(self.case.dims, fewer, Random("cuda", 1)))

    def ready(self) -> list[Config]:
        mine = (self.op.name, tuple(self.case.dims))
        return [
            json.loads(config)
            for (*case, config), future in self.device._compiled.items()
            if tuple(case) == mine and _succeeded(future)
        ]

    def look(self, configs: Sequence[Config]) -> Generator[Trial, None, None]:
        futures = {self.device.compile(self.case, config): config for config in configs}
        try:
            for future in as_completed(futures):
                yield self._trial(futures[future], future)
        finally:
            for future in futures:
                future.cancel()

    def _trial(self, config: Config, future: Future[Compiled]) -> Trial:
        try:
            launcher = self._launcher(config, future.result())
            if wrong := self.full.problems(launcher):
                return Trial(config, float("inf"), wrong[0])
            return Trial(config, timing.measure([self._graph(launcher)], ROUNDS)[0].us)
        except Exception as error:  # anything that Helion, Triton or ptxas may say of a config
            self._check_device(config)
            return Trial(config, float("inf"), (str(error).splitlines() or [repr(error)])[0])

    def compare(self, configs: Sequence[Config]) -> list[float]:
        us = [float("inf")] * len(configs)
        graphs: dict[int, timing.Graph] = {}
        futures = [None if c == STOCK else self.device.compile(self.case, c) for c in configs]
        for i, (config, future) in enumerate(zip(configs, futures, strict=True)):
            try:
                if future is None:
                    graphs[i] = self._graph(self.device.stock[self.op.name])
                    continue
                launcher = self._launcher(config, future.result())
                if not (self.full.problems(launcher) or self.ragged.problems(launcher)):
                    graphs[i] = self._graph(launcher)
            except Exception:  # its time stays infinite
                self._check_device(config)
        measured = timing.measure(list(graphs.values()), FINAL_ROUNDS)
        for i, time_ in zip(graphs, measured, strict=True):
            us[i] = time_.us
        return us

    def launcher(self, config: Config) -> launch.Launcher:
        """Compiled if need be, on the current device. Raises what Helion, Triton or ptxas raise."""
        return self._launcher(config, self.device.compile(self.case, config).result())

    def _launcher(self, config: Config, compiled: Compiled) -> launch.Launcher:
        device = torch.device("cuda", torch.cuda.current_device())
        if isinstance(compiled, str):
            return load(self.op, self.case.dims, compiled, device)
        # Once: the dispatcher holds on to what it has loaded.
        name = (self.op.name, tuple(self.case.dims), key(config))
        if name not in self.device.loaded:
            self.device.loaded[name] = load(self.op, self.case.dims, compiled, device)
        return self.device.loaded[name]

    def _graph(self, launcher: launch.Launcher) -> timing.Graph:
        calls = timing.calls_per_graph(len(self.sets), 1.5 * self.floor_us)
        return timing.Graph([partial(launcher, *args) for args in self.sets], calls)

    def _check_device(self, config: Config) -> None:
        if error := timing.device_error():
            raise DeviceLostError(self.case, config) from error


class Check:
    """What an op must write for some arguments."""

    def __init__(self, op: Op, args: tuple[Any, ...]) -> None:
        self.op, self.expected, self.pristine = op, expect(op, args), fresh_outputs(op, args)

    def problems(self, launcher: launch.Launcher) -> list[str]:
        actual = fresh_outputs(self.op, self.pristine)
        launcher(*actual)
        return problems(self.op, self.expected, actual)
