# SPDX-License-Identifier: Apache-2.0
"""An op, its static dims and a config -> Triton source and a cubin for a target."""

from dataclasses import dataclass
from typing import Any

from helion_kernels import launch
from helion_kernels.aot.target import Target, pretend
from helion_kernels.op import Config, Op


@dataclass(frozen=True)
class Cubin:
    """Machine code of one kernel, and what its launch needs."""

    name: str
    code: bytes
    source: str
    """The Triton kernel."""
    ptx: str
    num_warps: int
    shared_memory: int
    """Bytes of dynamic shared memory."""


def compile(op: Op, dims: tuple[Any, ...], config: Config, target: Target) -> Cubin:
    """Compile without a GPU. Takes 1 to 5 s; raises what Helion, Triton or ptxas raise."""
    with pretend(target):
        specialised = launch.generate(op, dims, config)
        compiled = specialised.compile()
    return Cubin(
        name=compiled.metadata.name,
        code=compiled.asm["cubin"],
        source=specialised.kernel.src,
        ptx=compiled.asm["ptx"],
        num_warps=compiled.metadata.num_warps,
        shared_memory=compiled.metadata.shared,
    )
