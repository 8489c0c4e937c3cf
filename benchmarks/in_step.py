# SPDX-License-Identifier: Apache-2.0
"""Configs chosen in a decode step: of each call of a layer in turn, while the others stay.

    python -m benchmarks.in_step --model 8b --format token --tokens 1,8,32 --out configs
    python -m benchmarks.in_step --calls attention --context 512,8192,32768 --tokens 1 --out configs

`helion_kernels.tune` times a kernel in a chain of itself. Between others it costs something else:
what it keeps of a multiprocessor while it waits, how early its weights are asked for, what it
leaves to the next (docs/performance-log.md). So this times whole steps (`benchmarks.step`), and
writes what is faster there into the config folder, which is read again by `select`. With several
contexts, which is for attention, steps of each are timed, and none may lose.
"""

import argparse
import random
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import step
from helion_kernels import OPS, deep_gemm, launch, select, timing
from helion_kernels.op import Config
from helion_kernels.qwen3 import MODELS
from helion_kernels.tune import entries
from helion_kernels.tune.cases import Case
from helion_kernels.tune.device import key
from helion_kernels.tune.gpu import Gpu, GpuBench
from helion_kernels.tune.journal import Record
from helion_kernels.tune.run import provenance
from helion_kernels.tune.seeds import today

ORDER = ("gate_up", "down", "qkv", "o", "silu", "norm", "quant")
"""Calls of a layer, those that take most first. Without attention unless it is asked for, with the
contexts that it is to serve."""
SPREAD = 0.5
"""Of the lengths of a step's sequences: parts that suit one length may not suit others."""
WEIGHTS = 1 << 30
"""Bytes of weights in a step, at least: no layer finds its own in the L2 cache."""
FINALISTS = 4
ROUNDS, FINAL_ROUNDS = 5, 31
GAIN = 0.002
"""Of a step's time: a config that gains less stays out, for the next run may find the opposite."""
Graphs = list[timing.Graph]
"""A step at each context."""
METHOD = (
    "benchmarks.in_step: configs of Op.space, checked against the float64 reference, in a decode "
    "step of several layers with all other kernels; CUDA graph; medians of interleaved replays. us "
    "and floor_us are of the kernel alone"
)


class Found(NamedTuple):
    """A config in a step."""

    config: Config
    us: float
    """Of the kernel alone."""
    ratios: tuple[float, ...]
    """Of the step's time with it to the time without, at each context."""
    run: launch.Launcher

    @property
    def ratio(self) -> float:
        """Their mean, but the worst where a context loses."""
        worst = max(self.ratios)
        return worst if worst > 1 + GAIN else statistics.geometric_mean(self.ratios)


