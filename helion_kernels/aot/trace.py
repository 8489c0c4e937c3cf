# SPDX-License-Identifier: Apache-2.0
"""Which of an op's sizes, strides and pointers a generated kernel is given.

The generated host function is run on tensors whose every stride, and every size that may differ
from call to call, is a symbol of its own: what it hands to its launcher are then formulas in them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from helion_kernels.aot import expression
from helion_kernels.aot.expression import Expression, Inexpressible, Leaf
from helion_kernels.op import Op
from helion_kernels.sample import Symbolic

OPEN = {
    ("block_table", 1): None,
    ("cos_sin_cache", 0): None,
    ("kv_cache", 0): None,
    ("kv_cache", 2): None,
    ("slot_mapping", 0): "num_tokens",
}
"""Sizes that neither num_tokens nor the static dims decide -> what they may not exceed."""


DECIDED = {("kv_cache", 2), ("slot_mapping", 0)}
"""But for ops of a decode step: their dims name the block size, and each token has a slot."""


def is_open(op: Op, argument: str, d: int) -> bool:
    """Whether calls of op may differ in that size."""
    decided = (argument, d) in DECIDED and "block_size" in op.dims._fields  # type: ignore[attr-defined]
    return (argument, d) in OPEN and not decided


WIDE = {"kv_cache"}
"""Tensors that kernels address in 64 bits; others must span less than 2^31 elements."""

_PAD = 16
"""Added to the hints of row strides: rows that touch would be taken for one run of memory."""


@dataclass(frozen=True)
class Pointer:
    """An argument's data pointer plus an offset in bytes."""

    argument: int
    offset: Expression


@dataclass(frozen=True)
class Scalar:
    """A floating-point argument, as it is."""

    argument: int


Origin = Pointer | Scalar | Expression


@dataclass
class Trace:
    """An op's arguments as symbols, and what a host function makes of them."""

    args: tuple[Any, ...]
    leaves: dict[sympy.Symbol, Leaf]
    num_tokens: Leaf = ("size", 0, 0)
    grid: list[Expression] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    def _capture(self, kernel: Any, grid: Sequence[Any], *args: Any, **options: Any) -> None:
        self.grid = [expression.of(extent, self.leaves) for extent in grid]
        self.origins = [self._origin(value) for value in args]
        self.options = options

    def _origin(self, value: Any) -> Origin:
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()._cdata
            for i, arg in enumerate(self.args):
                if isinstance(arg, torch.Tensor) and arg.untyped_storage()._cdata == storage:
                    offset = value.storage_offset() * value.element_size()
                    return Pointer(i, expression.of(offset, self.leaves))
            raise Inexpressible("a kernel is given a tensor that is none of the op's")
        if isinstance(value, float):
            for i, arg in enumerate(self.args):
                if isinstance(arg, float) and arg == value:
                    return Scalar(i)
            raise Inexpressible(f"a kernel is given {value}, which is none of the op's scalars")
        return expression.of(value, self.leaves)


def trace(op: Op, dims: tuple[Any, ...], function: Callable[..., None]) -> Trace:
    """function: the host function that Helion generates for op at dims."""
    names = [argument.name for argument in op.arguments]
    sampled = Symbolic()
    with sampled.mode:
        args = op.sample(op.dims(*dims), sampled.num_tokens, sampled)
    make = _Symbols()
    traced = Trace(
        tuple(
            make.tensor(i, op, name, arg, sampled.num_tokens)
            if isinstance(arg, torch.Tensor)
            else _marked(i, arg)
            for i, (name, arg) in enumerate(zip(names, args, strict=True))
        ),
        make.leaves,
    )
    with make.mode:
        function(*op.kernel_args(*traced.args), _launcher=traced._capture)
    return traced


def _marked(i: int, arg: Any) -> Any:
    """A float that no other argument equals."""
    return 1.25 + i / 1024 if isinstance(arg, float) else arg


class _Symbols:
    """Makes the tensors, and remembers what each symbol stands for."""

    def __init__(self) -> None:
        self.shapes = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=self.shapes)
        self.leaves: dict[sympy.Symbol, Leaf] = {}
        self.num_tokens = self._symbol("size", 0, 0, Symbolic.HINT)

    def _symbol(self, kind: str, i: int, d: int, hint: int) -> torch.SymInt:
        source = ConstantSource(f"{kind}_{i}_{d}")
        symbol = self.shapes.create_symbol(hint, source=source, dynamic_dim=DimDynamic.DYNAMIC)
        self.leaves[symbol] = kind, i, d
        return self.shapes.create_symintnode(symbol, hint=hint, source=source)

    def tensor(
        self, i: int, op: Op, name: str, like: torch.Tensor, num_tokens: torch.SymInt
    ) -> Any:
        sizes: list[Any] = []
        strides: list[Any] = []
        for d, (size, stride) in enumerate(zip(like.shape, like.stride(), strict=True)):
            if is_open(op, name, d):
                sizes.append(self._symbol("size", i, d, hint_of(size)))
            elif is_num_tokens(size, num_tokens):
                sizes.append(self.num_tokens)
            else:
                sizes.append(int(size))
            one = isinstance(stride, int) and stride == 1
            strides.append(1 if one else self._symbol("stride", i, d, hint_of(stride) + _PAD))
        with self.mode:
            return torch.empty_strided(sizes, strides, dtype=like.dtype, device=like.device)


def is_num_tokens(size: Any, num_tokens: torch.SymInt) -> bool:
    return isinstance(size, torch.SymInt) and size.node.expr == num_tokens.node.expr


def hint_of(value: Any) -> int:
    return value.node.hint if isinstance(value, torch.SymInt) else value
