# SPDX-License-Identifier: Apache-2.0
"""Pretend that a GPU is there, for as long as code is generated for it.

Helion and Triton ask the driver for the compute capability and a few sizes of the device. Nothing
else of it is needed to compile.
"""

import contextlib
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch

from helion_kernels.hopper import MULTIPROCESSORS, SHARED


@dataclass(frozen=True)
class Target:
    """A GPU as its compiler sees it."""

    gpu: str
    """`torch.cuda.get_device_name()` of such a device."""
    capability: tuple[int, int]
    multiprocessors: int
    shared_memory: int
    """Bytes that a block may opt into."""
    memory: int
    l2: int
    others: tuple[str, ...] = ()
    """GPUs that run the same machine code, and have tuned configs of their own."""

    @classmethod
    def present(cls) -> "Target":
        """The current device."""
        device = torch.cuda.get_device_properties(torch.cuda.current_device())
        return cls(
            device.name,
            (device.major, device.minor),
            device.multi_processor_count,
            device.shared_memory_per_block_optin,  # type: ignore[attr-defined]
            device.total_memory,
            device.L2_cache_size,
        )

    @property
    def sm(self) -> int:
        return 10 * self.capability[0] + self.capability[1]


TARGETS = {
    "sm_90": Target(
        *("NVIDIA H100 80GB HBM3", (9, 0), MULTIPROCESSORS, SHARED, 80 << 30, 50 << 20),
        others=("NVIDIA H200",),
    ),
}


@contextlib.contextmanager
def pretend(target: Target) -> Iterator[None]:
    """Code generated inside is for target, GPU present or not. Not thread-safe."""
    from helion._compiler import compile_environment
    from torch._dynamo.device_interface import CudaInterface
    from triton.runtime import driver

    properties = types.SimpleNamespace(
        name=target.gpu,
        major=target.capability[0],
        minor=target.capability[1],
        multi_processor_count=target.multiprocessors,
        warp_size=32,
        total_memory=target.memory,
        L2_cache_size=target.l2,
        shared_memory_per_block_optin=target.shared_memory,
        shared_memory_per_multiprocessor=target.shared_memory + 1024,
        max_threads_per_multi_processor=2048,
        regs_per_multiprocessor=65536,
    )
    fakes: list[tuple[Any, str, Any]] = [
        (torch.cuda, "get_device_properties", lambda *_: properties),
        (CudaInterface, "get_device_properties", lambda *_: properties),
        (CudaInterface, "get_compute_capability", lambda *_: target.sm),
        (torch.cuda, "get_device_capability", lambda *_: target.capability),
        # Without an answer Helion leaves out what sm_90 added, such as hl.pdl_wait().
        (compile_environment, "target_device_capability", lambda *_: target.capability),
        (torch.cuda, "get_device_name", lambda *_: target.gpu),
        (torch.cuda, "current_device", lambda: 0),
        (driver, "_active", _Driver(target)),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, value in fakes:
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


class _Driver:
    """What Triton's compiler asks of its driver."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.target.sm, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0
