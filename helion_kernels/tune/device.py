# SPDX-License-Identifier: Apache-2.0
"""The boundary between the search and the GPU. The search knows no more of a GPU than this."""

import json
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from helion_kernels.op import Config
from helion_kernels.tune.cases import Case

STOCK: Config = {}
"""Stands for the op's stock function in `Bench.compare`."""


def key(config: Config) -> str:
    """Equal for equal configs."""
    return json.dumps(config, sort_keys=True)


class DeviceLostError(RuntimeError):
    """A config left the GPU unusable for this process."""

    def __init__(self, case: Case, config: Config) -> None:
        super().__init__(
            f"{case}: {key(config)} left the GPU unusable; --resume goes on without it"
        )
        self.case, self.config = case, config


@dataclass(frozen=True)
class Trial:
    """What became of a config."""

    config: Config
    us: float
    """Time of a call; infinite if it failed."""
    problem: str = ""
    """Why it failed: it does not compile or run, or its outputs are wrong."""


class Bench(Protocol):
    """One case on a device."""

    floor_us: float
    """Time that the case's bytes or operations need at the device's measured rates."""
    has_stock: bool

    def ready(self) -> list[Config]:
        """What is compiled for the case's dims: for other num_tokens, or too late for them."""

    def look(self, configs: Sequence[Config]) -> Generator[Trial, None, None]:
        """Compile, check and briefly time each, in the order in which they are ready.

        A consumer that stops early leaves the rest untried. Raises DeviceLostError.
        """

    def compare(self, configs: Sequence[Config]) -> list[float]:
        """Time per call of each, interleaved, in microseconds; infinite where it fails.

        Stricter than `look`: outputs are checked at a ragged num_tokens too.
        """


class Device(Protocol):
    """Where cases are timed."""

    gpu: str
    """`torch.cuda.get_device_name()`."""
    environment: dict[str, Any]
    """The date, and what a time depends on besides the kernel: torch, triton, helion, driver."""

    def libraries(self, case: Case) -> list[Config]:
        """Configs of libraries' kernels for the case's op (`deep_gemm.py`), where they compile, the
        likeliest first."""

    def clock(self) -> float:
        """Seconds, monotonic."""

    def bench(self, case: Case) -> AbstractContextManager[Bench]: ...
