# SPDX-License-Identifier: Apache-2.0
"""Search of the configs: all of an op's space, compiled in processes, timed as each is ready.

Generating and compiling a config takes about half a second, timing it a few milliseconds. So worker
processes compile, without a GPU (`aot.target.pretend`), into Triton's cache; this process loads the
generated source, finds the machine code in the cache, checks the outputs against the reference and
times. Found configs are written after each (op, dims, num_tokens), so that a run may be cut short.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from typing import Any

import helion
import torch

from benchmarks import stock, timing
from benchmarks.accuracy import Expected, expect, fresh_outputs, problems
from benchmarks.configs import Found, merge, save
from helion_kernels import OPS, launch, select
from helion_kernels.aot.target import TARGETS, pretend
from helion_kernels.op import Config, Op

ROUNDS = 3
"""Replays of each config at first sight."""
FINALISTS = 6
FINAL_ROUNDS = 15

# -- in the worker processes


def _start_worker() -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def compile_config(op_name: str, dims: tuple[Any, ...], config: dict[str, Any]) -> str:
    """The generated source; its machine code is in Triton's cache afterwards."""
    with pretend(TARGETS["sm_90"]):
        bound = launch.bind(OPS[op_name], dims, TARGETS["sm_90"].capability)
        source: str = bound.to_triton_code(helion.Config(**config))
        args = launch.symbolic_args(OPS[op_name], dims)
        launch.Specialised(load(op_name, source), args).compile()
    return source


# -- in both


def load(op_name: str, source: str) -> Callable[..., None]:
    """The host function of a generated source."""
    from torch._inductor.codecache import PyCodeCache

    function: Callable[..., None] = getattr(PyCodeCache.load(source), OPS[op_name].kernel.__name__)
    return function


# -- in the process that has the GPU


class Case:
    """One (op, dims, num_tokens): its buffers, its reference, and how to time a launcher."""

    def __init__(self, op: Op, dims: tuple[Any, ...], num_tokens: int, est_us: float) -> None:
        from benchmarks.kernels import make_sets

        l2 = torch.cuda.get_device_properties(0).L2_cache_size
        self.op, self.dims, self.num_tokens = op, dims, num_tokens
        self.sets, self.cold = make_sets(op, dims, num_tokens, l2)
        self.expected: Expected = expect(op, self.sets[0])
        self.pristine = fresh_outputs(op, self.sets[0])
        self.calls = timing.calls_per_graph(len(self.sets), est_us)

    def graph(self, bind: stock.Arm) -> timing.Graph:
        return timing.Graph([bind(*args) for args in self.sets], self.calls)

    def problems(self, launcher: Callable[..., None]) -> list[str]:
        actual = fresh_outputs(self.op, self.pristine)
        launcher(*self.op.kernel_args(*actual))
        return problems(self.op, self.expected, actual)

    def bind(self, launcher: Callable[..., None]) -> stock.Arm:
        def arm(*args: Any) -> Callable[[], object]:
            kernel_args = self.op.kernel_args(*args)
            return lambda: launcher(*kernel_args)

        return arm


def sweep_case(
    case: Case,
    ready: Iterator[tuple[dict[str, Any], str]],
    mock: tuple[Any, ...],
    others: dict[str, stock.Arm],
    counts: dict[str, int],
) -> tuple[Found | None, dict[str, float]]:
    """The fastest config whose outputs are right, and the time of each arm in `others`."""
    device = torch.device("cuda", 0)
    timed: list[tuple[float, dict[str, Any], timing.Graph]] = []
    for config, source in ready:
        try:
            specialised = launch.Specialised(load(case.op.name, source), mock)
            launcher = launch.build(specialised, device)
            wrong = case.problems(launcher)
            if wrong:
                counts["wrong"] += 1
                print(f"  {config}: {wrong[0]}")
                continue
            graph = case.graph(case.bind(launcher))
        except (RuntimeError, helion.exc.Base) as error:  # too many registers, shared memory, ...
            counts["failed"] += 1
            first = (str(error).splitlines() or [repr(error)])[0]
            print(f"  {config}: {first[:120]}")
            continue
        timed.append((timing.measure([graph], ROUNDS)[0].us, config, graph))
        timed = sorted(timed, key=lambda item: item[0])[:FINALISTS]
        counts["timed"] += 1
    graphs = [graph for _, _, graph in timed]
    names = []
    for name, bind in others.items():
        try:
            graphs.append(case.graph(bind))
            names.append(name)
        except Exception as error:
            print(f"  {name}: {error}")
    times = timing.measure(graphs, FINAL_ROUNDS)
    arms = {name: t.us for name, t in zip(names, times[len(timed) :], strict=True)}
    if not timed:
        return None, arms
    best = min(range(len(timed)), key=lambda i: times[i].us)
    return Found(case.num_tokens, timed[best][1], times[best].us), arms


