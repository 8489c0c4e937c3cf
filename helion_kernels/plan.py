# SPDX-License-Identifier: Apache-2.0
"""Plans: every launcher that an (op, static dims) can need, chosen before the first call.

`prepare` decides for every num_tokens; `run` is then an array index. Nothing is chosen, compiled or
tuned later.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from helion_kernels import launch, select
from helion_kernels.op import Op

UNPLANNED = -1
"""Plan id of a call that was not prepared: its launcher is looked up, compiled when first met."""


@dataclass
class Plan:
    """The launchers of an (op, static dims) on one kind of device; none in a dry run."""

    op: Op
    dims: tuple[Any, ...]
    choices: list[select.Choice]
    """One per bucket, ascending in `upto`."""
    launchers: list[launch.Launcher]
    bucket_of: list[int]
    """num_tokens -> index into `launchers`; the last entry serves everything larger."""


PLANS: list[Plan] = []
_ids: dict[tuple[str, tuple[Any, ...], str], int] = {}
_stock: dict[str, launch.Launcher] = {}


def register_stock(op_name: str, function: launch.Launcher) -> None:
    """Give the function, of the op's own signature, that config entries named `stock` mean."""
    _stock[op_name] = function


def stock() -> dict[str, launch.Launcher]:
    """op name -> stock function, where there is one."""
    return dict(_stock)


def run(op: Op, plan_id: int, args: tuple[Any, ...]) -> None:
    """Launch op for args; num_tokens is the first output's first dimension.

    Raises ValueError for another op's plan: ids live in compiled graphs, which vLLM caches on disk.
    """
    if plan_id == UNPLANNED:
        plan_id = _adhoc(op, args)
    plan = PLANS[plan_id]
    if plan.op is not op:
        raise ValueError(f"plan {plan_id} is for {plan.op.name}, not for {op.name}")
    num_tokens = args[0].shape[0]
    if num_tokens == 0:
        return
    bucket = plan.bucket_of[min(num_tokens, len(plan.bucket_of) - 1)]
    plan.launchers[bucket](*plan.op.kernel_args(*args))


def _adhoc(op: Op, args: tuple[Any, ...]) -> int:
    device = args[0].device
    dims = op.dims_of(*args)
    known = _ids.get((op.name, dims, device.type))
    return prepare([(op, dims)], 16384, device)[0] if known is None else known


def prepare(
    wanted: Iterable[tuple[Op, tuple[Any, ...]]],
    max_num_tokens: int,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
    workers: int = 8,
) -> list[int]:
    """Plan ids for each (op, dims), compiling what is new. Takes seconds to a minute on a GPU.

    progress is called with (launchers ready, launchers in all). Raises select.ConfigError for a
    config file that cannot be used.
    """
    wanted = list(wanted)
    fresh: dict[tuple[str, tuple[Any, ...]], tuple[Op, list[select.Choice]]] = {}
    for op, dims in wanted:
        dims = op.dims(*dims)
        key = (op.name, dims)
        if (*key, device.type) not in _ids and key not in fresh:
            fresh[key] = op, _choices(op, dims, max_num_tokens, device)

    jobs = {
        (name, dims, choice.key): (op, choice)
        for (name, dims), (op, choices) in fresh.items()
        for choice in choices
    }
    ready: dict[Any, launch.Launcher] = {}
    with ThreadPoolExecutor(workers) as pool:
        # Code generation is not thread-safe, so it runs here; Triton's compiler, which takes most
        # of the time, runs in the pool.
        tasks = {key: _start(pool, key[1], *job, device) for key, job in jobs.items()}
        for wanted_by, task in tasks.items():
            ready[wanted_by] = task()
            progress(len(ready), len(jobs))

    for (name, dims), (op, choices) in fresh.items():
        bounds = [choice.upto for choice in choices]
        _ids[name, dims, device.type] = len(PLANS)
        PLANS.append(
            Plan(
                op,
                dims,
                choices,
                [ready[name, dims, choice.key] for choice in choices],
                [bisect_left(bounds, n) for n in range(max_num_tokens + 1)],
            )
        )
    return [_ids[op.name, tuple(dims), device.type] for op, dims in wanted]


def dry_run(
    wanted: Iterable[tuple[Op, tuple[Any, ...]]], max_num_tokens: int, device: torch.device
) -> list[Plan]:
    """What `prepare` would choose, compiling nothing; equal (op, dims) once."""
    unique = {(op.name, op.dims(*dims)): op for op, dims in wanted}
    return [
        Plan(op, dims, _choices(op, dims, max_num_tokens, device), [], [])
        for (_, dims), op in unique.items()
    ]


def _choices(
    op: Op, dims: tuple[Any, ...], max_num_tokens: int, device: torch.device
) -> list[select.Choice]:
    if device.type != "cuda":
        return [select.Choice("interpreter", None, max_num_tokens, f"{device.type} tensors")]
    gpu = torch.cuda.get_device_name(device)
    return select.choose(op, dims, max_num_tokens, gpu, frozenset(_stock))


def _start(
    pool: ThreadPoolExecutor,
    dims: tuple[Any, ...],
    op: Op,
    choice: select.Choice,
    device: torch.device,
) -> Callable[[], launch.Launcher]:
    if device.type != "cuda":
        launcher = launch.interpret(op)
    elif choice.config is None:
        launcher = _stock[op.name]
    else:
        specialised = launch.generate(op, dims, choice.config)
        return pool.submit(launch.build, specialised, device).result
    return lambda: launcher
