# SPDX-License-Identifier: Apache-2.0
"""python -m helion_kernels.aot --models 8b --target sm_90 --out DIR"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from helion_kernels.aot import build, pack
from helion_kernels.aot.target import TARGETS
from helion_kernels.qwen3 import MODELS, calls


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m helion_kernels.aot", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["8b"])
    parser.add_argument("--tp", nargs="+", type=int, default=[1], help="tensor parallel sizes")
    parser.add_argument("--target", choices=TARGETS, default="sm_90")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for TARGET.pack")
    parser.add_argument("--cache", type=Path, default=_cache(), help="folder of compiled kernels")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args(arguments)

    try:
        wanted = [
            call
            for model in options.models
            for tp in options.tp
            for block in (False, True)
            for call in calls(MODELS[model], block, tp)
        ]
    except ValueError as error:
        parser.error(str(error))
    todo = build.jobs(wanted, options.target)
    started = time.monotonic()
    built = build.build(todo, options.target, options.cache, options.jobs, _progress(started))
    data = pack.to_bytes(built)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{options.target}.pack"
    path.write_bytes(data)
    raw = sum(map(len, built.cubins.values()))
    print(
        f"{path}: {len(built.kernels)} kernels, {len(data) / 1024:.0f} KiB "
        f"({raw / 1024:.0f} KiB of machine code), {time.monotonic() - started:.0f} s"
    )
    return 0


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "helion_kernels" / "aot"


def _progress(started: float) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        spent = time.monotonic() - started
        left = spent / done * (total - done)
        print(f"{done}/{total} kernels, {left:.0f} s left", file=sys.stderr)

    return report


if __name__ == "__main__":
    sys.exit(main())
