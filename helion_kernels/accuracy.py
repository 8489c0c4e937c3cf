# SPDX-License-Identifier: Apache-2.0
"""How near an op's outputs must be to its float64 reference.

Tests, benchmarks and the tuner share it.

The bounds, by what is compared:

- float8: a value to which a quotient within QUOTIENT_RTOL of the exact one rounds. At a rounding
  tie (frequent: bf16 inputs are short) these are two neighbours, elsewhere it is one value.
- float32 scales: SCALE_RTOL, relative.
- the residual: equal, bit for bit (one float32 addition and one rounding determine it).
- bf16: the unit roundoff 2^-8 of the exact value, plus float32 noise relative to the row.
- a GEMM's bf16: the unit roundoff, plus `accumulation` x sum |a| |b|: what the multiplying unit
  may lose. CPU: float32 sums. GPU: a Hopper FP8 WGMMA aligns each product to the largest term of
  its sum and cuts it off 13 bits below. Of a K tile of 128 that stays below 2^-10 of the sum of
  magnitudes, of one of 256 it does not (measured: docs/performance-log.md); the float32 sum over
  tiles adds nothing of that order. So it is for values as models have them, heavy tails and outlier
  channels included. Whatever they are it stays below 0.017: a product 2^13 times as large as the
  others hides its tile (tests/helion_kernels/accumulation.py).
- attention's bf16: the unit roundoff, plus WEIGHTS x sum p |v|: the weights of values are bf16 for
  the tensor core, as FlashAttention's.
"""

from dataclasses import dataclass
from typing import Any

import torch

from helion_kernels.fp8 import FP8, FP8_MAX, GROUP_EPS
from helion_kernels.op import Op

SCALE_RTOL = 1e-6
QUOTIENT_RTOL = 2e-6
UNIT_ROUNDOFF = 2.0**-8 * (1 + 2.0**-8)
UNDERFLOW = 2.0**-134 * (1 + 2.0**-8)
"""Half the spacing of bf16 below its smallest normal number: there the roundoff is not relative."""
NOISE = 1e-5
WEIGHTS = 2.0**-8 * 1.0625
"""The unit roundoff of bf16, and a sixteenth for the float32 arithmetic before it."""
ACCUMULATION = {"cpu": 2.0**-20, "cuda": 2.0**-10}


@dataclass(frozen=True)
class Expected:
    args: tuple[Any, ...]
    """The op's arguments after its reference ran; float8 and bf16 outputs unrounded, in float64."""
    magnitude: torch.Tensor | None
    """GEMM, attention: the sum of the products' magnitudes, scaled as the output."""


def copy_of(tensor: torch.Tensor) -> torch.Tensor:
    """A copy with the same strides."""
    return torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
    ).copy_(tensor)


