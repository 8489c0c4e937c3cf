# SPDX-License-Identifier: Apache-2.0
"""FP8 sums of every shipped config, and of the rule for untuned sizes, at every K of the models.

Each element within the roundoff of bf16 plus 2^-10 of the sum of magnitudes; the mean error, in
which roundoff cancels and truncation does not, within 2^-10 alone. Why 2^-10: a WGMMA cuts each
product off 13 bits below the largest term that it adds. Of a tile of 128 products without signs
that costs 6 to 9 x 10^-4 of their sum, on the average and at most, whatever K
(tests/helion_kernels/accumulation.py, on whose inputs the kernels run here); of 256 products twice
the bound, and of all of K in one sum 0.06 at 4096.
"""

import json
import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest
import torch
import unpromoted
from accumulation import INPUTS, WORST, K, arguments, mean_error
from dims import GEMMS

from helion_kernels import OPS, deep_gemm, launch, native, select
from helion_kernels.accuracy import ACCUMULATION, expect, fresh_outputs, problems
from helion_kernels.aot import build, make
from helion_kernels.aot.deep_gemm import headers
from helion_kernels.fp8 import FP8
from helion_kernels.gemm import MOST_GEMV, is_gemv
from helion_kernels.op import Config, Op
from helion_kernels.sample import Random

BOUND = ACCUMULATION["cuda"]
N = 256
DEVICE = torch.device("cuda", 0)


def shipped(name: str, k: int) -> list[Config]:
    """Each config once that a config file names and that serves K, whichever GPU it is for;
    DeepGEMM's where it compiles."""
    entries = [
        config
        for path in sorted(select.SHIPPED.glob(f"*/{name}.json"))
        for entry in json.loads(path.read_text("utf-8"))["entries"]
        for config in (entry["config"], entry.get("instead", "stock"))
        if config != "stock" and (headers() or not deep_gemm.names(config))
    ]
    return [c for c in once(entries) if deep_gemm.names(c) or OPS[name].serves((N, k), c, 1)]


def once(configs: Iterable[Config]) -> list[Config]:
    return list({json.dumps(config, sort_keys=True): config for config in configs}.values())


def configs(name: str, k: int) -> list[Config]:
    """The shipped ones, those of the rule at Qwen3's N, and some for few tokens."""
    op = OPS[name]
    by_rule = [
        op.default_config(op.dims(n, k), bound)
        for n in (4096, 24576)
        for bound in (*op.buckets, 8192)
    ]
    few = [config for config in op.space(op.dims(N, k), MOST_GEMV) if is_gemv(config)]
    return once([*shipped(name, k), *by_rule, *few[::6]])


@pytest.fixture(scope="module")
def built() -> dict[tuple[str, int], list[tuple[Config, Callable[..., None]]]]:
    """(op, K) -> (config, its launcher), compiled at once."""
    native.load(OPS.values())
    context = multiprocessing.get_context("spawn")
    with ThreadPoolExecutor(16) as pool, ProcessPoolExecutor(16, mp_context=context) as others:
        started = {
            (name, k): [(c, start(pool, others, OPS[name], (N, k), c)) for c in configs(name, k)]
            for name in GEMMS
            for k in K
        }
        return {case: [(c, ready()) for c, ready in tasks] for case, tasks in started.items()}


def start(
    pool: Executor, others: Executor, op: Op, dims: tuple[int, int], config: Config
) -> Callable[[], launch.Launcher]:
    """Compiles config; what is returned waits for it. others: processes, for NVRTC compiles one
    program at a time in each."""
    if deep_gemm.names(config):
        cache, found = make.cache_folder(), headers()
        made = others.submit(build.compile_deep_gemm, config, dims, cache, found)
        return lambda: native.launcher(op, dims, *made.result())
    task = pool.submit(launch.build, launch.generate(op, dims, config), DEVICE)
    return lambda: launch.launcher(op, task.result())


def outcome(
    name: str, args: tuple[Any, ...], run: Callable[..., None], bound: float = BOUND
) -> tuple[list[str], float]:
    """(what breaks the bound, mean error relative to the magnitudes)"""
    expected, actual = expect(OPS[name], args), fresh_outputs(OPS[name], args)
    run(*actual)
    return problems(OPS[name], expected, actual, bound), abs(mean_error(expected, actual))


def tokens_for(name: str, config: Config, k: int) -> int:
    """Two tiles, the second ragged; one where a config that splits K serves no more."""
    if deep_gemm.names(config):
        return 2 * deep_gemm.tile_of(config).block_m - 3
    if is_gemv(config):
        return MOST_GEMV
    tile = int(config["block_sizes"][0])
    return 2 * tile - 3 if OPS[name].serves((N, k), config, 2 * tile - 3) else tile - 3


@pytest.mark.parametrize("k", K)
@pytest.mark.parametrize(
    ("kind", "bound"), [*((kind, BOUND) for kind in INPUTS), ("spiked", WORST)]
)
@pytest.mark.parametrize("name", GEMMS)
def test_every_config_keeps_the_bound(name, kind, bound, k, built) -> None:
    """2^-10 on what models have, the bound for any input on the worst one."""
    assert len(built[name, k]) >= len(shipped(name, k)) > 0
    wrong = {}
    for config, run in built[name, k]:
        num_tokens = tokens_for(name, config, k)
        assert OPS[name].serves((N, k), config, num_tokens), config
        args = arguments(name, kind, num_tokens, N, k, "cuda", seed=k)
        found, mean = outcome(name, args, run, bound)
        if found or mean >= bound:
            wrong[json.dumps(config, sort_keys=True)] = (found, mean)
    assert wrong == {}


@pytest.mark.parametrize("k", K)
@pytest.mark.parametrize("kind", ["positive", "heavy positive"])
def test_a_sum_left_in_the_tensor_core_breaks_it(kind, k) -> None:
    """The control: the same inputs, all of K in one chain of WGMMAs."""
    args = arguments("scaled_mm", kind, 29, N, k, "cuda", seed=k)
    found, mean = outcome("scaled_mm", args, unpromoted.scaled_mm)
    assert found
    assert mean > 16 * BOUND


def test_the_control_is_a_matrix_product() -> None:
    """What it loses is bits: sums of small integers it has right."""
    op = OPS["scaled_mm"]
    args = list(op.sample(op.dims(N, 512), 29, Random("cuda")))
    for i in (1, 2):
        args[i].copy_(args[i].float().sign().to(FP8))
    args[3].fill_(1.0)
    args[4].fill_(1.0)
    expected, actual = expect(op, tuple(args)), fresh_outputs(op, tuple(args))
    unpromoted.scaled_mm(*actual)
    assert problems(op, expected, actual, accumulation=0.0) == []
