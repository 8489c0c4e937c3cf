# SPDX-License-Identifier: Apache-2.0
"""Calls the dispatcher with what it must not be called with: a process that ends well, or the bug.

    python -m fuzz_calls BUILT PACK

BUILT: the folder with the dispatcher and the mock driver. test_call_fuzz.py runs it.
"""

import ctypes
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from calls import planned, signature_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import SMALL, arguments

from helion_kernels import OPS, native
from helion_kernels.aot import index

DTYPES = (
    torch.bool, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.float16,
    torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.float8_e4m3fn,
    torch.float8_e5m2,
)  # fmt: skip
NO_TENSORS: list[Any] = [None, 3, 2**70, 0.5, "a", [], [1], {}, b"", object(), torch.float32]
NO_NUMBERS: list[Any] = [None, "a", [0], {}, b"", 1j, torch.ones(2), object()]
NO_PLANS: list[Any] = [-1, 1 << 20, -(2**63), 2**63 - 1, 2**63, -(2**70), 1.5, None, "0", [0]]
RESERVED = torch.empty(1 << 33, dtype=torch.uint8)
"""Memory under tensors with any strides; never touched."""
INTEGERS = st.integers(0, 40) | st.sampled_from([127, 2**16, 2**24, 2**31 - 1, 2**31, 2**32])


class Wrong(NamedTuple):
    args: list[Any]
    plan: Any
    named: str | None
    """What the refusal must name besides the op, if anything; None: the call may be right."""


@st.composite
def wrong(draw: st.DrawFn, signature: index.Signature, args: list[Any], plan: int) -> Wrong:
    """args with one of them changed, or another plan, or another number of arguments."""
    change = draw(st.sampled_from(("argument",) * 8 + ("plan", "count")))
    if change == "plan":
        return Wrong(args, draw(st.sampled_from(NO_PLANS)), "plan")
    if change == "count":
        count = draw(st.integers(0, len(args) + 2).filter(lambda n: n != len(args)))
        return Wrong((args + [None, None])[:count], plan, "")
    i = draw(st.integers(0, len(args) - 1))
    argument = signature.arguments[i]
    if argument.kind == "float":
        value, named = draw(st.sampled_from(NO_NUMBERS)), argument.name
    elif argument.kind == "none":
        value, named = torch.ones(3), argument.name
    else:
        value, named = draw(wrong_tensor(argument, args[i]))
    return Wrong([*args[:i], value, *args[i + 1 :]], plan, named)


@st.composite
def wrong_tensor(
    draw: st.DrawFn, argument: index.Argument, x: torch.Tensor
) -> tuple[Any, str | None]:
    """(what is passed in x's place, what the refusal must name)."""
    sizes, strides, name = list(x.shape), list(x.stride()), argument.name
    kind = draw(st.sampled_from(("kind", "dtype", "meta", "sparse", "rank", "size", "layout")))
    if kind == "kind":
        return draw(st.sampled_from(NO_TENSORS)), name
    if kind == "dtype":
        dtype = draw(st.sampled_from([d for d in DTYPES if d != x.dtype]))
        return torch.empty_strided(sizes, strides, dtype=dtype), name
    if kind == "meta":
        return x.to("meta"), name
    if kind == "sparse":
        return torch.sparse_coo_tensor(size=sizes, dtype=x.dtype), ""  # PyTorch refuses it
    if kind == "rank":
        fewer = [x.select(d, 0) for d in range(x.dim()) if sizes[d]]
        return draw(st.sampled_from([x.unsqueeze(0), x.unsqueeze(-1), *fewer])), name
    d = draw(st.integers(0, x.dim() - 1))
    if kind == "size":
        rule, size = argument.sizes[d], draw(INTEGERS)
        most = x.shape[d] if rule == index.AT_MOST_NUM_TOKENS else size - 1
        sizes[d] = size
        changed = rule is not None and size != x.shape[d] and most < size
        strides[d] = strides[d] if size < 1 << 16 else 0
        # Where the first argument has another number of tokens, those of the others are wrong.
        blamed = "" if d == 0 and rule == index.NUM_TOKENS else name
        return _view(x, sizes, strides, 0), blamed if changed else None
    strides[d] = draw(INTEGERS)
    refused = argument.unit_strides[d] and strides[d] != 1 and sizes[d] > 1
    return _view(x, sizes, strides, draw(st.integers(0, 20))), name if refused else None


def _view(x: torch.Tensor, sizes: list[int], strides: list[int], offset: int) -> torch.Tensor:
    """Of RESERVED; strides that lead out of it become 0."""
    memory = RESERVED.view(x.dtype)
    while sum(max(0, n - 1) * s for n, s in zip(sizes, strides, strict=True)) + offset >= len(
        memory
    ):
        strides[max(range(len(strides)), key=lambda d: strides[d] * sizes[d])] = 0
    return memory.as_strided(sizes, strides, offset)


def main(built: Path, pack: Path) -> None:
    os.environ["HELION_KERNELS_CUDA_DRIVER"] = str(built / "mock_cuda.so")
    native.load(OPS.values(), built / "helion_kernels_native.so")
    launches = ctypes.CDLL(str(built / "mock_cuda.so")).mock_launches
    launches.restype = ctypes.c_int64
    kernels = native.Pack.open(pack, 0)
    plans = {name: planned(kernels, name) for name in SMALL}
    outcomes = {"refused": 0, "launched": 0}

    @settings(max_examples=3000, deadline=None, database=None, suppress_health_check=HealthCheck)
    @given(st.data())
    def fuzz(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(SMALL)))
        number, found, _ = plans[name]
        signature = signature_of(kernels, found[0])
        args = arguments(signature, data.draw(st.sampled_from([1, 5, 65])), 0, "cpu")
        args, plan, named = data.draw(wrong(signature, args, number))
        before = launches()
        try:
            native.operator(name)(*args, plan)
        except (RuntimeError, TypeError) as error:
            why = str(error)
        else:
            assert named is None, f"{named!r} was not refused"
            assert launches() - before in (0, 1)
            outcomes["launched"] += 1
            return
        outcomes["refused"] += 1
        assert launches() == before
        assert name in why, why
        names = [named] if named is not None else [a.name for a in signature.arguments]
        assert any(one in why for one in names), f"{named!r} is not named: {why}"

    torch.set_printoptions(threshold=8, edgeitems=1)
    fuzz()
    print(outcomes)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
