# SPDX-License-Identifier: Apache-2.0
"""VLLM_HELION_UE8M0=1: block FP8 weights as upstream prepares them for DeepGEMM."""

import pytest
import torch

pytest.importorskip("vllm.helion")

from torch import nn

from helion_kernels.fp8 import FP8, GROUP
from helion_kernels.sample import Random
from vllm.helion import fp8
from vllm.model_executor.layers.quantization.utils.fp8_utils import requant_weight_ue8m0_inplace

N, K = 300, 512


def loaded(scale: torch.Tensor) -> nn.Module:
    """A linear layer with the weights of a checkpoint."""
    layer = nn.Module()
    layer.prefix = "model.layers.0.mlp.down_proj"
    weight = Random("cpu").randn((N, K), FP8, std=60.0)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.weight_scale_inv = nn.Parameter(scale, requires_grad=False)
    layer.weight_scale_inv.weight_loader = lambda *_: None
    return layer


@pytest.mark.parametrize("on", ["0", "1"])
def test_weights_are_upstreams(on, monkeypatch):
    monkeypatch.setenv("VLLM_HELION_UE8M0", on)
    scale = Random("cpu").uniform((-(-N // GROUP), K // GROUP), 1e-4, 1e-2)
    layer = loaded(scale)
    weight, expected = layer.weight.data.clone(), scale.clone()
    if on == "1":
        requant_weight_ue8m0_inplace(weight, expected)
    fp8.HelionLinearMethod(fp8.BLOCK, layer).process_weights_after_loading(layer)
    assert torch.equal(layer.helion_scale, expected)
    assert torch.equal(layer.weight.float(), weight.float())
