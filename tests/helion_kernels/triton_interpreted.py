# SPDX-License-Identifier: Apache-2.0
"""Runs the generated Triton code of ops on the CPU, tile by tile, and answers questions about it.

A program, because TRITON_INTERPRET holds for a whole process; `interpreter.Interpreter` starts it.
A question is a line of JSON, [name of a function, *arguments], its answer another. Parts of
Triton's interpreter are replaced: float conversions, which truncate to bf16 and lose a carry when
rounding to float8; dots, whose sums depend on where in a tile a row lies; and functions that it
does not have: libdevice's, and those that order launches.
"""

import json
import os
import random as random_numbers
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import accumulation
import attention
import numpy as np
import torch
import triton.language as tl
from anything import Case, Edit, wrong
from batches import Tokens
from triton.language.extra import cuda, libdevice
from triton.runtime import interpreter

from helion_kernels import OPS, launch
from helion_kernels.accuracy import expect, fresh_outputs, problems
from helion_kernels.aot.target import TARGETS, pretend
from helion_kernels.op import Config
from helion_kernels.plan import Launcher
from helion_kernels.sample import Random

_TORCH = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8e4nv": torch.float8_e4m3fn,
}
_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32}
_launchers: dict[str, Launcher] = {}
_tokens: dict[str, Tokens] = {}


def tensor(data: np.ndarray, dtype: tl.dtype) -> torch.Tensor:
    whole = torch.from_numpy(np.ascontiguousarray(data).view(f"i{data.itemsize}"))
    return whole.view(_TORCH[str(dtype)])


def convert(data, source, target, rounding_mode):
    bits = tensor(data, source).to(_TORCH[str(target)]).contiguous()
    return bits.view(torch.uint8).numpy().view(_BITS[bits.itemsize]).reshape(data.shape)


def number_range(*bounds):
    """range of Triton's scalars: arrays of one element, which numpy 2.4 takes for no numbers."""
    return range(*(b.handle.data.item() if isinstance(b, tl.tensor) else b for b in bounds))


def dot(self, a, b, acc, input_precision, max_num_imprecise_acc):
    """Products of float8 add up exactly in float64, in any order."""
    left, right = (tensor(x.data, x.dtype.scalar).double() for x in (a, b))
    return interpreter.TensorHandle((left @ right).float().numpy() + acc.data, acc.dtype.scalar)


def launcher(name: str, dims: list[Any], config: Config) -> Launcher:
    key = json.dumps([name, dims, config])
    if key not in _launchers:
        op = OPS[name]
        specialised = launch.generate(op, op.dims(*dims), config)
        _launchers[key] = launch.launcher(op, specialised.function)
    return _launchers[key]


def random(name: str, dims: list[Any], num_tokens: int, config: Config) -> list[str]:
    """What is wrong with an op's outputs for random arguments."""
    op = OPS[name]
    args = op.sample(op.dims(*dims), num_tokens, Random("cpu", num_tokens))
    expected, actual = expect(op, args), fresh_outputs(op, args)
    launcher(name, dims, config)(*actual)
    return problems(op, expected, actual)


def hard_sums(name: str, kind: str, dims: list[Any], num_tokens: int, config: Config) -> list[str]:
    """What is wrong with a GEMM's sums of inputs of `accumulation`, by the bound of float32."""
    op = OPS[name]
    args = accumulation.arguments(name, kind, num_tokens, *dims, "cpu", seed=dims[1])
    expected, actual = expect(op, args), fresh_outputs(op, args)
    launcher(name, dims, config)(*actual)
    return problems(op, expected, actual)


def anything(case: list[Any], config: Config) -> list[str]:
    """What is wrong with an op's outputs for a `Case`."""
    name, dims, num_tokens, margin, row_major, edits, seed = case
    edits = tuple(Edit(*edit) for edit in edits)
    known = Case(name, tuple(dims), num_tokens, margin, row_major, edits, seed)
    return wrong(known, "cpu", launcher(name, dims, config))


def batch(
    name: str, dims: list[Any], count: int, alone: Config, config: Config, chosen: list[int]
) -> list[str]:
    """Of `count` tokens the chosen whose outputs in one batch differ from those of each alone."""
    key = json.dumps([name, dims, count, alone])
    if key not in _tokens:
        _tokens[key] = Tokens(OPS[name], tuple(dims), count, launcher(name, dims, alone))
    _tokens[key].call = launcher(name, dims, config)
    return _tokens[key].changed(chosen)


@contextmanager
def programs_in(order: int) -> Iterator[None]:
    """Programs run one after another: in their order (0), the reverse (-1), or any, by a seed."""
    builder = interpreter.interpreter_builder
    shuffled: dict[int, list[int]] = {}
    place = type(builder).set_grid_idx

    def elsewhere(x: int, y: int, z: int) -> None:
        count = builder.grid_dim[0]
        if count not in shuffled:
            programs = list(range(count))
            random_numbers.Random(order).shuffle(programs)
            in_turn = {0: list(range(count)), -1: list(range(count))[::-1]}
            shuffled[count] = in_turn.get(order, programs)
        place(builder, shuffled[count][x], y, z)

    builder.set_grid_idx = elsewhere
    try:
        yield
    finally:
        del builder.set_grid_idx


def attend(case: list[Any], config: Config, orders: list[int]) -> list[Any]:
    """[what is wrong with attention of `Sequences`, programs in each of orders; whether any parts
    were joined]"""
    dims, lengths, *rest = case
    known = attention.Sequences(tuple(dims), tuple(lengths), *rest)
    run = launcher(attention.OP.name, [*dims, known.quantised, known.query_len], config)

    def call_in(order: int) -> Callable[..., None]:
        def call(*args: Any) -> None:
            with programs_in(order):
                run(*args)

        return call

    args = attention.arguments(known)
    found = attention.wrong(known, [call_in(order) for order in orders], args)
    return [found, bool(args.workspace.any())]


QUESTIONS: dict[str, Callable[..., Any]] = {
    "random": random,
    "hard_sums": hard_sums,
    "anything": anything,
    "batch": batch,
    "attend": attend,
}


def answer(question: str, *arguments: Any) -> list[Any]:
    try:
        with pretend(TARGETS["sm_90"]):
            return ["answer", QUESTIONS[question](*arguments)]
    except Exception:
        return ["error", traceback.format_exc()]


def main() -> None:
    interpreter._convert_float = convert
    interpreter.InterpreterBuilder.create_dot = dot
    interpreter.range = number_range
    libdevice.rsqrt = lambda x: 1.0 / tl.sqrt(x)
    libdevice.exp2, libdevice.log2 = lambda x: tl.exp2(x), lambda x: tl.log2(x)
    cuda.gdc_wait = cuda.gdc_launch_dependents = lambda: None
    tl.inline_asm_elementwise = lambda *args, **options: None
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What libraries print is no answer.
    for line in sys.stdin:
        print(json.dumps(answer(*json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
