# SPDX-License-Identifier: Apache-2.0
"""Few tokens of per-token FP8: what of a layer has scales per group, and that it is right."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("vllm.helion")

from helion_kernels import qwen3, split_k
from helion_kernels.fp8 import FP8, GROUP, as_group_scales
from helion_kernels.qwen3 import FEW
from helion_kernels.sample import Random
from vllm.helion.fp8 import PER_TOKEN
from vllm.helion.layer import Call, HelionDecoderLayer

HIDDEN, HEADS, INNER = 256, (2, 1, 128), 384
Q_SIZE = HEADS[0] * HEADS[2]
LOUD = 16
"""So many channels of the MLP are so large that a scale per token leaves nothing of the others."""


class Layer(HelionDecoderLayer):
    """Everything behind attention, which gave `attended`."""

    def __init__(self, num_tokens, few_tokens):
        make = Random("cpu", num_tokens)

        def linear(n, k):
            scale = make.uniform((n, 1), low=1e-4, high=2e-4)
            return SimpleNamespace(weight=make.randn((n, k), FP8, std=60.0), helion_scale=scale)

        def norm():
            weight = make.randn((HIDDEN,), torch.bfloat16)
            return SimpleNamespace(weight=weight, variance_epsilon=1e-6)

        self.format, self.few_tokens = PER_TOKEN, few_tokens
        self.intermediate, self.workspace = INNER, split_k.workspace("cpu")
        self.reduce_o = self.reduce_down = False
        self.input_norm, self.post_norm = norm(), norm()
        self.qkv, self.o = linear(Q_SIZE * 2, HIDDEN), linear(HIDDEN, Q_SIZE)
        self.gate_up, self.down = linear(2 * INNER, HIDDEN), linear(HIDDEN, INNER)
        for first in (0, INNER):
            self.gate_up.helion_scale[first : first + LOUD] *= 1e4
        self.down.weight.view(torch.uint8)[:, :GROUP] = 0  # of those and what shares their scale
        self.norm_quant = Call(PER_TOKEN.rms_norm_quant, HIDDEN, True)
        self.qkv_mm = Call("scaled_mm", Q_SIZE * 2, HIDDEN)
        self.o_mm = Call("scaled_mm", HIDDEN, Q_SIZE)
        self.gate_up_mm = Call("scaled_mm", 2 * INNER, HIDDEN)
        self.silu_and_mul_quant = Call(PER_TOKEN.silu_and_mul_quant, INNER)
        self.down_mm = Call("scaled_mm", HIDDEN, INNER)
        self.few_o_mm = Call("scaled_mm_groupwise", HIDDEN, Q_SIZE)
        self.few_silu_and_mul_quant = Call("silu_and_mul_per_block_quant", INNER)
        self.few_down_mm = Call("scaled_mm_groupwise", HIDDEN, INNER)
        values = make.randn((num_tokens, Q_SIZE), FP8, std=60.0)
        groups = Q_SIZE // GROUP if self._is_few(values) else 1
        scales = as_group_scales(make.uniform((num_tokens, groups), low=1e-3, high=1e-2))
        self.attended = values, scales, self.few_o_mm if groups > 1 else self.o_mm

    def _attention(self, positions, qkv):
        return self.attended


def dense(linear):
    return linear.weight.double() * linear.helion_scale.double()


def exact(layer, residual):
    """(What the layer adds, without what is quantised in the MLP; the stream before that)"""
    values, scales, _ = layer.attended
    wide = scales.double().repeat_interleave(Q_SIZE // scales.shape[1], dim=1)
    stream = residual.double() + (values.double() * wide) @ dense(layer.o).t()
    inverse = torch.rsqrt(stream.square().mean(1, keepdim=True) + layer.post_norm.variance_epsilon)
    normed = stream * inverse * layer.post_norm.weight.double()
    gate, up = (normed @ dense(layer.gate_up).t()).chunk(2, dim=1)
    return (gate * gate.sigmoid() * up) @ dense(layer.down).t(), stream


@pytest.mark.parametrize(
    ("num_tokens", "few_tokens", "grouped"),
    [(1, 1, True), (2, 1, False), (FEW, FEW, True), (FEW + 1, FEW, False), (1, 0, False)],
)
def test_few_tokens_keep_what_a_loud_channel_drowns(num_tokens, few_tokens, grouped):
    layer = Layer(num_tokens, few_tokens)
    make = Random("cpu", 1)
    x, residual = (make.randn((num_tokens, HIDDEN), torch.bfloat16) for _ in range(2))
    before = x.float() + residual.float()
    added, stream = layer(torch.arange(num_tokens), x, residual)
    want, want_stream = exact(layer, before)
    assert torch.allclose(stream.double(), want_stream, rtol=2**-7, atol=2**-7)
    error = (added.double() - want).norm() / want.norm()
    assert error < 0.06 if grouped else error > 0.2, error


@pytest.mark.parametrize("block", [False, True])
def test_what_may_have_groups(block):
    def most(hidden=4096, head_dim=128, inner=12288):
        return qwen3.few_tokens(block, hidden, head_dim, inner)

    assert most() == (0 if block else FEW)
    assert most(hidden=1024) == (0 if block else 1)
    assert most(head_dim=64) == 0  # half a group
    assert most(inner=12288 + 64) == 0
