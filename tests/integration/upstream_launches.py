# SPDX-License-Identifier: Apache-2.0
"""Upstream's modules with Triton's own launchers over a fake driver: the threads, then launches.

Prints counts as JSON. Needs fake_libcuda.c as libcuda.so.1, where the loader and Triton look.
"""

import ctypes
import importlib
import json
import sys
import types
from pathlib import Path

import torch
import triton
from triton import knobs
from triton.backends.nvidia.driver import CudaDriver
from triton.runtime import build, driver

# Of a build for CPUs too: its `vllm.triton_utils` has no Triton.
utils, importing = (types.ModuleType(f"vllm.triton_utils{end}") for end in ("", ".importing"))
utils.HAS_TRITON = importing.HAS_TRITON = True
utils.triton, utils.tl, utils.importing, utils.__path__ = triton, triton.language, importing, []
utils.tldevice = importlib.import_module("triton.language.extra.libdevice")
sys.modules |= {each.__name__: each for each in (utils, importing)}

from vllm.helion.upstream import background, kernel, pack  # noqa: E402
from vllm.utils import jit_monitor  # noqa: E402

TYPES = {"bf16": "bfloat16", "fp32": "float32", "i32": "int32", "i64": "int64", "u64": "uint64"}


class Pointer:
    def __init__(self, kind):
        self.dtype = getattr(torch, TYPES[kind])

    def data_ptr(self):
        return 4096


def example(value):
    """What a launch might pass for a recorded argument."""
    if not isinstance(value, str):
        return value
    kind, _, divisible = value.partition(":")
    return Pointer(kind[1:]) if kind.startswith("*") else 32 if divisible else 33


def main(packed, only):
    kernels = [each for each in kernel.read("fp32") if each.function.rpartition(".")[2] in only]
    kernel.read = lambda *logits: kernels
    pack.path = lambda capability: Path(packed)
    for each in kernels:
        importlib.import_module(each.module)
    torch.cuda.current_device = lambda: 0
    torch.cuda.set_device = lambda device: None
    torch.cuda.get_device_capability = lambda device=None: (9, 0)
    CudaDriver.is_active = staticmethod(lambda: True)
    driver.active.get_current_stream = lambda device: 0
    cuda, compiled, built = ctypes.CDLL("libcuda.so.1"), [], []
    knobs.compilation.listener = lambda cache_hit, **_: cache_hit or compiled.append(1)
    make, build._build = build._build, lambda *a, **k: built.append(1) or make(*a, **k)

    def counts():
        return [len(compiled), len(built) > 0, cuda.fake_loads(), cuda.fake_launches()]

    background.start("fp32").join()
    rows = [counts()]
    compiled.clear(), built.clear()
    jit_monitor.activate(mode="error")
    launched = [each for each in kernels if each.warm_up or Path(packed).exists()]
    for each in launched:
        each.find()[1,](*map(example, each.arguments.values()), **each.options)
    print(json.dumps([len(kernels), len(launched), *rows, counts()]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