def fresh_outputs(op: Op, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """args whose written tensors are copies, so that args can serve again."""
    return tuple(
        copy_of(value) if i in op.outputs and value is not None else value
        for i, value in enumerate(args)
    )


def expect(op: Op, args: tuple[Any, ...]) -> Expected:
    """Run op's reference on a copy of args."""
    copies = list(fresh_outputs(op, args))
    for i in op.outputs:
        # A residual must be right to the bit: it keeps its type.
        if copies[i] is not None and not _residual(op, i):
            copies[i] = copies[i].double()
    op.reference(*copies)
    return Expected(tuple(copies), _magnitude(op, args))


def problems(
    op: Op, expected: Expected, actual: tuple[Any, ...], accumulation: float | None = None
) -> list[str]:
    """What is wrong with the outputs in actual, one line each; empty if nothing is."""
    found = []
    for i in op.outputs:
        if actual[i] is None:
            continue
        want, got = expected.args[i], actual[i]
        if _attends(op) and actual[-1] is not None and op.arguments[i].name != "kv_cache":
            if i == 0:  # and its scale
                found += _quantised_attention(op, expected, actual)
            continue
        if got.dtype == FP8:
            wrong = float8_problem(want, got)
        elif got.dtype == torch.float32:
            wrong = _over(got.double(), want, SCALE_RTOL * want.abs())
        elif _residual(op, i):
            wrong = _over(got.double(), want.double(), torch.zeros_like(want, dtype=torch.double))
        elif expected.magnitude is not None and i == 0:
            lost = WEIGHTS
            if _is_gemm(op):
                lost = ACCUMULATION[got.device.type] if accumulation is None else accumulation
            bound = UNIT_ROUNDOFF * want.abs() + lost * expected.magnitude
            wrong = _over(got.double(), want, bound + UNDERFLOW)
        else:
            noise = NOISE * want.abs().amax(-1, keepdim=True).clamp(max=1e3)
            wrong = _over(got.double(), want, UNIT_ROUNDOFF * want.abs() + noise + UNDERFLOW)
        if wrong:
            found.append(f"{op.name}: {op.arguments[i].name} {wrong}")
    return found


def float8_problem(want: torch.Tensor, got: torch.Tensor) -> str:
    """want: exact quotients, float64."""
    if want.numel() == 0:
        return ""
    near = [_ordinal((want * (1.0 + sign * QUOTIENT_RTOL)).to(torch.float32)) for sign in (-1, 1)]
    low, high = torch.minimum(*near), torch.maximum(*near)
    code = _ordinal(got)
    steps = torch.maximum(low - code, code - high).clamp(min=0)
    if int(steps.max()) == 0:
        return ""
    at = _where(steps)
    return (
        f"is wrong in {int((steps > 0).sum())} of {want.numel()} places, most at {at}, by "
        f"{int(steps[at])} float8 steps: {got[at].item()}, expected {want[at].item():.9g}"
    )


def _ordinal(x: torch.Tensor) -> torch.Tensor:
    """Consecutive integers for consecutive float8 values; -0 is 0 and NaN is far from all.

    Float32 is rounded to float8 first.
    """
    clamped = x if x.dtype == FP8 else x.clamp(-FP8_MAX, FP8_MAX).to(FP8)
    code = clamped.view(torch.uint8).to(torch.int32)
    size = code & 0x7F
    size = torch.where(size == 0x7F, 10_000, size)
    return torch.where(code >= 0x80, -size, size)


def _over(got: torch.Tensor, want: torch.Tensor, bound: torch.Tensor) -> str:
    """got is to lie within bound of want. NaN never does, infinity only if want is the same."""
    if want.numel() == 0:
        return ""
    error = torch.where(got == want, 0.0, (got - want).abs())
    excess = torch.nan_to_num(error - bound, nan=torch.inf)
    if float(excess.max()) <= 0.0:
        return ""
    at = _where(excess)
    count = int((excess > 0.0).sum())
    return (
        f"is wrong in {count} of {want.numel()} places, most at {at}: {got[at].item():.9g}, "
        f"expected {want[at].item():.9g} within {bound[at].item():.3g}"
    )


def _where(x: torch.Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(x.argmax(), x.shape))


def _residual(op: Op, i: int) -> bool:
    return op.arguments[i].name == "residual"


def _quantised_attention(op: Op, expected: Expected, actual: tuple[Any, ...]) -> list[str]:
    """Of a head's values and scale only the product can be told; the largest value is FP8_MAX."""
    assert expected.magnitude is not None
    (want, *_, scale), (got, *_, got_scale) = expected.args, actual
    want, got = (
        (x.double().unflatten(-1, (scale.shape[-1], -1)), s.double().unsqueeze(-1))
        for x, s in ((want, scale), (got, got_scale))
    )
    exact, rounded = want[0] * want[1], got[0] * got[1]
    lost = WEIGHTS * expected.magnitude.view_as(exact)
    # float8's unit roundoff, and half of what its denormals are apart.
    wrong = _over(rounded, exact, 2.0**-4 * exact.abs() + 1.07 * lost + 2.0**-10 * got[1])
    found = [f"{op.name}: out {wrong}"] if wrong else []
    if wrong := _over(
        got[1], want[1], lost.amax(-1, keepdim=True) / FP8_MAX + SCALE_RTOL * want[1]
    ):
        found.append(f"{op.name}: scale {wrong}")
    largest = got[0].abs().amax(-1, keepdim=True)
    full = torch.where(got[1] > 1.01 * GROUP_EPS / FP8_MAX, FP8_MAX, largest)
    if wrong := _over(largest, full, torch.zeros_like(full)):
        found.append(f"{op.name}: a head's largest value {wrong}")
    return found


def _attends(op: Op) -> bool:
    return {"kv_cache", "qkv", "block_table"} <= {argument.name for argument in op.arguments}


def _is_gemm(op: Op) -> bool:
    return {"a", "b", "scale_a", "scale_b"} <= {argument.name for argument in op.arguments}


def _magnitude(op: Op, args: tuple[Any, ...]) -> torch.Tensor | None:
    total = torch.empty_like(args[0], dtype=torch.float32)
    if _is_gemm(op):
        _, a, b, *scales = args
        op.reference(total, _absolute(a), _absolute(b), *scales)
    elif _attends(op):
        _, kv_cache, slots, qkv, *rest, _, _ = args
        kv_cache, qkv = copy_of(kv_cache), copy_of(qkv)
        values = kv_cache.shape[1] * kv_cache.shape[3] // 2
        kv_cache.chunk(2, dim=-1)[1].abs_()
        qkv[..., -values:].abs_()
        op.reference(total, kv_cache, slots, qkv, *rest)
    else:
        return None
    return total


def _absolute(x: torch.Tensor) -> torch.Tensor:
    """|x| of float8: the sign bit cleared. Keeps strides."""
    return copy_of(x).view(torch.uint8).bitwise_and_(0x7F).view(x.dtype)
