# SPDX-License-Identifier: Apache-2.0
"""Which models and layers we serve. A refusal is a reason in words; None means served."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from vllm.helion import activate, switches

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.helion.layer import HelionDecoderLayer

HEAD_DIM = 128
MOST_ELEMENTS = 2**31 - 1
"""Of an activation: compiled kernels address a row by its number times a stride, in int32."""


def switch_refusal() -> str | None:
    """The reason why nothing is served in this process."""
    from importlib.util import find_spec

    from vllm.platforms import current_platform

    if not switches.enabled():
        return "VLLM_HELION=0"
    if not activate.is_active():
        return "VLLM_PLUGINS is set and does not name helion"
    if find_spec("helion") is None:
        return "the package helion is not installed"
    if current_platform.is_cuda():
        if not current_platform.has_device_capability(89):
            return "the GPU has no FP8 tensor cores (compute capability below 8.9)"
    elif not current_platform.is_cpu():
        return f"platform {current_platform.device_name} is not served"
    return None


def model_refusal(vllm_config: "VllmConfig") -> str | None:
    """The reason why no layer of this model is served, from its config alone."""
    if (reason := switch_refusal()) is not None:
        return reason
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    config = model.hf_text_config
    quantization = getattr(config, "quantization_config", None) or getattr(
        model.hf_config, "quantization_config", None
    )
    head_dim = getattr(config, "head_dim", None)
    most = vllm_config.scheduler_config.max_num_batched_tokens
    widest = 2 * config.intermediate_size // parallel.tensor_parallel_size
    refusals = {
        "LoRA is enabled": vllm_config.lora_config is not None,
        f"dtype is {model.dtype}, not bfloat16": model.dtype != torch.bfloat16,
        "decode context parallelism is on": parallel.decode_context_parallel_size > 1,
        "prefill context parallelism is on": parallel.prefill_context_parallel_size > 1,
        "dual batch overlap is on": parallel.enable_dbo,
        "the model is not quantised": quantization is None and model.quantization is None,
        f"head_dim is {head_dim}, not {HEAD_DIM}": head_dim != HEAD_DIM,
        "attention is bidirectional": not getattr(config, "is_causal", True),
        "attention has a bias": bool(getattr(config, "attention_bias", False)),
        f"activation is {config.hidden_act}": config.hidden_act != "silu",
        "mrope": model.uses_mrope,
        f"steps of {most} tokens are too large for 32-bit offsets": most * widest > MOST_ELEMENTS,
    }
    return next((reason for reason, applies in refusals.items() if applies), None)


def class_refusal(layer: nn.Module) -> str | None:
    """The reason why a layer of this class is not served: a draft's layers read more than ours."""
    from vllm.model_executor.models.qwen3 import Qwen3DecoderLayer

    kind = type(layer)
    if kind.forward is Qwen3DecoderLayer.forward:
        return None
    return f"{kind.__name__} has a forward of its own"


def layer_refusal(layer: nn.Module) -> str | None:
    """The reason why this Qwen3DecoderLayer is not served, beyond `model_refusal`."""
    from vllm.helion.fp8 import format_of
    from vllm.model_executor.layers.rotary_embedding import RotaryEmbedding
    from vllm.v1.attention.backend import AttentionType

    attention, mlp = layer.self_attn, layer.mlp
    rope = attention.rotary_emb
    linears = (attention.qkv_proj, attention.o_proj, mlp.gate_up_proj, mlp.down_proj)
    plain_rope = (
        isinstance(rope, RotaryEmbedding)
        and type(rope).forward_cuda is RotaryEmbedding.forward_cuda
        and rope.is_neox_style
        and rope.rotary_dim == attention.head_dim
    )
    formats = {format_of(linear) for linear in linears}
    refusals = {
        f"head_dim is {attention.head_dim}, not {HEAD_DIM}": attention.head_dim != HEAD_DIM,
        "attention is not a decoder's": attention.attn.attn_type != AttentionType.DECODER,
        "dual chunk attention": attention.dual_chunk_attention_config is not None,
        f"rotary embedding {type(rope).__name__}": not plain_rope,
        "a linear layer has a bias": any(linear.bias is not None for linear in linears),
        "KV heads are shared between layers": (
            attention.attn.kv_sharing_target_layer_name is not None
        ),
        "not FP8 with per-token or 128 x 128 block scales": None in formats,
        "its linear layers differ in FP8 format": len(formats) > 1,
    }
    return next((reason for reason, applies in refusals.items() if applies), None)


def serve(layer: nn.Module, prefix: str) -> "HelionDecoderLayer | None":
    """Take over a Qwen3DecoderLayer: its linear layers load for us, its forward is ours."""
    from vllm.config import get_current_vllm_config

    reason = (
        model_refusal(get_current_vllm_config()) or class_refusal(layer) or layer_refusal(layer)
    )
    if reason is not None:
        _refused.setdefault(reason, []).append(prefix)
        return None
    from vllm.helion.layer import HelionDecoderLayer
    from vllm.platforms import current_platform

    if current_platform.is_cuda():
        from vllm.helion import logits
        from vllm.helion.upstream import background

        background.start("fp32" if logits.wanted(get_current_vllm_config()) else "bf16")
    return HelionDecoderLayer(layer)


_refused: dict[str, list[str]] = {}


def refusals() -> dict[str, list[str]]:
    """reason -> prefixes of the layers that run stock for it, in this process."""
    return _refused
