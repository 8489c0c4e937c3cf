# SPDX-License-Identifier: Apache-2.0
"""The real device, as far as it goes without a GPU: its compiler processes."""

import functools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest

from helion_kernels import OPS
from helion_kernels.aot.target import TARGETS
from helion_kernels.tune import gpu
from helion_kernels.tune.cases import Case

NAME, DIMS = "dynamic_per_token_scaled_fp8_quant", (1024,)


def test_workers_compile_without_a_gpu():
    op = OPS[NAME]
    config = dict(op.default_config(op.dims(*DIMS), 16))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=gpu._start_worker) as pool:
        task = pool.submit(gpu.compile_config, NAME, DIMS, config, TARGETS["sm_90"])
        source = task.result()
    assert f"def {NAME}(" in source
    # The parent finds the launcher in the source.
    assert gpu.specialise(op, DIMS, source).kernel.fn.__name__ == f"_helion_{NAME}"


def test_a_config_that_cannot_be_compiled_fails_alone():
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=gpu._start_worker) as pool:
        bad = pool.submit(gpu.compile_config, NAME, DIMS, {"block_sizes": [3]}, TARGETS["sm_90"])
        good = dict(OPS[NAME].default_config(OPS[NAME].dims(*DIMS), 16))
        after = pool.submit(gpu.compile_config, NAME, DIMS, good, TARGETS["sm_90"])
        assert f"def {NAME}(" in after.result()
        assert bad.exception() is not None


def test_compilers_that_die_end_the_tuning(monkeypatch):
    monkeypatch.setattr(gpu, "_start_worker", functools.partial(os._exit, 1))
    device = object.__new__(gpu.Gpu)  # whose __init__ asks for a GPU
    device.target, device._compiled = TARGETS["sm_90"], {}
    device._workers, device._crashes = 1, 0
    device._pool = device._start_pool()
    op = OPS[NAME]

    def tune():
        for config in op.space(op.dims(*DIMS), 64):
            device.compile(Case(op, DIMS, 64, 1.0), config).exception()

    with device, pytest.raises(ChildProcessError, match="end before they compile anything"):
        tune()
    assert len(device._compiled) == gpu.MOST_CRASHES
