# SPDX-License-Identifier: Apache-2.0
"""How far an op is from float64 on heavy-tailed inputs, beside what its outputs' types force."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from benchmarks import reference, stock
from benchmarks.heavy_tails import Tails
from helion_kernels import plan
from helion_kernels.accuracy import ACCUMULATION, Expected, expect, fresh_outputs, problems
from helion_kernels.fp8 import FP8, FP8_MAX, GROUP
from helion_kernels.op import Op
from helion_kernels.sample import Random

STOCK_ACCUMULATION = 2.0**-6
"""Where a bucket is stock's: CUTLASS leaves all of K to the tensor core (scaled_mm)."""
EPSILON = 1e-6


class Error(NamedTuple):
    rms: float
    """Root mean square of the error over that of the token's values; the same over tokens."""
    max: float
    """Largest error over the largest magnitude of its token; the largest of all tokens."""


def quantise(x: torch.Tensor, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x [R, C] by blocks of rows x columns: (float8 [R, C], float32 scales, one a block).

    Raises RuntimeError where blocks do not divide x.
    """
    blocks = x.unflatten(1, (-1, columns)).unflatten(0, (-1, rows))
    scale = blocks.abs().amax((1, 3), keepdim=True) / FP8_MAX
    return (blocks / scale).to(FP8).reshape(x.shape), scale.squeeze((1, 3))


def activation_group(gemm: str, k: int) -> tuple[int, int]:
    """Tokens x elements that share a scale in the op of that name."""
    return 1, k if gemm == "scaled_mm" else GROUP


def weight_group(gemm: str, k: int) -> tuple[int, int]:
    """Rows x elements of weights that do."""
    return (GROUP, GROUP) if gemm == "scaled_mm_blockwise" else (1, k)


def cos_sin(
    positions: int, head_dim: int, device: torch.device, theta: float = 1e6
) -> torch.Tensor:
    """The rotary table of Qwen3 [positions, head_dim] bf16: cosines, then sines."""
    exponents = torch.arange(0, head_dim, 2, device=device).double() / head_dim
    angles = torch.outer(torch.arange(positions, device=device).double(), theta**-exponents)
    return torch.cat((angles.cos(), angles.sin()), dim=-1).to(torch.bfloat16)


def arguments(
    op: Op, dims: tuple[Any, ...], num_tokens: int, device: torch.device, seed: int
) -> tuple[Any, ...]:
    """What op.sample makes, outputs poisoned, with inputs as a trained model has them."""
    args = list(op.sample(op.dims(*dims), num_tokens, Random(device, seed)))
    tails = Tails(device, seed)
    names = [argument.name for argument in op.arguments]

    def put(name: str, value: torch.Tensor) -> None:
        args[names.index(name)].copy_(value)

    residual = "residual" in names and args[names.index("residual")] is not None
    for name in names:
        value = args[names.index(name)]
        if name == "residual" and residual:
            put(name, tails.stream(*value.shape))
        elif name in ("input", "qkv"):
            # A norm without a residual is a model's first: its input is the stream.
            stream = "residual" in names and not residual
            put(name, tails.stream(*value.shape) if stream else tails.activations(*value.shape))
        elif name == "weight":
            put(name, tails.norm_weight(len(value)))
        elif name in ("q_weight", "k_weight"):
            put(name, tails.head_norm_weight(len(value)))
        elif name == "kv_cache" and "block_table" in names:
            put(name, tails.student(*value.shape))
            slots = args[names.index("slot_mapping")]
            place = slots // value.shape[2], slice(None), slots % value.shape[2]
            value[place] = Random(device, seed).empty(value[place].shape)
        elif name == "cos_sin_cache":
            put(name, cos_sin(value.shape[0], value.shape[1], device))
    if "scale_a" in names:
        k, n = args[2].shape
        values, scale = quantise(tails.activations(num_tokens, k), *activation_group(op.name, k))
        put("a", values)
        put("scale_a", scale)
        weight = tails.weight(n, k)
        weight, scale = quantise(weight, *weight_group(op.name, k))
        args[2], args[4] = weight.t(), scale
    return tuple(args)


def values(op: Op, args: tuple[Any, ...], rounded: bool = False) -> dict[str, torch.Tensor]:
    """Name -> what an output means, float64 [M, ...]: float8 times its scales.

    rounded: args are exact, and outputs are first rounded to their types. The residual is left
    out: it is right to the bit or wrong (`accuracy`).
    """
    named = {argument.name: value for argument, value in zip(op.arguments, args, strict=True)}
    found = {}
    for i in op.outputs:
        name, value = op.arguments[i].name, args[i]
        if name in ("residual", "scale"):
            continue
        if name != "kv_cache" and named.get("scale") is not None:
            scale = named["scale"]
            if rounded:
                value = reference.fp8(value.double(), torch.ones((), device=value.device))
                scale = scale.float()
            groups = value.double().unflatten(1, (scale.shape[1], -1))
            value = (groups * scale.double().unsqueeze(-1)).flatten(1)
        elif rounded:
            value = value.to(torch.bfloat16)
        if name == "kv_cache":
            slots = named["slot_mapping"]
            size = value.shape[2]
            value = value[slots // size, :, slots % size]
        found[name] = value.double()
    return found


def error(exact: torch.Tensor, got: torch.Tensor) -> Error:
    """Of values [M, ...]. NaN is carried through."""
    exact, wrong = exact.flatten(1), (got - exact).abs().flatten(1)
    mean = wrong.square().mean(1) / exact.square().mean(1)
    largest = wrong.amax(1) / exact.abs().amax(1)
    return Error(float(mean.mean().sqrt()), float(largest.max()))


def run_stock(op: Op, arm: stock.Arm, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """args with the outputs of stock's kernels, which rotate queries and keys in qkv's place."""
    actual = list(fresh_outputs(op, args))
    names = [argument.name for argument in op.arguments]
    if "qkv" not in names:
        arm(*actual)()
        return tuple(actual)
    qkv = names.index("qkv")
    actual[qkv] = actual[qkv].clone()
    arm(*actual)()
    start = 0
    for name in ("q_out", "k_out"):
        if name in names:
            out = actual[names.index(name)]
            out.copy_(actual[qkv][:, start : start + out.shape[1]])
            start += out.shape[1]
    return tuple(actual)


def row(arm: str, op: Op, expected: Expected, actual: tuple[Any, ...]) -> dict[str, Any]:
    exact, got = values(op, expected.args), values(op, actual)
    return {"arm": arm, "errors": {name: error(exact[name], got[name])._asdict() for name in exact}}


def rows(
    op: Op,
    dims: tuple[Any, ...],
    plan_id: int,
    num_tokens: int,
    device: torch.device,
    seed: int,
    with_stock: bool,
) -> list[dict[str, Any]]:
    """What the type forces, ours (with what `accuracy` finds wrong), and stock's arms."""
    chosen = plan.PLANS[plan_id]
    args = arguments(op, dims, num_tokens, device, seed)
    expected = expect(op, args)
    common = {"op": op.name, "dims": list(dims), "num_tokens": num_tokens}

    exact, forced = values(op, expected.args), values(op, expected.args, rounded=True)
    errors = {name: error(exact[name], forced[name])._asdict() for name in exact}
    found: list[dict[str, Any]] = [{**common, "arm": "rounding", "errors": errors}]

    function, number = plan.entry(plan_id)
    actual = fresh_outputs(op, args)
    function(*actual, number)
    kind = chosen.kinds[chosen.bucket_of[min(num_tokens, len(chosen.bucket_of) - 1)]]
    allowed = ACCUMULATION[device.type]
    if kind == "stock" and op.name == "scaled_mm":
        allowed = STOCK_ACCUMULATION
    wrong = problems(op, expected, actual, allowed)
    found.append(
        {**common, **row("ours", op, expected, actual), "launcher": kind, "problems": wrong}
    )
    arms: dict[str, Callable[..., Any]] = stock.arms(op.name, dims) if with_stock else {}
    for name, arm in arms.items():
        try:
            actual = run_stock(op, arm, args)
            found.append({**common, **row(name, op, expected, actual)})
        except Exception as failure:  # of upstream's, on sizes that it does not take
            note = (str(failure).splitlines() or [repr(failure)])[0]
            found.append({**common, "arm": name, "note": note})
    return found
