# SPDX-License-Identifier: Apache-2.0
"""Arguments of any kind for an op (sizes, strides, extremes) as plain data, and what is wrong with
its outputs.

What is not finite must stay visible, and the float64 reference says where:

- NaN in a token (of a group, where scales are per group): its scale and all of its values are NaN.
  Upstream's CUDA kernels lose it: their `fmaxf` passes over NaN, which then becomes 448 or -448.
- infinity: the scale is infinite, values are NaN where the infinity was and 0 elsewhere. After a
  norm, whose mean is infinite, the scale and all values are NaN.
- a GEMM: no output of such a token is finite. A head: as the formula says, element by element.
- attention: no output of such a query's head is finite, nor is its scale.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st

from helion_kernels import OPS
from helion_kernels.accuracy import Expected, expect, problems
from helion_kernels.fp8 import FP8, FP8_MAX, GROUP_EPS
from helion_kernels.op import Op
from helion_kernels.sample import POISON, Random

NAN, INFINITY = float("nan"), float("inf")
OUTLIER = 1e15
"""Whose square is finite in float32, in which norms compute, here and upstream."""
EXTREMES: dict[torch.dtype, tuple[float, ...]] = {
    torch.bfloat16: (0.0, -0.0, 1e-39, OUTLIER, -OUTLIER, INFINITY, -INFINITY, NAN),
    FP8: (0.0, -0.0, 2.0**-9, FP8_MAX, -FP8_MAX, NAN),
    # A scale: none that quantisation makes is smaller, unless it is 0.
    torch.float32: (0.0, GROUP_EPS / FP8_MAX, OUTLIER, INFINITY, NAN),
}
ACTIVATIONS = {
    "input": EXTREMES[torch.bfloat16],
    "residual": EXTREMES[torch.bfloat16],
    "qkv": EXTREMES[torch.bfloat16],
    "a": EXTREMES[FP8],
    "scale_a": EXTREMES[torch.float32],
}
FRAME = 16
"""Rows around every tensor: any width times this keeps addresses aligned to 16 bytes."""


class Edit(NamedTuple):
    """value into an activation: one element, a token's row, or all."""

    argument: str
    value: float
    extent: str
    token: int
    column: int


class Case(NamedTuple):
    """Arguments of an op; plain data, for it travels to other processes."""

    name: str
    dims: tuple[Any, ...]
    num_tokens: int
    margin: int
    """Columns left and right of every tensor: row strides are larger than rows."""
    row_major: bool
    """Scales of groups lie row by row, not column by column."""
    edits: tuple[Edit, ...]
    seed: int


def cases(
    name: str,
    dims: st.SearchStrategy[tuple[Any, ...]],
    most: int,
    margins: Sequence[int] = (0, 1, 8, 16),
) -> st.SearchStrategy[Case]:
    """Of up to `most` tokens."""
    if OPS[name].multiples:  # Strides of its cache are multiples of 8.
        margins = [margin for margin in margins if margin % 8 == 0]
    arguments = [a.name for a in OPS[name].arguments if a.name in ACTIVATIONS]
    edit = st.sampled_from(arguments).flatmap(
        lambda argument: st.builds(
            Edit,
            st.just(argument),
            st.sampled_from(ACTIVATIONS[argument]),
            st.sampled_from(("element", "token", "all")),
            st.integers(0, most - 1),
            st.integers(0, 1 << 12),
        )
    )
    return st.builds(
        Case,
        st.just(name),
        dims,
        st.integers(1, most),
        st.sampled_from(margins),
        st.booleans(),
        st.lists(edit, max_size=3).map(tuple),
        st.integers(0, 2**31),
    )