def run(options: argparse.Namespace, document: dict[str, Any]) -> None:
    from benchmarks.kernels import cases, write

    started = time.monotonic()
    deadline = started + 60.0 * options.minutes
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        options.workers or os.cpu_count(), mp_context=context, initializer=_start_worker
    ) as pool:
        note = stock.load()
        if note:
            print(note)
        slug = select.slug(torch.cuda.get_device_name())
        folder = (options.configs or select.SHIPPED) / slug
        ceilings = timing.measure_ceilings()
        document |= {"ceilings": vars(ceilings), "rows": []}
        for op, dims in cases(options.ops, options.models):
            sources: dict[str, Future[str]] = {}
            mock = launch.symbolic_args(op, dims)
            found: list[Found] = []
            for num_tokens in options.tokens:
                if time.monotonic() > deadline:
                    print(f"{options.minutes:g} minutes are over; stopped before {op.name} {dims}")
                    pool.shutdown(cancel_futures=True)
                    return
                began = time.monotonic()
                configs = {_key(c): c for c in _candidates(op, dims, num_tokens)}
                for key, config in configs.items():
                    if key not in sources:
                        sources[key] = pool.submit(compile_config, op.name, tuple(dims), config)
                floor = ceilings.floor_us(
                    op.bytes_moved(dims, num_tokens), op.flops(dims, num_tokens)
                )
                case = Case(op, dims, num_tokens, 1.5 * floor)
                others = {} if note else stock.arms(op.name, dims)
                counts = dict.fromkeys(("configs", "timed", "wrong", "failed"), 0)
                counts["configs"] = len(configs)
                ready = _ready(configs, sources, deadline, counts)
                best, arms = sweep_case(case, ready, mock, others, counts)
                seconds = time.monotonic() - began
                row = {
                    "op": op.name,
                    "dims": dims._asdict(),  # type: ignore[attr-defined]
                    "num_tokens": num_tokens,
                    "floor_us": round(floor, 3),
                    "best": None if best is None else {"config": best.config, "us": best.us},
                    "stock": {name: round(us, 3) for name, us in arms.items()},
                    "seconds": round(seconds, 1),
                    **counts,
                }
                document["rows"].append(row)
                print(_line(row), flush=True)
                if best is not None:
                    found.append(best.or_stock(arms) if options.allow_stock else best)
                    save(
                        folder / f"{op.name}.json",
                        op,
                        dims,
                        merge(found),
                        _provenance(document["environment"], options),
                    )
                write(options.out, document)
                del case


def _key(config: Config) -> str:
    return select.Choice("", config, 0, "").key


def _candidates(op: Op, dims: tuple[Any, ...], num_tokens: int) -> list[Config]:
    return [op.default_config(dims, num_tokens), *op.space(dims, num_tokens)]


def _ready(
    configs: dict[str, dict[str, Any]],
    sources: dict[str, Future[str]],
    deadline: float,
    counts: dict[str, int],
) -> Iterator[tuple[dict[str, Any], str]]:
    """Configs in the order in which they are compiled; those that do not compile are left out."""
    by_future = {sources[key]: config for key, config in configs.items()}
    try:
        for future in as_completed(by_future, timeout=max(1.0, deadline - time.monotonic())):
            try:
                yield by_future[future], future.result()
            except Exception as error:  # anything that Helion, Triton or ptxas may say of a config
                counts["failed"] += 1
                print(
                    f"  {by_future[future]}: {(str(error).splitlines() or [repr(error)])[0][:120]}"
                )
    except TimeoutError:
        print("  the time is over: the rest of this space was not tried")


def _provenance(env: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    return {
        **env,
        "method": "benchmarks.kernels --sweep: every config of Op.space, outputs checked against "
        f"the float64 reference, CUDA graphs over rotating buffers, median of {FINAL_ROUNDS} "
        f"replays among the {FINALISTS} fastest of a first pass",
        "minutes": options.minutes,
    }


def _line(row: dict[str, Any]) -> str:
    dims = "x".join(str(int(v)) for v in row["dims"].values())
    best = row["best"]
    ours = "none" if best is None else f"{best['us']:8.2f} us"
    share = "" if best is None else f"  {row['floor_us'] / best['us']:.2f} of floor"
    arms = "".join(f"  {name} {us:.2f}" for name, us in row["stock"].items())
    return (
        f"{row['op']:37} {dims:14} {row['num_tokens']:6} {ours}{share}{arms}  "
        f"[{row['timed']}/{row['configs']} timed, {row['wrong']} wrong, {row['failed']} failed, "
        f"{row['seconds']} s]  {'' if best is None else best['config']}"
    )
