# SPDX-License-Identifier: Apache-2.0
"""A device without a GPU: a clock that compiling and timing advance, and a cost model.

What things take is what they took on an H100 with 16 cores (docs/performance-log.md): half a second
to compile a config in one of 16 processes, some ten milliseconds to time it.
"""

import heapq
import json
import random
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager

from helion_kernels.gemm import is_gemv
from helion_kernels.tune.cases import Case, estimate_us
from helion_kernels.tune.device import STOCK, Config, DeviceLostError, Trial, key

WORKERS, COMPILE_S, LOOK_S, ARM_S, OPEN_S = 16, 0.5, 0.012, 0.02, 0.3
INF = float("inf")


class Killed(BaseException):
    """kill -9: nothing may catch it."""


def rough(seed: str, size: float) -> float:
    """A factor in 1 ± size that is always the same for seed."""
    return 1.0 + size * (2.0 * (zlib.crc32(seed.encode()) / 0xFFFFFFFF) - 1.0)


def gemm_us(case: Case, config: Config) -> float:
    """A tile's loads and products, waves of tiles, and the overhead measured on an H100."""
    n, k, m = *case.dims[:2], case.num_tokens
    if is_gemv(config):  # Within 6 % of what 8B's four take on an H100.
        rows, piece = config["block_sizes"]
        return 0.6 + m * n * k / 2.95e6 * (1.0 + rows / 1024 + 64 / piece)
    bm, bn, part = config["block_sizes"]
    bk = 128 * max(1, config["range_unroll_factors"][1])
    warps, stages = config["num_warps"], config["num_stages"]
    parts = -(-k // part)
    tiles = -(-m // bm) * -(-n // bn) * parts
    resident = max(1, min(227 * 1024 // ((bm + bn) * bk * stages), 64 // warps // 2, 4))
    waves = -(-tiles // (132 * resident))
    busy = tiles / (waves * 132 * resident)
    # Bytes in flight hide the latency of memory: 40 KiB on each multiprocessor.
    flying = min(1.0, resident * (bm + bn) * bk * (stages - 1) / (40 << 10))
    traffic = -(-m // bm) * n * k * 0.08 + n * k + -(-n // bn) * m * k * 0.02 + 2 * m * n
    memory = traffic / (3.0e6 * flying * min(1.0, 0.55 + 0.45 * busy * 2))
    per_warp = bm * bn / (32 * warps)
    fits = 1.0 if per_warp <= 64 else 0.75 if per_warp <= 128 else 0.3
    tensor = 0.7 * fits * (min(bm, 64) / 64) ** 0.3 * (min(bn, 128) / 128) ** 0.5
    tensor *= 1.0 if bm <= 128 else 0.85
    arithmetic = waves * resident * 2 * bm * bn * k / parts / (1.4e9 / 132 * tensor)
    adding = 1.5 if parts > 1 else 0.0
    return 3.5 + adding + max(memory, arithmetic) + 0.15 * min(memory, arithmetic)


def small_us(case: Case, config: Config) -> float:
    """Anything else: fastest near a place in the space that moves with num_tokens."""
    rows, warps = config["block_sizes"][0], config["num_warps"]
    wanted = 1 if case.num_tokens <= 256 else 2
    off = abs((rows * 8 // wanted).bit_length() - 4) + 0.5 * abs(warps.bit_length() - 3)
    return estimate_us(case.op, case.dims, case.num_tokens) * (1.0 + 0.12 * off)


def cost_us(case: Case, config: Config) -> float:
    """Smooth along the axes, and a little rough: for each config, and for each of its cases."""
    smooth = (
        gemm_us(case, config) if case.op.name.startswith("scaled_mm") else small_us(case, config)
    )
    for name, value in config.items():
        if name not in ("block_sizes", "num_warps", "num_stages"):
            smooth *= rough(f"{case.op.name} {name} {value}", 0.05)
    text = key(config)
    return smooth * rough(text, 0.04) * rough(f"{text} {case}", 0.02)


class Fake:
    """A `device.Device`."""

    gpu = "NVIDIA H100 80GB HBM3"

    def __init__(
        self,
        cost: Callable[[Case, Config], float] = cost_us,
        wrong: Callable[[Case, Config], str] = lambda case, config: "",
        stock: Callable[[Case], float | None] = lambda case: None,
        lost: Callable[[Case, Config], bool] = lambda case, config: False,
        noise: float = 0.01,
        die_at: float = INF,
        death: type[BaseException] = Killed,
    ) -> None:
        """die_at: the second at which death is raised."""
        self.cost, self.wrong, self.stock, self.lost = cost, wrong, stock, lost
        self.noise, self.die_at, self.death = noise, die_at, death
        self.now = 0.0
        self.environment = {"date": "2026-01-01", "torch": "2.11.0"}
        self.rng = random.Random(7)
        self.compiled: dict[tuple[str, tuple, str], float] = {}
        """When it is ready."""
        self.compile_s: dict[str, float] = {}
        """Of ops that take another time than COMPILE_S."""
        self.workers = [0.0] * WORKERS
        """When each is free."""
        self.looked: list[tuple[str, str]] = []
        """(case, config) in order."""
        self.opened: list[str] = []

    def clock(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self.die_at:
            self.die_at = INF
            raise self.death

    def libraries(self, case: Case) -> list[Config]:
        return []

    @contextmanager
    def bench(self, case: Case) -> Iterator["FakeBench"]:
        self.opened.append(str(case))
        self.spend(OPEN_S)
        yield FakeBench(self, case)


class FakeBench:
    def __init__(self, device: Fake, case: Case) -> None:
        self.device, self.case = device, case
        self.floor_us = estimate_us(case.op, case.dims, case.num_tokens) - 3.0
        self.has_stock = device.stock(case) is not None

    def look(self, configs: Sequence[Config]) -> Generator[Trial, None, None]:
        device, case = self.device, self.case
        takes = device.compile_s.get(case.op.name, COMPILE_S)
        ready = []
        for i, config in enumerate(configs):
            name = (case.op.name, tuple(case.dims), key(config))
            if name not in device.compiled:
                at = max(device.now, device.workers[0]) + takes
                heapq.heapreplace(device.workers, at)
                device.compiled[name] = at
            ready.append((device.compiled[name], i))
        try:
            for at, i in sorted(ready):
                device.spend(max(0.0, at - device.now) + LOOK_S)
                device.looked.append((str(case), key(configs[i])))
                yield self.trial(configs[i])
        finally:  # what a consumer leaves is cancelled, unless it has begun
            late = [name for name, at in device.compiled.items() if at - takes > device.now]
            for name in late:
                del device.compiled[name]
            device.workers = [min(at, device.now + takes) for at in device.workers]
            heapq.heapify(device.workers)

    def ready(self) -> list[Config]:
        mine = (self.case.op.name, tuple(self.case.dims))
        return [
            json.loads(name[2])
            for name, at in self.device.compiled.items()
            if name[:2] == mine and at <= self.device.now
        ]

    def trial(self, config: Config) -> Trial:
        if self.device.lost(self.case, config):
            raise DeviceLostError(self.case, config)
        if problem := self.device.wrong(self.case, config):
            return Trial(config, INF, problem)
        return Trial(config, self.measured(config, self.device.noise))

    def compare(self, configs: Sequence[Config]) -> list[float]:
        self.device.spend(ARM_S * len(configs))
        return [
            INF
            if config != STOCK and self.device.wrong(self.case, config)
            else self.measured(config, self.device.noise / 3)
            for config in configs
        ]

    def measured(self, config: Config, noise: float) -> float:
        us = (
            self.device.stock(self.case) if config == STOCK else self.device.cost(self.case, config)
        )
        assert us is not None, "stock is asked for where there is none"
        return us * (1.0 + self.device.rng.gauss(0.0, noise))
