# SPDX-License-Identifier: Apache-2.0
"""Write a Qwen3 checkpoint folder, in bf16 or one of the two FP8 formats, from bf16 weights."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tokenizers import Tokenizer

BLOCK = 128
FP8_MAX = 448.0
TINY = 1e-12
"""The least scale, so that weights of zero alone do not divide by it."""
SPECIAL = END_OF_TEXT, IM_START, IM_END = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

# Qwen3's chat format, without tools and thinking.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def quantise(weight: torch.Tensor, amax: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """FP8 weight and bf16 scale, for the largest magnitudes that share a scale (broadcastable)."""
    scale = (amax / FP8_MAX).clamp(min=TINY).to(torch.bfloat16)
    quotient = (weight / scale.float()).clamp(-FP8_MAX, FP8_MAX)
    return quotient.to(torch.float8_e4m3fn), scale


def per_row(name: str, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """compressed-tensors: weight_scale [N, 1]."""
    quantised, scale = quantise(weight.float(), weight.float().abs().amax(1, keepdim=True))
    yield name, quantised
    yield name + "_scale", scale


def per_block(name: str, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Qwen's own: weight_scale_inv [N / 128, K / 128]; it multiplies, whatever its name says."""
    rows, columns = weight.shape
    blocks = weight.float().view(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
    quantised, scale = quantise(blocks, blocks.abs().amax((1, 3), keepdim=True))
    yield name, quantised.view(rows, columns)
    yield name + "_scale_inv", scale.view(rows // BLOCK, columns // BLOCK)


FP8 = {"num_bits": 8, "type": "float", "symmetric": True, "group_size": None}
FORMATS: dict[str, tuple[str, Any, dict[str, Any] | None]] = {
    "bf16": ("tiny-qwen3", None, None),
    "fp8-token": (
        "tiny-qwen3-FP8-dynamic",
        per_row,
        {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "quantization_status": "compressed",
            "ignore": ["lm_head"],
            "kv_cache_scheme": None,
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {**FP8, "strategy": "channel", "dynamic": False},
                    "input_activations": {**FP8, "strategy": "token", "dynamic": True},
                    "output_activations": None,
                }
            },
        },
    ),
    "fp8-block": (
        "tiny-qwen3-FP8",
        per_block,
        {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [BLOCK, BLOCK],
            "modules_to_not_convert": ["lm_head"],
        },
    ),
}


def sizes(weights: dict[str, torch.Tensor]) -> dict[str, int]:
    """The sizes in config.json, as the weights have them."""
    layer = "model.layers.0."
    vocabulary, hidden = weights["model.embed_tokens.weight"].shape
    head_dim = len(weights[layer + "self_attn.q_norm.weight"])
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": len(weights[layer + "mlp.gate_proj.weight"]),
        "num_hidden_layers": sum(name.endswith("q_norm.weight") for name in weights),
        "num_attention_heads": len(weights[layer + "self_attn.q_proj.weight"]) // head_dim,
        "num_key_value_heads": len(weights[layer + "self_attn.k_proj.weight"]) // head_dim,
        "head_dim": head_dim,
    }


def write(folder: Path, form: str, weights: dict[str, torch.Tensor], tokenizer: Tokenizer) -> None:
    """Write one checkpoint, complete with tokenizer and configuration, into ``folder``."""
    _, quantiser, quantization = FORMATS[form]
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        quantised = quantiser is not None and name.endswith("_proj.weight")
        tensors.update(quantiser(name, weight) if quantised else [(name, weight)])
    end_of_text, _, im_end = (tokenizer.token_to_id(token) for token in SPECIAL)
    config = sizes(weights) | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000,
        "rope_scaling": None,
        "max_position_embeddings": 4096,
        "use_sliding_window": False,
        "sliding_window": None,
        "bos_token_id": end_of_text,
        "eos_token_id": im_end,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }
    if quantization:
        config["quantization_config"] = quantization
    generation = {
        "bos_token_id": end_of_text,
        "pad_token_id": end_of_text,
        "eos_token_id": [im_end, end_of_text],
        "do_sample": True,
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "eos_token": IM_END,
        "pad_token": END_OF_TEXT,
        "additional_special_tokens": [IM_START, IM_END],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "chat_template": CHAT_TEMPLATE,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    tokenizer.save(str(folder / "tokenizer.json"))
    for file, content in (
        ("config.json", config),
        ("generation_config.json", generation),
        ("tokenizer_config.json", tokenizer_config),
    ):
        (folder / file).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
