# SPDX-License-Identifier: Apache-2.0
"""Every tile of DeepGEMM that a search looks at, compiled here, against the float64 reference.

What is tuned runs in test_ops.py, test_determinism.py and test_accumulation.py, as served.
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import pytest
import torch

from helion_kernels import OPS, deep_gemm, native
from helion_kernels.accuracy import expect, fresh_outputs, problems
from helion_kernels.aot import build, make
from helion_kernels.aot.deep_gemm import headers
from helion_kernels.sample import POISON, Random

OP = OPS[deep_gemm.OP]
DIMS = [(200, 384), (1096, 640), (4096, 4096)]
"""The first two end within a tile and within a block of 128."""
TOKENS = (1, 3, 63, 64, 65, 129, 250, 257, 1023)
Launchers = dict[tuple[deep_gemm.Tile, tuple[int, int]], Callable[..., None]]


@pytest.fixture(scope="module")
def launchers() -> Launchers:
    if headers() is None:
        pytest.skip("no headers of DeepGEMM, CUDA 13 and CCCL here")
    native.load(OPS.values())
    cases = [(tile, dims) for tile in deep_gemm.TILES for dims in DIMS]
    configs, dims = [tile.config for tile, _ in cases], [dims for _, dims in cases]
    compiling = partial(build.compile_deep_gemm, cache_dir=make.cache_folder(), headers=headers())
    # Processes, for NVRTC compiles one program at a time in each.
    with ProcessPoolExecutor(16, mp_context=multiprocessing.get_context("spawn")) as pool:
        made = list(pool.map(compiling, configs, dims))
    return {
        (tile, dims): native.launcher(OP, dims, *compiled)
        for (tile, dims), compiled in zip(cases, made, strict=True)
    }


@pytest.mark.parametrize("dims", DIMS, ids=str)
@pytest.mark.parametrize("num_tokens", TOKENS)
def test_every_tile(num_tokens, dims, launchers) -> None:
    args = OP.sample(OP.dims(*dims), num_tokens, Random("cuda", num_tokens))
    expected, wrong = expect(OP, args), {}
    for tile in deep_gemm.TILES:
        actual = fresh_outputs(OP, args)
        launchers[tile, dims](*actual)
        if found := problems(OP, expected, actual):
            wrong[tile] = found
    assert wrong == {}


@pytest.mark.parametrize("dims", DIMS[:2], ids=str)
def test_nothing_else_is_written(dims, launchers) -> None:
    """Rows below and columns beside the output, in the memory around it, keep their bytes."""
    num_tokens, (n, _) = 67, dims
    args = list(OP.sample(OP.dims(*dims), num_tokens, Random("cuda", 5)))
    for tile in deep_gemm.TILES:
        around = torch.empty(num_tokens + 300, n + 264, dtype=torch.bfloat16, device="cuda")
        around.view(torch.uint8).fill_(POISON)
        args[0] = around[3 : 3 + num_tokens, 8 : 8 + n]
        launchers[tile, dims](*args)
        outside = around.clone().view(torch.uint8)
        outside[3 : 3 + num_tokens, 16 : 16 + 2 * n] = POISON
        assert (outside == POISON).all(), tile
        assert not (args[0].view(torch.int16) == 0x7F7F).all(1).any(), tile


def test_scales_of_nan_and_infinity_reach_only_their_token(launchers) -> None:
    dims = DIMS[1]
    args = OP.sample(OP.dims(*dims), 130, Random("cuda", 6))
    args[3][7, 2], args[3][70, 0] = float("nan"), float("inf")
    for tile in deep_gemm.TILES:
        actual = fresh_outputs(OP, args)
        launchers[tile, dims](*actual)
        broken = (~actual[0].isfinite()).any(1).nonzero().flatten().tolist()
        assert broken == [7, 70], tile
