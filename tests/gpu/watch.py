# SPDX-License-Identifier: Apache-2.0
"""Compares what the replays of a CUDA graph write with what they should, bit for bit."""

from collections.abc import Callable, Sequence

import torch

from helion_kernels.sample import POISON

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
_NEVER = 1 << 30

Written = list[tuple[str, torch.Tensor]]
"""(what, tensor), in the order of launches."""


def bits(x: torch.Tensor) -> torch.Tensor:
    """x as integers; any strides."""
    return x.view(_WORDS[x.element_size()])


def poison(x: torch.Tensor) -> None:
    bits(x).fill_(int.from_bytes(bytes([POISON]) * x.element_size(), "little"))


def at_rest(launches: Written) -> Written:
    """Without tensors that a later launch writes again: after a step they hold what that wrote."""
    last = {x.data_ptr(): i for i, (_, x) in enumerate(launches)}
    return [(name, x) for i, (name, x) in enumerate(launches) if last[x.data_ptr()] == i]


def replay(
    written: Sequence[tuple[str, torch.Tensor]],
    expected: Sequence[Sequence[torch.Tensor]],
    times: int,
    run: Callable[[int], None],
) -> str:
    """Empty, or which replay differs first, and in which output of it.

    run(i) writes inputs and replays; expected[i % len(expected)] is what `written` must then hold.
    Counts on the GPU, which waits for nothing in between.
    """
    first = [torch.full((), _NEVER, device=x.device) for _, x in written]
    for i in range(times):
        for _, x in written:
            poison(x)
        run(i)
        right = expected[i % len(expected)]
        for at, ((_, x), want) in enumerate(zip(written, right, strict=True)):
            differs = (bits(x) != bits(want)).any()
            first[at] = torch.where(differs, first[at].clamp(max=i), first[at])
    return _first(written, [int(x) for x in torch.stack(first).tolist()], times)


def _first(written: Sequence[tuple[str, torch.Tensor]], first: list[int], times: int) -> str:
    met = min(first)
    if met == _NEVER:
        return ""
    at = first.index(met)
    others = sum(x != _NEVER for x in first) - 1
    return (
        f"replay {met} of {times}: output {at + 1} of {len(written)}, {written[at][0]}, is the "
        f"first to differ; {others} more differ in one replay or another"
    )
