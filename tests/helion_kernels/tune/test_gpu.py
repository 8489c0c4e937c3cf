# SPDX-License-Identifier: Apache-2.0
"""The real device, as far as it goes without a GPU: its compiler processes."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from helion_kernels import OPS
from helion_kernels.aot.target import TARGETS
from helion_kernels.tune import gpu

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
