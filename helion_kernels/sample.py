# SPDX-License-Identifier: Apache-2.0
"""Arguments for an op: random ones to run it, symbolic ones to compile it without running."""

from collections.abc import Sequence
from typing import Any

import torch
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

POISON = 0x7F
"""Byte that fills outputs: NaN in float8_e4m3fn, 3.4e38 in bf16 and float32."""


class Random:
    """Fresh random tensors on a device, from a seed; outputs are poisoned."""

    def __init__(self, device: torch.device | str, seed: int = 0) -> None:
        self.device = torch.device(device)
        self.generator = torch.Generator(device=self.device).manual_seed(seed)

    def empty(self, shape: Sequence[int], dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        out = torch.empty(tuple(shape), dtype=dtype, device=self.device)
        out.view(torch.uint8).fill_(POISON)
        return out

    def zeros(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(tuple(shape), dtype=dtype, device=self.device)

    def randn(
        self, shape: Sequence[int], dtype: torch.dtype, mean: float = 0.0, std: float = 1.0
    ) -> torch.Tensor:
        x = torch.randn(tuple(shape), generator=self.generator, device=self.device)
        limit = torch.finfo(dtype).max
        return x.mul_(std).add_(mean).clamp_(-limit, limit).to(dtype)

    def uniform(self, shape: Sequence[int], low: float, high: float) -> torch.Tensor:
        x = torch.rand(tuple(shape), generator=self.generator, device=self.device)
        return x.mul_(high - low).add_(low)

    def integers(self, shape: Sequence[int], low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high, tuple(shape), generator=self.generator, device=self.device)

    def permutation(self, count: int, high: int) -> torch.Tensor:
        return torch.randperm(high, generator=self.generator, device=self.device)[:count]

    def table(self, rows: int, columns: int, high: int) -> torch.Tensor:
        return self.integers((rows, columns), 0, high).to(torch.int32)


class Symbolic:
    """Fake CUDA tensors whose num_tokens is a symbol: compiling needs neither memory nor a GPU."""

    HINT = 1024

    def __init__(self, device: torch.device | str = "cuda") -> None:
        self.device = torch.device(device)
        self.shapes = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=self.shapes)
        self.num_tokens = self._symbol("num_tokens")

    def _symbol(self, name: str) -> Any:
        """A torch.SymInt, for use as an int."""
        source = ConstantSource(name)
        symbol = self.shapes.create_symbol(self.HINT, source=source, dynamic_dim=DimDynamic.DYNAMIC)
        return self.shapes.create_symintnode(symbol, hint=self.HINT, source=source)

    def empty(self, shape: Sequence[int], dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        with self.mode:
            return torch.empty(tuple(shape), dtype=dtype, device=self.device)

    def zeros(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        return self.empty(shape, dtype)

    def randn(
        self, shape: Sequence[int], dtype: torch.dtype, mean: float = 0.0, std: float = 1.0
    ) -> torch.Tensor:
        return self.empty(shape, dtype)

    def uniform(self, shape: Sequence[int], low: float, high: float) -> torch.Tensor:
        return self.empty(shape, torch.float32)

    def integers(self, shape: Sequence[int], low: int, high: int) -> torch.Tensor:
        return self.empty(shape, torch.int64)

    def permutation(self, count: int, high: int) -> torch.Tensor:
        # A symbol of its own: the kernel must not assume that it equals num_tokens.
        return self.empty((self._symbol("num_slots"),), torch.int64)

    def table(self, rows: int, columns: int, high: int) -> torch.Tensor:
        # An engine's is as wide as its longest sequence: no width is compiled for.
        return self.empty((rows, self._symbol("num_columns")), torch.int32)
