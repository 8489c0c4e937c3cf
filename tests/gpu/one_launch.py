# SPDX-License-Identifier: Apache-2.0
"""Launches one op at odd sizes and checks what it writes: a program, for a checker to watch.

    python one_launch.py scaled_mm

Run with PYTORCH_NO_CUDA_MEMORY_CACHING=1: tensors are then allocations of their own, with ends that
a checker knows. Samples and the reference are made on the CPU, so that no kernel but ours runs.
"""

import sys
from itertools import product

import torch
from dims import CHECKING, SMALL

from helion_kernels import OPS, launch
from helion_kernels.accuracy import ACCUMULATION, expect, problems
from helion_kernels.sample import Random

TOKENS = (19, 130)
"""Of a narrow and of a wide tile, neither full."""


def on(device: str, args: tuple[object, ...]) -> tuple[object, ...]:
    """Copies there, with the same strides."""
    return tuple(
        torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device).copy_(x)
        if isinstance(x, torch.Tensor)
        else x
        for x in args
    )


def main() -> None:
    op = OPS[sys.argv[1]]
    cases = [SMALL[op.name], *(dims for name, dims in [CHECKING] if name == op.name)]
    for sizes, num_tokens in product(cases, TOKENS):
        dims = op.dims(*sizes)
        specialised = launch.generate(op, dims, op.default_config(dims, num_tokens))
        run = launch.launcher(op, launch.build(specialised, torch.device("cuda", 0)))
        host = op.sample(dims, num_tokens, Random("cpu", num_tokens))
        args = on("cuda", host)
        run(*args)
        torch.cuda.synchronize()
        wrong = problems(op, expect(op, host), on("cpu", args), ACCUMULATION["cuda"])
        if wrong:
            raise SystemExit("\n".join(wrong))
    print(f"launched {op.name} for {TOKENS[0]} and {TOKENS[1]} tokens")


if __name__ == "__main__":
    main()
