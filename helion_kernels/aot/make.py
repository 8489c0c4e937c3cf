# SPDX-License-Identifier: Apache-2.0
"""A pack as a file, for whoever asks: `python -m helion_kernels.aot`, `vllm helion pack`."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from helion_kernels import registry, select
from helion_kernels.aot import build, pack
from helion_kernels.aot.target import TARGETS
from helion_kernels.qwen3 import MODELS, calls


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "helion_kernels" / "aot"


def tuned(target: str) -> list[str]:
    """The models of Qwen3 whose matrix products are tuned, in one format at least: for target, or
    for a related GPU, whose configs it then runs."""

    def has_configs(name: str, dims: tuple[Any, ...]) -> bool:
        op, gpu, stock = registry.OPS[name], TARGETS[target].gpu, frozenset(registry.OPS)
        choices = select.choose(op, op.dims(*dims), build.MAX_NUM_TOKENS, gpu, stock)
        return choices[0].source in ("exact", "related")

    return [
        name
        for name, sizes in MODELS.items()
        if any(
            all(
                has_configs(op, dims)
                for op, dims in calls(sizes, block)
                if op.startswith("scaled_mm")
            )
            for block in (False, True)
        )
    ]


def make(
    wanted: Iterable[tuple[str, tuple[Any, ...]]],
    target: str,
    out: Path,
    cache: Path | None = None,
    workers: int | None = None,
    gpu: str | None = None,
    headers: Path | None = None,
) -> Path:
    """Write out/TARGET.pack with every kernel of wanted, (op, static dims); progress on stderr.

    gpu: whose tuned configs; default: those of all GPUs of the target. headers: DeepGEMM's, where
    its kernels are to be in the pack (`deep_gemm.headers`). Takes about 4 s of a core
    for each kernel that is not in cache. Raises select.ConfigError, and what Helion, Triton and
    ptxas raise.
    """
    started = time.monotonic()
    todo = build.jobs(wanted, target, gpu, headers is not None)
    workers = workers or len(os.sched_getaffinity(0))
    cache = cache or cache_folder()
    built = build.build(todo, target, cache, workers, _progress(started), headers)
    data = pack.to_bytes(built)
    path = out / f"{target}.pack"
    _write(path, data)
    raw = sum(map(len, built.cubins.values()))
    print(
        f"{path}: {len(built.kernels)} kernels, {len(data) / 1024:.0f} KiB "
        f"({raw / 1024:.0f} KiB of machine code), {time.monotonic() - started:.0f} s",
        file=sys.stderr,
    )
    return path


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def _progress(started: float) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        left = (time.monotonic() - started) / done * (total - done)
        print(f"{done}/{total} kernels, {left:.0f} s left", file=sys.stderr, flush=True)

    return report