class Framed(Random):
    """Random tensors inside larger ones full of poison, which must stay as it is."""

    def __init__(self, device: torch.device | str, seed: int, margin: int) -> None:
        super().__init__(device, seed)
        self.margin = margin
        self.frames: list[tuple[torch.Tensor, torch.Tensor]] = []

    def _framed(self, x: torch.Tensor) -> torch.Tensor:
        rows, *inner, columns = x.shape
        shape = (rows + 2 * FRAME, *inner, columns + 2 * self.margin)
        whole = super().empty(shape, x.dtype)
        inside = torch.zeros(shape, dtype=torch.bool, device=self.device)
        place = (slice(FRAME, FRAME + rows), ..., slice(self.margin, self.margin + columns))
        inside[place] = True
        whole[place] = x
        self.frames.append((whole, inside))
        return whole[place]

    def empty(self, shape: Sequence[int], dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return self._framed(super().empty(shape, dtype))

    def randn(
        self, shape: Sequence[int], dtype: torch.dtype, mean: float = 0.0, std: float = 1.0
    ) -> torch.Tensor:
        x = super().randn(shape, dtype, mean, std)
        return self._framed(x) if x.ndim > 1 else x

    def uniform(self, shape: Sequence[int], low: float, high: float) -> torch.Tensor:
        return self._framed(super().uniform(shape, low, high))

    def damaged(self) -> list[str]:
        """Elements around tensors that are no longer poison."""
        counts = []
        for whole, inside in self.frames:
            code = whole.view(torch.uint8).unflatten(-1, (-1, whole.element_size()))
            changed = (code != POISON).any(-1) & ~inside
            counts.append((int(changed.sum()), tuple(whole.shape)))
        return [f"{n} elements written around a tensor of {shape}" for n, shape in counts if n]


def arguments(case: Case, make: Framed) -> tuple[Any, ...]:
    op = OPS[case.name]
    args = list(op.sample(op.dims(*case.dims), case.num_tokens, make))
    names = [argument.name for argument in op.arguments]
    for i, name in enumerate(names):
        if name in ("scale", "scale_a") and case.row_major and args[i] is not None:
            by_row = make.empty(args[i].shape, args[i].dtype)
            args[i] = by_row.copy_(args[i])
    for edit in case.edits:
        if (target := args[names.index(edit.argument)]) is not None:
            token, column = edit.token % target.shape[0], edit.column % target.shape[1]
            place = {"element": (token, column), "token": (token,), "all": ()}[edit.extent]
            target[place] = torch.full((), edit.value, device=target.device).to(target.dtype)
    return tuple(args)


def wrong(case: Case, device: torch.device | str, call: Callable[..., object]) -> list[str]:
    """What is wrong with what `call(*args)` writes, one line each."""
    op, make = OPS[case.name], Framed(device, case.seed, case.margin)
    args = arguments(case, make)
    expected = expect(op, args)
    call(*args)
    return disagreements(op, expected, args) + make.damaged()


def disagreements(op: Op, expected: Expected, actual: tuple[Any, ...]) -> list[str]:
    """`accuracy.problems`, except that NaN is right where the reference has it, and only there."""
    found: list[str] = []
    if (
        expected.magnitude is not None
        and op.arguments[-1].name == "scale"
        and actual[-1] is not None
    ):
        found, expected, actual = _without_lost_heads(op, expected, actual)
    want, got = list(expected.args), list(actual)
    magnitude = expected.magnitude
    for i in op.outputs:
        if got[i] is None:
            continue
        nan = got[i].float().isnan()
        if magnitude is None or i > 0:
            bad = want[i].isnan()
            amiss = nan != bad
        else:  # Its sum may be of either sign where it cancels, and infinity times it too.
            bad = ~magnitude.isfinite()
            amiss = torch.where(bad, got[i].float().isfinite(), nan)
            magnitude = magnitude.masked_fill(bad, 0.0)
        if int(amiss.sum()):
            found.append(
                f"{op.name}: {op.arguments[i].name} in {int(amiss.sum())} places is finite and "
                "should not be, or the reverse"
            )
        bad = bad | amiss
        want[i], got[i] = want[i].masked_fill(bad, 0.0), torch.where(bad, 0.0, got[i].float())
        got[i] = got[i].to(actual[i].dtype)
    return found + problems(op, Expected(tuple(want), magnitude), tuple(got))


def _without_lost_heads(
    op: Op, expected: Expected, actual: tuple[Any, ...]
) -> tuple[list[str], Expected, tuple[Any, ...]]:
    """Of attention's quantised heads those whose scale must not be finite are checked, and 0."""
    assert expected.magnitude is not None
    scale = actual[-1]
    lost = ~expected.magnitude.unflatten(1, (scale.shape[1], -1)).isfinite().all(-1)
    found = [f"{op.name}: a scale is finite"] if scale[lost].isfinite().any() else []
    wide = lost.repeat_interleave(expected.magnitude.shape[1] // scale.shape[1], dim=1)

    def cleared(args: tuple[Any, ...]) -> tuple[Any, ...]:
        out, *rest, scale = args
        values = torch.where(wide, 0.0, out.double()).to(out.dtype)
        return values, *rest, torch.where(lost, 0.0, scale.double()).to(scale.dtype)

    magnitude = torch.where(wide, 0.0, expected.magnitude)
    return found, Expected(cleared(expected.args), magnitude), cleared(actual)
