# SPDX-License-Identifier: Apache-2.0
"""Plans: every launcher that an (op, static dims) can need, chosen before the first call.

`prepare` decides for every num_tokens; `run` is then an array index. Nothing is chosen, compiled or
tuned later.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from helion_kernels import deep_gemm, native, packs, select
from helion_kernels.op import Op

Launcher = Callable[..., None]
"""Takes the op's arguments, for any num_tokens."""

UNPLANNED = -1
"""Plan id of a call that was not prepared: its launcher is looked up, compiled when first met."""


@dataclass
class Plan:
    """The launchers of an (op, static dims) on one device; none in a dry run."""

    op: Op
    dims: tuple[Any, ...]
    choices: list[select.Choice]
    """One per bucket, ascending in `upto`."""
    kinds: list[str]
    """What launches each bucket: pack, compiled, stock or interpreter."""
    bucket_of: list[int]
    """num_tokens -> index into `launchers`; the last entry serves everything larger."""
    launchers: list[Launcher] = field(default_factory=list)
    native: int | None = None
    """The dispatcher's number, where one pack has the kernels of all buckets."""


PLANS: list[Plan] = []
_ids: dict[tuple[str, tuple[Any, ...], torch.device], int] = {}
_stock: dict[str, Launcher] = {}
_pdl = True
_invariant = False


def register_stock(op_name: str, function: Launcher) -> None:
    """Give the function, of the op's own signature, that config entries named `stock` mean."""
    _stock[op_name] = function


def use_pdl(on: bool) -> None:
    """Whether kernels that wait for the one ahead of them may start before it ends; at first, yes.

    Holds for what is prepared from now on.
    """
    global _pdl
    _pdl = on


def use_batch_invariance(on: bool) -> None:
    """Whether a token's bits may not depend on how many share its step; at first they may.

    Holds for what is prepared from now on.
    """
    global _invariant
    _invariant = on


def stock() -> dict[str, Launcher]:
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
    plan.launchers[bucket](*args)


def entry(plan_id: int) -> tuple[Callable[..., None], int]:
    """(operator, number): `operator(*args, number)` is the shortest way to a plan's launchers.

    The dispatcher's own operator where it has every bucket: then no Python is in between.
    """
    plan = PLANS[plan_id]
    if plan.native is not None:
        return native.operator(plan.op.name), plan.native
    return getattr(torch.ops.helion_kernels, plan.op.name).default, plan_id


def _adhoc(op: Op, args: tuple[Any, ...]) -> int:
    device = args[0].device
    dims = op.dims_of(*args)
    known = _ids.get((op.name, dims, device))
    return prepare([(op, dims)], 16384, device)[0] if known is None else known


def prepare(
    wanted: Iterable[tuple[Op, tuple[Any, ...]]],
    max_num_tokens: int,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
    workers: int = 8,
    pack_folders: Sequence[Path] = (),
) -> list[int]:
    """Plan ids for each (op, dims), loading from packs what they have and compiling the rest.

    pack_folders: of packs that are asked before the package's own. Compiling takes seconds to a
    minute on a GPU; progress is called with (launchers ready, launchers in all). Raises
    select.ConfigError for a config file that cannot be used.
    """
    device = _with_index(device)
    wanted = [(op, op.dims(*dims)) for op, dims in wanted]
    fresh = [(op, dims) for op, dims in wanted if (op.name, dims, device) not in _ids]
    plans = dry_run(fresh, max_num_tokens, device, pack_folders)
    with ThreadPoolExecutor(workers) as pool:
        # Code generation is not thread-safe, so it runs here; Triton's compiler, which takes most
        # of the time, runs in the pool.
        usable = _packs(device, pack_folders)
        native.set_pdl(_pdl)
        started = [_start(pool, plan, device, usable) for plan in plans]
        done, total = 0, sum(map(len, started))
        for plan, tasks in zip(plans, started, strict=True):
            ready: dict[str, Launcher] = {}
            for key, task in tasks.items():
                ready[key] = task()
                progress(done := done + 1, total)
            plan.launchers = [ready[choice.key] for choice in plan.choices]
            _ids[plan.op.name, plan.dims, device] = len(PLANS)
            PLANS.append(plan)
    return [_ids[op.name, dims, device] for op, dims in wanted]


