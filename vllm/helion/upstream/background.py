# SPDX-License-Identifier: Apache-2.0
"""Makes upstream's kernels ready in threads, while the engine does what it has to.

The threads touch no GPU: they bring machine code into Triton's caches (from the wheel; else, for
what upstream's warm-up runs, from Triton's compiler) and compile the C launchers. Modules are
loaded by the main thread at the first launch, as ever, for no thread may load one while another
captures a CUDA graph.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from vllm.helion.upstream import kernel, pack
from vllm.helion.upstream.kernel import Kernel
from vllm.logger import init_logger

logger = init_logger(__name__)

PACKED, COMPILED, LEFT = "from the wheel", "compiled", "left to upstream"
MOST_WORKERS = 8

_started = False


def start(logits: str) -> threading.Thread | None:
    """Begin, once in a process, for the current CUDA device. Never fails; returns at once.

    logits: their type, of `kernel.LOGITS`.
    """
    global _started
    if _started:
        return None
    _started = True
    try:
        from triton.runtime import driver

        device = torch.cuda.current_device()
        found = [(each, each.find()) for each in kernel.read(logits)]
        for _, function in found:
            if function is not None:
                # Made when first asked for, without a lock. Here nobody else asks yet.
                function.device_caches[device]
        work = threading.Thread(
            target=_run, args=(found, device, driver.active), name="helion-upstream", daemon=True
        )
        work.start()
        return work
    except Exception as error:
        logger.debug("Helion: upstream's kernels are left to upstream: %r", error)
        return None


def _run(found: Sequence[tuple[Kernel, Any]], device: int, driver: Any) -> None:
    started = time.perf_counter()
    try:
        torch.cuda.set_device(device)
        packed = _open_pack(torch.cuda.get_device_capability(device))
        workers = min(MOST_WORKERS, len(os.sched_getaffinity(0)))
        with ThreadPoolExecutor(
            workers, "helion-upstream", torch.cuda.set_device, (device,)
        ) as pool:
            done = Counter(pool.map(lambda item: _one(*item, packed, driver), found))
    except Exception as error:
        logger.debug("Helion: upstream's kernels are left to upstream: %r", error)
        return
    logger.info(
        "Helion: upstream's own kernels in %.1f s in the background: %s",
        time.perf_counter() - started,
        ", ".join(f"{done[how]} {how}" for how in (PACKED, COMPILED, LEFT) if done[how]),
    )


def _open_pack(capability: tuple[int, int]) -> pack.Pack | None:
    from triton.runtime.cache import triton_key

    triton_key()  # hashes all of Triton, half a second; later calls know it
    file = pack.path(capability)
    if not file.exists():
        return None
    try:
        return pack.Pack(file)
    except Exception as error:
        logger.warning("%s is not used, Triton compiles instead: %r; install again", file, error)
        return None


def _one(each: Kernel, function: Any, packed: pack.Pack | None, driver: Any) -> str:
    """Make one kernel ready; how it was."""
    try:
        return _prepare(each, function, packed, driver, _engine_is_ready)
    except Exception as error:
        logger.debug("Helion: %s is left to upstream: %r", each.function, error)
        return LEFT


def _prepare(
    each: Kernel,
    function: Any,
    packed: pack.Pack | None,
    driver: Any,
    too_late: Callable[[], bool],
) -> str:
    from triton.compiler.compiler import make_backend

    # Once the engine is ready a compilation is somebody's latency, and upstream's monitor says so.
    if function is None or too_late():
        return LEFT
    backend = make_backend(driver.get_current_target())
    seeded = packed is not None and packed.seed(each, function, backend)
    if not seeded and not each.warm_up:
        return LEFT
    compiled = function.preload(each.preload_data(function))
    driver.launcher_cls(compiled.src, compiled.metadata)  # gcc, 0.4 s, into Triton's cache
    return PACKED if seeded else COMPILED


def _engine_is_ready() -> bool:
    from vllm.utils import jit_monitor

    return jit_monitor.is_active()
