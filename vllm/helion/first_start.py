# SPDX-License-Identifier: Apache-2.0
"""The first start with sizes that no pack has: one is made, once, by other processes.

This process could only compile one kernel's source after the other, in each start anew, and
DeepGEMM's not at all in any useful time: NVRTC compiles one program at a time in a process. Block
FP8 would run CUTLASS where upstream runs DeepGEMM.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vllm.helion import build, switches
from vllm.logger import init_logger

logger = init_logger(__name__)

_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv.pop(1))
from helion_kernels.aot.__main__ import main
sys.exit(main())
"""
"""As `python -m helion_kernels.aot`, of the package that this process has."""


def pack_folder(
    calls: Sequence[tuple[Any, tuple[Any, ...]]],
    max_num_tokens: int,
    device: torch.device,
    others: Sequence[Path],
) -> Path:
    """The folder of the pack of calls, (op, dims), made now if packs there and in others lack some.

    Where it cannot be made the log says so, and what is missing is compiled by this process.
    """
    from filelock import FileLock

    from helion_kernels import packs, plan
    from helion_kernels.aot.target import TARGETS

    gpu = torch.cuda.get_device_name(device)
    major, minor = torch.cuda.get_device_capability(device)
    target = f"sm_{major}{minor}"
    folder = folder_of(calls, gpu)
    path = folder / f"{target}.pack"
    if target not in TARGETS or path.exists():
        return folder
    drafts = plan.dry_run(calls, max_num_tokens, device, [*others, folder])
    if not any("compiled" in draft.kinds for draft in drafts):
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):  # The other ranks, and other engines, wait for it.
            if not path.exists():
                logger.info("Helion: some kernels are in no pack; one is made now, in %s", folder)
                _make(_plain(calls), gpu, target, folder)
    except OSError as error:  # a ChildProcessError, too
        logger.warning(
            "Helion: no pack was made, and each start compiles what it lacks: %s; see the lines "
            "above, or make one yourself with vllm helion pack",
            error,
        )
    packs.usable.cache_clear()
    return folder


def folder_of(calls: Sequence[tuple[Any, tuple[Any, ...]]], gpu: str) -> Path:
    """Where the pack of calls is, if there is one: elsewhere for other kernels, configs or GPUs."""
    from helion_kernels.aot import pack

    made_of = json.dumps([_plain(calls), gpu, pack.fingerprint(), build.fingerprint()])
    return switches.cache_folder() / "packs" / hashlib.sha256(made_of.encode()).hexdigest()[:16]


def _plain(calls: Sequence[tuple[Any, tuple[Any, ...]]]) -> list[tuple[str, tuple[Any, ...]]]:
    """Each once, as JSON can hold them."""
    return sorted({(op.name, tuple(op.dims(*dims))) for op, dims in calls})


def _make(wanted: list[tuple[str, tuple[Any, ...]]], gpu: str, target: str, folder: Path) -> None:
    """In a process of its own, which starts one for each core: this one has a GPU and a lock."""
    from helion_kernels.aot import deep_gemm

    command = [sys.executable, "-c", _PROGRAM, json.dumps(sys.path)]
    command += ["--calls", json.dumps(wanted), "--gpu", gpu, "--target", target]
    command += ["--out", str(folder)]
    if headers := deep_gemm.headers():
        command += ["--deep-gemm", str(headers)]
    done = subprocess.run(
        command,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise ChildProcessError(f"python -m helion_kernels.aot ended with {done.returncode}")
