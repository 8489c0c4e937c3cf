# SPDX-License-Identifier: Apache-2.0
"""Inputs on which an FP8 sum is hard, and a model of the tensor core that sums them."""

from typing import Any

import torch

from benchmarks.heavy_tails import Tails
from benchmarks.op_errors import activation_group, quantise, weight_group
from helion_kernels import OPS
from helion_kernels.accuracy import Expected
from helion_kernels.fp8 import FP8, GROUP
from helion_kernels.sample import Random

K = (4096, 12288, 25600)
"""Of the models: hidden size and intermediate size of 8B, the latter of 32B."""
INPUTS = ("positive", "heavy", "heavy positive")
WORST = 4 * 34 * 2.0**-13
"""Of the sum of magnitudes, for any input: 0.017. A K tile of 128 takes four instructions, and each
cuts up to 2^-13 of the largest off 32 products, the running sum, and the new one."""


def arguments(
    name: str, kind: str, num_tokens: int, n: int, k: int, device: str, seed: int
) -> tuple[Any, ...]:
    """A GEMM's arguments, output poisoned.

    positive: normal values without their signs, so that nothing cancels and what is lost adds up.
    heavy: heavy-tailed weights and activations with outlier channels, quantised as their format is:
    in a tile that has an outlier the other products are small beside the largest, to which all are
    aligned. heavy positive: both. spiked: near the worst case, a tile's first product 2^13 times as
    large as the least that is not cut off whole, and the others just below that.
    """
    op = OPS[name]
    args = list(op.sample(op.dims(n, k), num_tokens, Random(device, seed)))
    if kind.startswith("heavy"):
        tails = Tails(device, seed)
        group = activation_group(name, k)
        args[1], scale = quantise(tails.activations(num_tokens, k), *group)
        args[3].copy_(scale)
        weight, scale = quantise(tails.weight(n, k), *weight_group(name, k))
        args[2], args[4] = weight.t(), scale
    if kind == "spiked":
        for i, (first, rest) in ((1, (256.0, 1.0)), (2, (256.0, 7.5))):
            spikes = torch.full((k,), rest, device=device)
            spikes[::GROUP] = first
            rows = spikes.to(FP8).repeat(num_tokens if i == 1 else n, 1)
            args[i] = rows if i == 1 else rows.t()
    if kind.endswith("positive"):
        for i in (1, 2):
            args[i] = (args[i].view(torch.uint8) & 0x7F).view(FP8)
    return tuple(args)


def mean_error(expected: Expected, actual: tuple[Any, ...]) -> float:
    """Of the outputs, signed, relative to the sum of magnitudes: rounding to bf16 cancels in it,
    what is cut off does not.
    """
    assert expected.magnitude is not None
    error = (actual[0].double() - expected.args[0]) / expected.magnitude.double().clamp(min=1e-30)
    return float(error.mean())


def tensor_core(a: torch.Tensor, b: torch.Tensor, step: int, bits: int = 13) -> torch.Tensor:
    """a @ b, float64 [M, N], as Hopper's WGMMA sums FP8, from zero anew after every `step` of K.

    An instruction takes 32 products and the running sum, aligns all to the largest, cuts off what
    lies more than `bits` bits below its first one, and adds. 13 is what DeepGEMM's authors and
    PyTorch's found ("FP22": https://github.com/deepseek-ai/DeepGEMM/issues/176), and with it a K
    tile of 256 breaks the bound of `accuracy` in 3 % of the elements as it did on an H100
    (docs/performance-log.md: 2.7 %).
    """

    def cut(x: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
        unit = torch.exp2(torch.floor(torch.log2(largest.clamp(min=1e-300))) - bits)
        return torch.trunc(x / unit) * unit

    total = torch.zeros(a.shape[0], b.shape[1], dtype=torch.double)
    columns = b.t()[None]
    for start in range(0, a.shape[1], step):
        running = torch.zeros_like(total).unsqueeze(-1)
        for k in range(start, min(start + step, a.shape[1]), 32):
            terms = torch.cat((running, a[:, None, k : k + 32] * columns[..., k : k + 32]), -1)
            running = cut(terms, terms.abs().amax(-1, keepdim=True)).sum(-1, keepdim=True)
            running = cut(running, running.abs())
        total += running.squeeze(-1)
    return total
