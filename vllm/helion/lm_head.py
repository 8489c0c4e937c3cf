# SPDX-License-Identifier: Apache-2.0
"""The lm_head in FP8, where VLLM_HELION_FP8_LM_HEAD=1 asks for it.

Checkpoints keep the lm_head in bf16, which a decode step reads whole: 1.24 of Qwen3-8B's 8.19 GB.
Its weights are quantised per output channel and the hidden states per token, whatever the format
of the layers. It is no default: logits change (docs/user-guide.md says by how much).
"""

from typing import Any

import torch
from torch import nn

from helion_kernels import split_k
from helion_kernels.fp8 import FP8, FP8_MAX
from vllm.config import VllmConfig
from vllm.helion.fp8 import PER_TOKEN
from vllm.helion.layer import Call
from vllm.logger import init_logger
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

logger = init_logger(__name__)

MOST_TOKENS = 8192
"""In one launch: 8192 x 151936 logits are addressed with 32 bits. Prompt log-probabilities of more
tokens take several."""

MIN_AMAX = 1e-4
"""Floor of a row's absolute maximum: a token that is never used may have a row of zeros."""


def quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """FP8 values [N, K] and scales [N, 1] float32 of weight [N, K], a few rows at a time."""
    values = torch.empty_like(weight, dtype=FP8)
    scales = torch.empty((len(weight), 1), dtype=torch.float32, device=weight.device)
    parts = (values.split(MOST_TOKENS), scales.split(MOST_TOKENS), weight.split(MOST_TOKENS))
    for value, scale, exact in zip(*parts, strict=True):
        scale.copy_(exact.abs().amax(1, keepdim=True).float().clamp(min=MIN_AMAX) / FP8_MAX)
        value.copy_(exact.float() / scale)
    return values, scales


class HelionLMHeadMethod(QuantizeMethodBase):
    """Takes the place of upstream's method on an lm_head, tied to the embedding or not.

    The weight stays in bf16 beside its FP8 copy: embeddings read it, and reloading writes it.
    """

    def __init__(self, upstream: UnquantizedEmbeddingMethod, lm_head: nn.Module) -> None:
        self.upstream = upstream
        vocab, hidden = lm_head.weight.shape
        self.quant = Call(PER_TOKEN.quant, hidden)
        self.mm = Call(PER_TOKEN.scaled_mm, vocab, hidden)
        self.calls = [self.quant, self.mm]

    def create_weights(self, layer: nn.Module, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("upstream's method created the weight before ours took its place")

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        """Quantise the weight as it is now; upstream calls this again after a reload."""
        self.weight, self.scale = quantise(layer.weight.data)
        self.workspace = split_k.shared(layer.weight.device)

    def embedding(self, layer: nn.Module, input_: torch.Tensor) -> torch.Tensor:
        return self.upstream.embedding(layer, input_)

    def tie_weights(self, layer: nn.Module, embed_tokens: nn.Module) -> nn.Module:
        return self.upstream.tie_weights(layer, embed_tokens)

    def apply(
        self, layer: nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits [..., vocab] bf16 of hidden states [..., hidden] bf16."""
        flat = x.reshape(-1, x.shape[-1])
        out = flat.new_empty((flat.shape[0], self.weight.shape[0]))
        for rows, hidden in zip(out.split(MOST_TOKENS), flat.split(MOST_TOKENS), strict=True):
            values, scales = PER_TOKEN.activation(hidden, hidden.shape[1])
            self.quant(values, hidden, scales)
            self.mm(rows, values, self.weight.t(), scales, self.scale, self.workspace)
        return (out if bias is None else out + bias).view(*x.shape[:-1], -1)


def refusal(lm_head: nn.Module | None, config: VllmConfig) -> str | None:
    """The reason why a model's lm_head is to stay as it is."""
    method = getattr(lm_head, "quant_method", None)
    if method is None:
        return "it is on another rank"
    if not isinstance(method, UnquantizedEmbeddingMethod):
        return f"it is quantised already ({type(method).__name__})"
    if config.model_config.head_dtype != config.model_config.dtype:
        return f"its dtype is chosen: {config.model_config.head_dtype}"
    return None


def serve(model: nn.Module, config: VllmConfig) -> HelionLMHeadMethod | None:
    """Take over the lm_head of a loaded model; the log says so, or why not."""
    lm_head = getattr(model, "lm_head", None)
    if (reason := refusal(lm_head, config)) is not None:
        logger.warning("Helion: VLLM_HELION_FP8_LM_HEAD=1, but the lm_head stays: %s", reason)
        return None
    assert lm_head is not None
    method = HelionLMHeadMethod(lm_head.quant_method, lm_head)
    method.process_weights_after_loading(lm_head)
    lm_head.quant_method = method
    logger.info("Helion: lm_head in FP8, %.2f GB more", method.weight.nbytes / 1e9)
    return method
