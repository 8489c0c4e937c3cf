# SPDX-License-Identifier: Apache-2.0
"""Runs the generated Triton code of ops on the CPU, tile by tile, and prints what is wrong as JSON.

A program, because TRITON_INTERPRET holds for a whole process. Two parts of Triton's interpreter are
replaced: its float conversions, which truncate to bf16 and lose a carry when rounding to float8,
and functions that it does not have: libdevice's, and those that order launches.
"""

import json
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import triton.language as tl
from triton.language.extra import cuda, libdevice
from triton.runtime import interpreter

from helion_kernels import OPS, launch
from helion_kernels.accuracy import expect, fresh_outputs, problems
from helion_kernels.aot.target import TARGETS, pretend
from helion_kernels.sample import Random

_TORCH = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8e4nv": torch.float8_e4m3fn,
}
_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32}


def convert(data, source, target, rounding_mode):
    tensor = torch.from_numpy(np.ascontiguousarray(data).view(f"i{data.itemsize}"))
    bits = tensor.view(_TORCH[str(source)]).to(_TORCH[str(target)]).contiguous()
    return bits.view(torch.uint8).numpy().view(_BITS[bits.itemsize]).reshape(data.shape)


def number_range(*bounds):
    """range of Triton's scalars, which it keeps in arrays of one element: numpy 2.4 refuses those."""
    return range(*(b.handle.data.item() if isinstance(b, tl.tensor) else b for b in bounds))


def main() -> None:
    interpreter._convert_float = convert
    interpreter.range = number_range
    libdevice.rsqrt = lambda x: 1.0 / tl.sqrt(x)
    cuda.gdc_wait = cuda.gdc_launch_dependents = lambda: None
    wrong = []
    for name, dims, num_tokens, config in json.load(sys.stdin):
        op = OPS[name]
        args = op.sample(op.dims(*dims), num_tokens, Random("cpu", num_tokens))
        expected, actual = expect(op, args), fresh_outputs(op, args)
        with pretend(TARGETS["sm_90"]):
            specialised = launch.generate(op, op.dims(*dims), config)
            specialised.function(*op.kernel_args(*actual))
        wrong += [[dims, num_tokens, config, line] for line in problems(op, expected, actual)]
    json.dump(wrong, sys.stdout)


if __name__ == "__main__":
    main()
