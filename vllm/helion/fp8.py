# SPDX-License-Identifier: Apache-2.0
"""The two FP8 formats, and how a linear layer of each loads.

    PER_TOKEN   compressed-tensors FP8-dynamic: a scale per token and per output channel
    BLOCK       Qwen's own: a scale per token and 128 inputs, and per 128 x 128 weights

Weights stay as the checkpoint has them, [N, K] row-major, and so do the scales: upstream transposes
per-channel weights and rounds block scales to powers of two for DeepGEMM (VLLM_HELION_UE8M0=1 does
the latter to weights).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from helion_kernels import split_k, ue8m0
from helion_kernels.fp8 import FP8, GROUP, empty_group_scales
from vllm.helion import switches
from vllm.model_executor.layers.linear import LinearBase, LinearMethodBase
from vllm.model_executor.utils import replace_parameter

SCALE_NAMES = ("weight_scale_inv", "weight_scale")
UNLOADED = torch.finfo(torch.float32).min
"""What upstream fills a scale with until the checkpoint's is loaded over it."""


@dataclass(frozen=True)
class Format:
    """The ops of a format; their arguments are alike, so that a layer reads the same in both."""

    name: str
    rms_norm_quant: str
    quant: str
    silu_and_mul_quant: str
    scaled_mm: str
    grouped: bool
    """Activations have a scale per 128 inputs, weights per 128 x 128; else per token, channel."""

    def weight_scale_shape(self, n: int, k: int) -> tuple[int, int]:
        return (-(-n // GROUP), -(-k // GROUP)) if self.grouped else (n, 1)

    def activation(
        self, like: torch.Tensor, k: int, grouped: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Unwritten (values [M, k], scales) for the tokens of `like`; grouped: in any format."""
        num_tokens = like.shape[0]
        values = torch.empty((num_tokens, k), dtype=FP8, device=like.device)
        if not (self.grouped or grouped):
            return values, torch.empty((num_tokens, 1), dtype=torch.float32, device=like.device)
        return values, empty_group_scales(num_tokens, k // GROUP, like.device)


PER_TOKEN = Format(
    "per-token FP8",
    "rms_norm_dynamic_per_token_quant",
    "dynamic_per_token_scaled_fp8_quant",
    "silu_and_mul_dynamic_per_token_quant",
    "scaled_mm",
    grouped=False,
)
BLOCK = Format(
    "block FP8",
    "rms_norm_per_block_quant",
    "per_token_group_fp8_quant",
    "silu_and_mul_per_block_quant",
    "scaled_mm_blockwise",
    grouped=True,
)


def format_of(linear: LinearBase) -> Format | None:
    """The format of a linear layer as upstream built it; None: not one of ours."""
    from compressed_tensors.quantization import QuantizationStrategy

    from vllm.model_executor.layers.quantization.compressed_tensors.schemes import (
        CompressedTensorsW8A8Fp8,
    )
    from vllm.model_executor.layers.quantization.fp8 import Fp8LinearMethod

    square = [GROUP, GROUP]
    scheme = getattr(linear, "scheme", None)
    if isinstance(linear.quant_method, Fp8LinearMethod):
        block = linear.quant_method.weight_block_size
        return BLOCK if block is not None and list(block) == square else None
    if isinstance(scheme, CompressedTensorsW8A8Fp8) and not scheme.is_static_input_scheme:
        if scheme.strategy == QuantizationStrategy.CHANNEL:
            return PER_TOKEN
        if scheme.strategy == QuantizationStrategy.BLOCK and scheme.weight_block_size == square:
            return BLOCK
    return None


class HelionLinearMethod(LinearMethodBase):
    """Takes the place of upstream's method on a linear layer of a served decoder layer."""

    def __init__(self, format: Format, linear: nn.Module) -> None:
        self.format = format
        self.prefix = linear.prefix
        self.scale_name = next(n for n in SCALE_NAMES if hasattr(linear, n))
        scale = getattr(linear, self.scale_name)
        scale.weight_loader = self._naming(scale.weight_loader)

    def _naming(self, load: Callable[..., Any]) -> Callable[..., Any]:
        """load, whose errors do not say which tensor does not fit."""

        def named(param: nn.Parameter, loaded: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            try:
                return load(param, loaded, *args, **kwargs)
            except (AssertionError, RuntimeError, ValueError) as error:
                detail = (str(error).splitlines() or ["shapes differ"])[0]
                raise ValueError(
                    f"{self.prefix}.{self.scale_name}: a tensor of shape {tuple(loaded.shape)} in "
                    f"the checkpoint does not fit ({detail}): it is damaged or quantised in "
                    "another way"
                ) from None

        return named

    def create_weights(self, layer: nn.Module, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("upstream's method created the weights before ours took its place")

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        """Keep weight and scales as loaded. Raises ValueError for scales that cannot be used."""
        name = self.scale_name
        scale = getattr(layer, name).data.float()
        n, k = layer.weight.shape
        expected = self.format.weight_scale_shape(n, k)
        if tuple(scale.shape) != expected:
            raise ValueError(
                f"{self.prefix}.{name} has shape {tuple(scale.shape)}, expected {expected} for a "
                f"{n} x {k} weight: the checkpoint is damaged or quantised in another way"
            )
        if (scale == UNLOADED).any():
            raise ValueError(
                f"{self.prefix}.{name} is not in the checkpoint, or not all of it: it is damaged, "
                "fetch or quantise it again"
            )
        if not torch.isfinite(scale).all():
            raise ValueError(
                f"{self.prefix}.{name} holds NaN or infinity: the checkpoint is damaged, fetch or "
                "quantise it again"
            )
        weight, scale = layer.weight.data.contiguous(), scale.contiguous()
        if self.format.grouped and switches.ue8m0():
            ue8m0.requantise(weight, scale)
        replace_parameter(layer, "weight", weight)
        replace_parameter(layer, name, scale)
        layer.helion_scale = getattr(layer, name)
        layer.input_scale = None

    def apply(
        self, layer: nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The layer on its own, for callers other than the decoder layer."""
        ops: Any = torch.ops.helion_kernels
        flat = x.reshape(-1, x.shape[-1])
        values, scales = self.format.activation(flat, flat.shape[1])
        getattr(ops, self.format.quant)(values, flat, scales)
        out = flat.new_empty((flat.shape[0], layer.weight.shape[0]))
        weight, weight_scale = layer.weight.t(), layer.helion_scale
        workspace = split_k.shared(x.device)
        getattr(ops, self.format.scaled_mm)(out, values, weight, scales, weight_scale, workspace)
        return (out if bias is None else out + bias).view(*x.shape[:-1], -1)