class Search:
    """The step of one model at num_tokens, whose calls are chosen one after the other."""

    def __init__(
        self,
        device: Gpu,
        model: str,
        block: bool,
        num_tokens: int,
        ready: step.Entries,
        contexts: Sequence[int] = (step.CONTEXT,),
    ) -> None:
        """ready: how the calls are made at first (`step.prepare`)."""
        sizes = MODELS[model]
        self.device, self.num_tokens = device, num_tokens
        self.calls = dict(zip(step.names(sizes, block), step.wanted(sizes, block), strict=True))
        self.layers = -(-WEIGHTS // step.layer_bytes(sizes))
        self.entries, self.contexts = dict(ready), contexts
        self.models = [
            step.Model(sizes, self.layers, block, num_tokens, self.entries, context, SPREAD)
            for context in contexts
        ]
        self.first = self.graphs = self._graphs(self.entries)

    def case(self, call: str) -> Case:
        name, dims = self.calls[call]
        return Case(OPS[name], OPS[name].dims(*dims), self.num_tokens, 1.0)

    def look(self, call: str, configs: Sequence[Config]) -> list[Found]:
        """Those that are right, fastest in the step first, the first few of them timed again."""
        bench, found = GpuBench(self.device, self.case(call)), []
        for trial in bench.look(configs):
            if trial.problem:
                continue
            run = bench.launcher(trial.config)
            (ratios,) = self._ratios([self._graphs(self._with(call, run))], ROUNDS)
            found.append(Found(trial.config, trial.us, ratios, run))
        if not found:
            raise RuntimeError(f"{bench.case}: no config is right, not even the one that serves it")
        found.sort(key=lambda one: one.ratio)
        graphs = [self._graphs(self._with(call, one.run)) for one in found[:FINALISTS]]
        again = self._ratios(graphs, FINAL_ROUNDS)
        best = [one._replace(ratios=r) for one, r in zip(found[:FINALISTS], again, strict=True)]
        return sorted(best, key=lambda one: one.ratio) + found[FINALISTS:]

    def take(self, call: str, one: Found) -> None:
        self.entries = self._with(call, one.run)
        self.graphs = self._graphs(self.entries)

    def layer_us(self) -> list[tuple[float, float]]:
        """Microseconds of a layer before anything was taken, and now, at each context."""
        times = timing.measure([*self.first, *self.graphs], FINAL_ROUNDS)
        us = [time.us / self.layers for time in times]
        return list(zip(us[: len(self.first)], us[len(self.first) :], strict=True))

    def _ratios(self, candidates: Sequence[Graphs], rounds: int) -> list[tuple[float, ...]]:
        """Of the steps' times to those of now, all timed in turns."""
        times = timing.measure([g for graphs in (self.graphs, *candidates) for g in graphs], rounds)
        count = len(self.graphs)
        now, *others = (times[i : i + count] for i in range(0, len(times), count))
        return [tuple(t.us / n.us for t, n in zip(one, now, strict=True)) for one in others]

    def _with(self, call: str, run: launch.Launcher) -> step.Entries:
        return {**self.entries, call: (partial(_without_plan, run), 0)}

    def _graphs(self, entries: step.Entries) -> Graphs:
        found = []
        for model in self.models:
            model.entries = entries
            found.append(timing.Graph([model.step], 1))
        return found


def _without_plan(run: launch.Launcher, *args: Any) -> None:
    run(*args[:-1])


def candidates(case: Case, gpu: str, most: int) -> list[Config]:
    """What serves the case now, first, its rule, and `most` of its space at random."""
    op, dims, num_tokens = case.op, case.dims, case.num_tokens
    space = op.space(dims, num_tokens)
    others = random.Random(0).sample(space, min(most, len(space)))
    wanted = [*today(case, gpu), op.default_config(dims, num_tokens), *others]
    served = (c for c in wanted if deep_gemm.names(c) or op.serves(dims, c, num_tokens))
    return list({key(config): config for config in served}.values())


def write(folder: Path, search: Search, case: Case, one: Found, tried: int) -> None:
    """An entry of the file of case's op."""
    device = search.device
    ratios = {str(n): round(r, 4) for n, r in zip(search.contexts, one.ratios, strict=True)}
    record = Record(
        op=case.op.name,
        dims=dict(zip(case.op.dims._fields, case.dims, strict=True)),  # type: ignore[attr-defined]
        num_tokens=case.num_tokens,
        times=[(one.config, one.us)],
        stock_us=None,
        floor_us=GpuBench(device, case).floor_us,
        tried=tried,
        space=len(case.op.space(case.dims, case.num_tokens)),
        provenance=provenance(case.op, device) | {"step": ratios},
    )
    path = folder / select.slug(device.gpu) / f"{case.op.name}.json"
    entries.save(path, case.op, [record], METHOD)


def choose(search: Search, calls: Sequence[str], most: int, folder: Path) -> None:
    """Search each of calls that the model makes, and write and keep what gains."""
    device, num_tokens = search.device, search.num_tokens
    model, *_ = search.models
    tried = {}
    for name in calls:
        if name == "quant" and (model.block or model.few):
            continue  # attention quantises
        call = step.made(name, model.few)
        case = search.case(call)
        tried[call] = candidates(case, device.gpu, most)
        for config in tried[call]:  # of all calls at once: compilers stay busy
            device.compile(case, config)
    for call, configs in tried.items():
        case = search.case(call)
        best, *_ = search.look(call, configs)
        better = best.ratio < 1 - GAIN and best.config not in today(case, device.gpu)
        print(
            f"{num_tokens:3d} {call:8s} {' '.join(f'{r:.4f}' for r in best.ratios)} of the step, "
            f"{best.us:.2f} us alone: "
            f"{key(best.config)}{'' if better else ', not taken'}",
            flush=True,
        )
        if better:
            search.take(call, best)
            write(folder, search, case, best, len(configs))
    for before, now in search.layer_us():
        print(f"{num_tokens:3d} tokens: a layer {before:.2f} us, now {now:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="8b")
    parser.add_argument("--format", choices=("token", "block"), default="token")
    parser.add_argument("--tokens", default="1,8,32", help="at most 64; 1,8,32")
    parser.add_argument(
        "--calls", default=",".join(ORDER), help="in this order; all, attention if named"
    )
    parser.add_argument("--context", default=str(step.CONTEXT), metavar="N[,N]", help="512")
    parser.add_argument("--most", type=int, default=64, metavar="N", help="configs of a call; 64")
    parser.add_argument("--workers", type=int, default=16, metavar="N", help="compilers; 16")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of configs")
    args = parser.parse_args()
    if unknown := set(args.calls.split(",")) - {*ORDER, "attention"}:
        parser.error(f"--calls: no {', '.join(sorted(unknown))} in {','.join(ORDER)},attention")
    tokens = [int(x) for x in args.tokens.split(",")]
    if not 1 <= min(tokens) <= max(tokens) <= 64:
        parser.error(f"--tokens {args.tokens}: from 1 to 64, a decode step's")
    contexts = [int(x) for x in args.context.split(",")]
    if min(contexts) < 1:
        parser.error(f"--context {args.context}: tokens that a sequence has, 1 at least")
    block = args.format == "block"
    with Gpu({}, args.workers) as device:
        ready = step.prepare(MODELS[args.model], block, max(tokens))
        for num_tokens in tokens:
            search = Search(device, args.model, block, num_tokens, ready, contexts)
            choose(search, args.calls.split(","), args.most, args.out)
            del search
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
