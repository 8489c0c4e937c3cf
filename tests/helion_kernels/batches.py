# SPDX-License-Identifier: Apache-2.0
"""What an op makes of a token, alone and in any batch: the same bits, or it is not batch invariant.

GEMMs get tokens and weights whose products cancel: the second half of K is the first one negated.
What is left is the rounding of partial sums, so that another order of adding changes most outputs;
of random sums bf16 would hide it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from helion_kernels.accuracy import copy_of
from helion_kernels.fp8 import GROUP, as_group_scales
from helion_kernels.op import Op
from helion_kernels.sample import Random

PER_TOKEN = {
    "out", "q_out", "k_out", "input", "residual", "scale", "qkv", "positions", "a", "scale_a",
    "q", "block_table", "seq_lens",
}  # fmt: skip
"""Arguments that have a row for each token."""
PER_STEP = ("kv_cache", "slot_mapping")
"""Of every batch its own: no two tokens may have one slot."""


class Tokens:
    """A few tokens, of which batches are made: any of them, in any order, as often as one likes."""

    def __init__(
        self,
        op: Op,
        dims: tuple[Any, ...],
        count: int,
        call: Callable[..., object],
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        self.op, self.call = op, call
        self.sample = lambda size: op.sample(op.dims(*dims), size, Random(device, seed))
        self.names = [argument.name for argument in op.arguments]
        self.args = self.sample(count)
        if "scale_a" in self.names:
            self._cancel()
        self.alone = [self.run([token]) for token in range(count)]

    def _cancel(self) -> None:
        a, b, scale_a, scale_b = (
            self.args[self.names.index(name)] for name in ("a", "b", "scale_a", "scale_b")
        )
        half = b.shape[0] // 2
        assert half % GROUP == 0
        a[:, half:] = a[:, :half]
        b[half:] = (-b[:half].float()).to(b.dtype)
        if scale_a.shape[1] > 1:
            groups = half // GROUP
            scale_a[:, groups:] = scale_a[:, :groups]
            scale_b[:, groups:] = scale_b[:, :groups]

    def run(self, batch: Sequence[int]) -> list[torch.Tensor]:
        """Bits of each output, a row for each token of batch."""
        chosen = torch.tensor(batch, device=self.args[0].device)
        args = list(self.args)
        if "block_table" in self.names:
            self._own_slots(args, len(batch))
        elif PER_STEP[1] in self.names:
            fresh = self.sample(len(batch))
            for i in map(self.names.index, PER_STEP):
                args[i] = fresh[i]
        for i, (name, x) in enumerate(zip(self.names, args, strict=True)):
            if x is None or name not in PER_TOKEN:
                continue
            columns = x.stride(0) < x.stride(-1)  # of scales, one for each group
            args[i] = as_group_scales(x[chosen]) if columns else x[chosen].contiguous()
        self.call(*args)
        return [self._rows(i, tuple(args)) for i in self.op.outputs if args[i] is not None]

    def _own_slots(self, args: list[Any], size: int) -> None:
        """A copy of the cache that all tokens read, and a slot of each in blocks that none does."""
        cache, slots = (self.names.index(name) for name in PER_STEP)
        block_size = args[cache].shape[2]
        assert size <= len(args[slots]) * block_size
        first = int(args[slots].min()) // block_size * block_size
        args[cache] = copy_of(args[cache])
        args[slots] = first + torch.arange(size, device=args[slots].device)

    def _rows(self, i: int, args: tuple[Any, ...]) -> torch.Tensor:
        x = args[i]
        if self.names[i] == "kv_cache":
            slots = args[self.names.index("slot_mapping")]
            x = x.transpose(1, 2).flatten(0, 1)[slots].flatten(1)
        return x.contiguous().view(torch.uint8)

    def changed(self, batch: Sequence[int]) -> list[str]:
        """The tokens of batch whose outputs differ from what they are alone."""
        outputs = [self.names[i] for i in self.op.outputs if self.args[i] is not None]
        found = []
        for name, rows, *alone in zip(outputs, self.run(batch), *self.alone, strict=True):
            want = torch.cat([alone[token] for token in batch])
            places = (rows != want).any(1).nonzero().flatten().tolist()
            found += [f"{name} of token {batch[i]}, {i} of {len(batch)}" for i in places]
        return found
