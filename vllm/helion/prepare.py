# SPDX-License-Identifier: Apache-2.0
"""After loading, before profiling and capture: a launcher for every call of the model."""

import time
from functools import partial
from typing import TYPE_CHECKING

import torch

from vllm.config.compilation import CompilationMode
from vllm.helion import served
from vllm.logger import init_logger

if TYPE_CHECKING:
    from vllm.helion.layer import HelionDecoderLayer
    from vllm.v1.worker.gpu_worker import Worker

logger = init_logger(__name__)


def layers_of(model: torch.nn.Module) -> "list[HelionDecoderLayer]":
    """The served decoder layers of a model, in order."""
    found = (getattr(module, "helion", None) for module in model.modules())
    return [layer for layer in found if layer is not None]


def prepare(worker: "Worker") -> None:
    """Plan and compile; log the table. Raises ConfigError for a config file that is damaged."""
    from vllm.helion import report, sampling, steps, switches

    model = worker.model_runner.get_model()
    layers = layers_of(model)
    config = worker.vllm_config
    sampling.use(bool(layers))
    steps.use(bool(layers))
    log = partial(
        report.log,
        layers,
        served.refusals(),
        config.model_config.model,
        config.parallel_config.tensor_parallel_size,
        config.num_speculative_tokens,
    )
    if not layers:
        log()
        if not served.refusals():
            architecture = config.model_config.architecture
            logger.info("Helion: %s runs stock: not a Qwen3 decoder", architecture)
        return
    from helion_kernels import OPS, plan, split_k
    from vllm.helion import first_start, graphs, lm_head, logits, stock

    graphs.prepare(model, layers)
    for layer in layers:
        layer.workspace = split_k.shared(worker.device)
    stock.register()
    plan.use_pdl(switches.pdl())
    plan.use_batch_invariance(switches.batch_invariant())
    start = time.perf_counter()
    calls = [call for layer in layers for call in layer.calls]
    if switches.fp8_lm_head() and (head := lm_head.serve(model, config)) is not None:
        calls += head.calls
    logits.keep_float32(model, config)
    max_num_tokens = config.scheduler_config.max_num_batched_tokens
    wanted = [(OPS[call.op], call.dims) for call in calls]
    folders, on_gpu = [switches.cache_folder()], worker.device.type == "cuda"
    if on_gpu:
        folders.append(first_start.pack_folder(wanted, max_num_tokens, worker.device, folders))
    ids = plan.prepare(
        wanted,
        max_num_tokens,
        worker.device,
        progress=_progress() if on_gpu else lambda done, total: None,
        pack_folders=folders,
    )
    # A compiled graph is cached on disk, and the next process may have other packs.
    traced = config.compilation_config.mode != CompilationMode.NONE
    for call, plan_id in zip(calls, ids, strict=True):
        if traced:
            call.plan = plan_id
        else:
            call.function, call.plan = plan.entry(plan_id)
    logger.info("Helion: launchers ready in %.1f s", time.perf_counter() - start)
    log()


def _progress():  # type: ignore[no-untyped-def]
    """A bar on rank 0 where there is something to wait for."""
    from tqdm import tqdm

    from vllm.distributed.parallel_state import is_global_first_rank

    bar: tqdm | None = None

    def update(done: int, total: int) -> None:
        nonlocal bar
        if not is_global_first_rank():
            return
        if bar is None:
            bar = tqdm(total=total, desc="Preparing Helion launchers")
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return update
