# SPDX-License-Identifier: Apache-2.0
"""Prints, as JSON, what becomes of each recorded kernel in the vLLM that lies in the folder named.

A program of its own, for `vllm.helion.upstream.make` lets an empty vLLM stand in for the rest. Per
kernel: is it there, and how often is Triton asked to compile if it is preloaded and then launched.
"""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from triton.runtime.jit import MockTensor

from helion_kernels.aot.target import TARGETS, pretend

TYPES = {"bf16": "bfloat16", "fp32": "float32", "i32": "int32", "i64": "int64", "u64": "uint64"}


def example(value):
    """What a launch might pass for a recorded argument."""
    if not isinstance(value, str):
        return value
    kind, _, divisible = value.partition(":")
    if kind.startswith("*"):
        return MockTensor(getattr(torch, TYPES[kind[1:]]))
    return 32 if divisible else 33


def compilations(kernel, function):
    asked = []
    function.device_caches[0]  # sets `compile`
    function.compile = lambda source, **_: asked.append(source) or SimpleNamespace()
    function.preload(kernel.preload_data(function))
    values = map(example, kernel.arguments.values())
    function.run(*values, grid=(1,), warmup=True, **kernel.options)
    return len(asked)


def main(tree, make):
    spec = importlib.util.spec_from_file_location("make", make)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.stand_in(Path(tree))
    from vllm.helion.upstream import kernel

    with pretend(TARGETS["sm_90"]):
        found = [(each, each.find()) for each in kernel.read(*kernel.LOGITS)]
        rows = [[k.function, f is not None, f and compilations(k, f)] for k, f in found]
    print(json.dumps(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
