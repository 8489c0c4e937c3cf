# SPDX-License-Identifier: Apache-2.0
"""Write a Qwen3 checkpoint of real size with seeded random weights, quantised as a quantiser would.

    python -m benchmarks.checkpoint --model 8b --format token --out /tmp/qwen3-8b-token

Weights are N(0, 1 / K), so that activations keep their size over the layers; scales are amax / 448
per output channel, or per 128 x 128 block. vLLM's `--load-format dummy` leaves FP8 weights nearly
all zero, which draws less power and flatters every figure. 8B: 9 GB, under 30 s with an H100.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from helion_kernels.qwen3 import MODELS, Sizes

LAYERS = {"0.6b": 28, "1.7b": 28, "4b": 36, "8b": 36, "14b": 40, "32b": 64}
TIED = ("0.6b", "1.7b", "4b")
QUANTIZATION: dict[str, dict[str, Any]] = {
    "token": {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": 8,
                    "type": "float",
                    "strategy": "channel",
                    "dynamic": False,
                    "symmetric": True,
                },
                "input_activations": {
                    "num_bits": 8,
                    "type": "float",
                    "strategy": "token",
                    "dynamic": True,
                    "symmetric": True,
                },
            }
        },
    },
    "block": {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "weight_block_size": [128, 128],
    },
}


def architecture(sizes: Sizes) -> dict[str, Any]:
    """What config.json says of a decoder of these sizes, a draft's too."""
    return {
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "num_attention_heads": sizes.num_q_heads,
        "num_key_value_heads": sizes.num_kv_heads,
        "head_dim": sizes.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000,
        "max_position_embeddings": 40960,
        "vocab_size": sizes.vocab_size,
        "torch_dtype": "bfloat16",
    }


def config(model: str, layers: int, fp8: str) -> dict[str, Any]:
    """config.json of the model; `layers` may be fewer than the real one's."""
    return {
        **architecture(MODELS[model]),
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "num_hidden_layers": layers,
        "tie_word_embeddings": model in TIED,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "quantization_config": QUANTIZATION[fp8],
    }


def quantise(weight: torch.Tensor, fp8: str) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 [N, K] -> (float8 [N, K], scales [N, 1] or [N / 128, K / 128])."""
    if fp8 == "token":
        scale = weight.abs().amax(1, keepdim=True) / 448
        return (weight / scale).to(torch.float8_e4m3fn), scale
    n, k = weight.shape
    blocks = weight.view(n // 128, 128, k // 128, 128)
    scale = blocks.abs().amax((1, 3)) / 448
    quantised = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
    return quantised.view(n, k), scale


def linears(sizes: Sizes) -> Iterator[tuple[str, int, int]]:
    """(name, N, K) of a layer's linear weights, as checkpoints keep them."""
    hidden, inner, q, kv, d, _ = sizes
    yield from (
        ("self_attn.q_proj", q * d, hidden),
        ("self_attn.k_proj", kv * d, hidden),
        ("self_attn.v_proj", kv * d, hidden),
        ("self_attn.o_proj", hidden, q * d),
        ("mlp.gate_proj", inner, hidden),
        ("mlp.up_proj", inner, hidden),
        ("mlp.down_proj", hidden, inner),
    )


def layer_tensors(
    index: int, sizes: Sizes, fp8: str, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    prefix = f"model.layers.{index}"
    scale_name = "weight_scale" if fp8 == "token" else "weight_scale_inv"
    device = generator.device
    tensors = {}
    for name, n, k in linears(sizes):
        weight = torch.randn((n, k), generator=generator, device=device) * k**-0.5
        quantised, scale = quantise(weight, fp8)
        tensors[f"{prefix}.{name}.weight"] = quantised
        tensors[f"{prefix}.{name}.{scale_name}"] = scale
    for name, size in (
        ("input_layernorm", sizes.hidden_size),
        ("post_attention_layernorm", sizes.hidden_size),
        ("self_attn.q_norm", sizes.head_dim),
        ("self_attn.k_norm", sizes.head_dim),
    ):
        noise = torch.randn((size,), generator=generator, device=device)
        tensors[f"{prefix}.{name}.weight"] = (1 + 0.1 * noise).bfloat16()
    return tensors


def write(model: str, fp8: str, out: Path, layers: int | None = None, seed: int = 0) -> None:
    """Write config.json and safetensors files, 6 layers a file."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(seed)
    sizes, layers = MODELS[model], layers or LAYERS[model]
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config(model, layers, fp8), indent=1))

    def embedding() -> torch.Tensor:
        shape = (sizes.vocab_size, sizes.hidden_size)
        return torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)

    weight_map = {}

    def save(name: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file({key: value.cpu() for key, value in tensors.items()}, out / name)
        weight_map.update(dict.fromkeys(tensors, name))

    ends = {"model.embed_tokens.weight": embedding()}
    ends["model.norm.weight"] = torch.ones(sizes.hidden_size, dtype=torch.bfloat16)
    if model not in TIED:
        ends["lm_head.weight"] = embedding() * sizes.hidden_size**-0.5
    save("ends.safetensors", ends)
    del ends
    for start in range(0, layers, 6):
        shard = {}
        for index in range(start, min(start + 6, layers)):
            shard.update(layer_tensors(index, sizes, fp8, generator))
        save(f"layers-{start:02}.safetensors", shard)
    index_file = {"metadata": {}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index_file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="8b")
    parser.add_argument("--format", choices=QUANTIZATION, default="token")
    parser.add_argument("--layers", type=int, default=None, help="fewer than the real model's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    write(args.model, args.format, args.out, args.layers, args.seed)


if __name__ == "__main__":
    main()