def dry_run(
    wanted: Iterable[tuple[Op, tuple[Any, ...]]],
    max_num_tokens: int,
    device: torch.device,
    pack_folders: Sequence[Path] = (),
) -> list[Plan]:
    """What `prepare` would choose, compiling and loading nothing; equal (op, dims) once."""
    device = _with_index(device)
    usable = _packs(device, pack_folders)
    unique = {(op.name, op.dims(*dims)): op for op, dims in wanted}
    return [_draft(op, dims, max_num_tokens, device, usable) for (_, dims), op in unique.items()]


def _with_index(device: torch.device) -> torch.device:
    index: int | None = device.index
    if device.type == "cuda" and index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _packs(device: torch.device, folders: Sequence[Path]) -> list[native.Pack]:
    return packs.usable(device.index, tuple(folders)) if device.type == "cuda" else []


def _draft(
    op: Op,
    dims: tuple[Any, ...],
    max_num_tokens: int,
    device: torch.device,
    usable: list[native.Pack],
) -> Plan:
    choices = _choices(op, dims, max_num_tokens, device, usable)
    bounds = [choice.upto for choice in choices]
    kinds = [_kind(op, dims, choice, device, usable) for choice in choices]
    # The last may begin beyond max_num_tokens (`select.choose`): it serves what is larger still.
    numbers = range(max(max_num_tokens, bounds[-1]) + 1)
    return Plan(op, dims, choices, kinds, [bisect_left(bounds, n) for n in numbers])


def _choices(
    op: Op,
    dims: tuple[Any, ...],
    max_num_tokens: int,
    device: torch.device,
    usable: list[native.Pack],
) -> list[select.Choice]:
    if device.type != "cuda":
        # PyTorch's matrix product on CPUs adds in another order where a batch is larger.
        why = f"{device.type} tensors" + (": not batch invariant" if _invariant else "")
        return [select.Choice("interpreter", None, max_num_tokens, why)]
    gpu = torch.cuda.get_device_name(device)
    packed = partial(_packed, op, dims, usable)
    return select.choose(op, dims, max_num_tokens, gpu, frozenset(_stock), _invariant, packed)


def _packed(op: Op, dims: tuple[Any, ...], usable: list[native.Pack], key: str) -> bool:
    return any(each.pack.find(op.name, dims, key) for each in usable)


def _kind(
    op: Op,
    dims: tuple[Any, ...],
    choice: select.Choice,
    device: torch.device,
    usable: list[native.Pack],
) -> str:
    if device.type != "cuda":
        return "interpreter"
    if choice.config is None:
        return "stock"
    return "pack" if _packed(op, dims, usable, choice.key) else "compiled"


def _start(
    pool: ThreadPoolExecutor,
    plan: Plan,
    device: torch.device,
    usable: list[native.Pack],
) -> dict[str, Callable[[], Launcher]]:
    """What returns each launcher, by `Choice.key`: loaded here, or compiling in the pool."""
    plan.native = packs.load(usable, plan.op, plan.dims, plan.choices, device)
    tasks: dict[str, Callable[[], Launcher]] = {}
    for key, i in {choice.key: i for i, choice in enumerate(plan.choices)}.items():
        choice, kind = plan.choices[i], plan.kinds[i]
        number = plan.native
        if kind == "pack" and number is None:
            number = packs.load(usable, plan.op, plan.dims, [choice], device)
        if number is not None:
            tasks[key] = partial(_native, plan.op, number)
        elif kind == "stock":
            tasks[key] = partial(_stock.__getitem__, plan.op.name)
        else:
            tasks[key] = _compile(pool, plan, choice, device)
            if kind == "pack":  # which does not load here
                plan.kinds = [
                    "compiled" if c.key == key else k
                    for c, k in zip(plan.choices, plan.kinds, strict=True)
                ]
    return tasks


def _native(op: Op, number: int) -> Launcher:
    operator = native.operator(op.name)
    return lambda *args: operator(*args, number)


def _compile(
    pool: ThreadPoolExecutor, plan: Plan, choice: select.Choice, device: torch.device
) -> Callable[[], Launcher]:
    # Helion takes seconds to import, and a process whose packs have everything needs none of it.
    from helion_kernels import launch

    if choice.config is None:
        return partial(launch.interpret, plan.op)
    config = choice.config
    if deep_gemm.names(config):  # which no pack has that loads here
        config = plan.op.default_config(plan.dims, choice.upto)
    specialised = launch.generate(plan.op, plan.dims, config)
    built = pool.submit(launch.build, specialised, device, _pdl)
    return lambda: launch.launcher(plan.op, built.result())
