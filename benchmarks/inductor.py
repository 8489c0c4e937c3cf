# SPDX-License-Identifier: Apache-2.0
"""The arm that Inductor makes of eager code, compiled as vLLM 0.26 compiles its graphs.

As in vLLM (compilation/wrapper.py, decorators.py): one graph, num_tokens dynamic and all else
static, compiled and autotuned once at the largest batch, no guards; every other number of tokens
then runs the same kernels. `max_autotune` and `coordinate_descent_tuning` stay off: vLLM turns them
on for `compile_sizes` alone, of which there are none by default.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

from benchmarks.eager import EAGER, Outputs
from helion_kernels import OPS
from helion_kernels.op import Op
from helion_kernels.sample import Random

Arm = Callable[..., Callable[[], object]]

OPTIONS: dict[str, Any] = {
    # What vLLM's CompilationConfig passes on CUDA with torch 2.11.
    "combo_kernels": True,
    "benchmark_combo_kernel": True,
    "enable_auto_functionalized_v2": False,
    "size_asserts": False,
    "alignment_asserts": False,
    "scalar_asserts": False,
}
NUM_TOKENS = 8192
"""`vllm serve`'s largest batch on a GPU of 70 GiB or more."""


def arms(op_name: str, dims: tuple[Any, ...]) -> dict[str, Arm]:
    """The arm of an op that has eager code; binding it first takes seconds for each dims."""
    if op_name not in EAGER:
        return {}

    def bind(*args: Any) -> Callable[[], object]:
        function = _attempt(op_name, dims)
        if isinstance(function, Exception):
            raise function
        # Held until the next call, so that each set of arguments has outputs of its own: those of
        # other arms rotate through the cache too.
        held: list[object] = [None]

        def run() -> None:
            held[0] = function(*args)

        return run

    return {"inductor": bind}


@lru_cache(maxsize=1)
def _attempt(op_name: str, dims: tuple[Any, ...]) -> Callable[..., Outputs] | Exception:
    """What does not compile is not tried again for each number of tokens."""
    try:
        return compiled(op_name, dims)
    except Exception as error:
        return error


def compiled(
    op_name: str,
    dims: tuple[Any, ...],
    num_tokens: int = NUM_TOKENS,
    device: str = "cuda",
    backend: str = "inductor",
) -> Callable[..., Outputs]:
    """An op's eager code, compiled for dims, after a call that tuned it. One at a time.

    Without guards Dynamo takes the first graph that it has for a function: others are dropped.
    """
    torch._dynamo.reset()
    function = torch.compile(
        EAGER[op_name],
        fullgraph=True,
        dynamic=False,
        backend=backend,
        options={
            **(OPTIONS if backend == "inductor" else {}),
            "guard_filter_fn": torch.compiler.skip_all_guards_unsafe,
        },
    )
    function(*example(OPS[op_name], dims, num_tokens, device))
    return function


def example(op: Op, dims: tuple[Any, ...], num_tokens: int, device: str) -> tuple[Any, ...]:
    """Arguments whose sizes are marked dynamic where they follow num_tokens."""
    args = op.sample(op.dims(*dims), num_tokens, Random(device))
    others = op.sample(op.dims(*dims), num_tokens // 2, Random(device))
    for arg, other in zip(args, others, strict=True):
        if isinstance(arg, torch.Tensor):
            for dim, (size, half) in enumerate(zip(arg.shape, other.shape, strict=True)):
                if size != half:
                    torch._dynamo.mark_dynamic(arg, dim)
    return args
