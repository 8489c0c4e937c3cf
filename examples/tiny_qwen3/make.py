# SPDX-License-Identifier: Apache-2.0
"""Write a tiny Qwen3 checkpoint with random weights: nothing is downloaded."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

HIDDEN, INTERMEDIATE, LAYERS, Q_HEADS, KV_HEADS, HEAD_DIM = 256, 640, 4, 4, 2, 128
BLOCK = 128
FP8_MAX = 448.0
MEMORY, CONTEXT = 0.1, 2.3
"""How loud the learned successor of a word is, and how loud the random rest of the model."""
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

EPILOG = """\
formats, each a folder of its own below --out:
  bf16       tiny-qwen3              as trained
  fp8-token  tiny-qwen3-FP8-dynamic  compressed-tensors: a scale per weight row, and per token
  fp8-block  tiny-qwen3-FP8          Qwen's own: a scale per 128 x 128 weights, per 128 of a token

The weights are random, so the answers are nonsense; they are the same nonsense on every machine.
The same --seed writes the same bytes.

examples:
  python examples/tiny_qwen3/make.py
  vllm serve tiny-qwen3/tiny-qwen3-FP8 --max-model-len 512
  vllm chat --model-name tiny-qwen3/tiny-qwen3-FP8
"""

# What the tokenizer's merges are learned from.
TEXT = """\
A small model writes small words, and the words that it writes are the ones it was given here.
The sea is wide and the night is long; the ship goes on, and the light on the shore goes with it.
One man reads, one woman writes, and a child asks what the book is for. It is for you, they say.
What do you want to know? Ask, and the machine will answer, though not always with the truth.
There is a time for rain and a time for sun, for stone and for bread, for a question and a reply.
"""

# Qwen3's chat format, without tools and thinking.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def make_tokenizer() -> Tokenizer:
    """Byte-level BPE: 256 bytes, the merges that TEXT teaches, Qwen's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512 - len(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


def words(tokenizer: Tokenizer) -> list[int]:
    """The tokens that look well in an answer: those of printable ASCII."""
    texts = {token: tokenizer.decode([token]) for token in tokenizer.get_vocab().values()}
    return [t for t in sorted(texts) if texts[t].isascii() and texts[t].isprintable() and texts[t]]


def make_weights(seed: int, tokenizer: Tokenizer) -> dict[str, torch.Tensor]:
    """Weights in bf16 under their names in Qwen3's checkpoints.

    Rows and columns differ in scale, as in a trained model, so that a scale applied to the wrong
    row shows. Random weights alone give logits that almost tie, and rounding would choose between
    them. So the first MLP knows by heart which word follows which, and the rest, which is random,
    adds the context: where that speaks clearly, it overrules what was learned.
    """
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> torch.Tensor:
        # float64, so that how a machine computes exp() does not survive the rounding to bf16
        return torch.from_numpy(generator.standard_normal(shape))

    def matrix(rows: int, columns: int, gain: float = 1.0) -> torch.Tensor:
        spread = torch.exp(0.3 * normal(rows, 1)) * torch.exp(0.3 * normal(1, columns))
        return gain * normal(rows, columns) * spread / columns**0.5

    def norm(size: int, mean: float = 1.0) -> torch.Tensor:
        return mean * (1 + 0.2 * normal(size)).abs()

    vocabulary = tokenizer.get_vocab_size()
    spoken = words(tokenizer)
    embedding = normal(vocabulary, HIDDEN)
    silent = sorted(set(range(vocabulary)) - set(spoken))
    embedding[silent] /= 2
    circle = generator.permutation(spoken)
    follower = torch.from_numpy(generator.choice(spoken, vocabulary))
    follower[circle] = torch.from_numpy(np.roll(circle, -1))
    weights = {
        "model.embed_tokens.weight": embedding,
        "model.norm.weight": norm(HIDDEN, mean=0.1),
    }
    for layer in range(LAYERS):
        gate, up = matrix(INTERMEDIATE, HIDDEN), matrix(INTERMEDIATE, HIDDEN)
        down = matrix(HIDDEN, INTERMEDIATE, CONTEXT)
        if layer == 0:
            gate[:vocabulary] = up[:vocabulary] = embedding / HIDDEN**0.5
            down[:, :vocabulary] = MEMORY * embedding[follower].t()
        prefix = f"model.layers.{layer}."
        weights |= {
            prefix + "input_layernorm.weight": norm(HIDDEN),
            prefix + "self_attn.q_proj.weight": matrix(Q_HEADS * HEAD_DIM, HIDDEN),
            prefix + "self_attn.k_proj.weight": matrix(KV_HEADS * HEAD_DIM, HIDDEN),
            prefix + "self_attn.v_proj.weight": matrix(KV_HEADS * HEAD_DIM, HIDDEN),
            prefix + "self_attn.o_proj.weight": matrix(HIDDEN, Q_HEADS * HEAD_DIM, CONTEXT),
            prefix + "self_attn.q_norm.weight": norm(HEAD_DIM, mean=1.5),
            prefix + "self_attn.k_norm.weight": norm(HEAD_DIM, mean=1.5),
            prefix + "post_attention_layernorm.weight": norm(HIDDEN),
            prefix + "mlp.gate_proj.weight": gate,
            prefix + "mlp.up_proj.weight": up,
            prefix + "mlp.down_proj.weight": down,
        }
    return {name: weight.to(torch.bfloat16) for name, weight in weights.items()}


def quantise(weight: torch.Tensor, amax: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """FP8 weight and bf16 scale, for the largest magnitudes that share a scale (broadcastable)."""
    scale = (amax / FP8_MAX).to(torch.bfloat16)
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


def write(folder: Path, form: str, weights: dict[str, torch.Tensor], tokenizer: Tokenizer) -> None:
    """Write one checkpoint, complete with tokenizer and configuration, into ``folder``."""
    _, quantiser, quantization = FORMATS[form]
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        quantised = quantiser is not None and name.endswith("_proj.weight")
        tensors.update(quantiser(name, weight) if quantised else [(name, weight)])
    end_of_text, _, im_end = (tokenizer.token_to_id(token) for token in SPECIAL)
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": Q_HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "vocab_size": tokenizer.get_vocab_size(),
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
        "eos_token": SPECIAL[2],
        "pad_token": SPECIAL[0],
        "additional_special_tokens": [SPECIAL[1], SPECIAL[2]],
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


def make(out: Path, form: str, seed: int = 1) -> Path:
    """Write the checkpoint of one format below ``out``; its folder."""
    tokenizer = make_tokenizer()
    folder = out / FORMATS[form][0]
    write(folder, form, make_weights(seed, tokenizer), tokenizer)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("tiny-qwen3"), metavar="DIR", help="default: tiny-qwen3"
    )
    parser.add_argument(
        "--format", choices=FORMATS, action="append", help="may be repeated; default: all"
    )
    parser.add_argument("--seed", type=int, default=1, help="default: 1")
    options = parser.parse_args()
    for form in options.format or FORMATS:
        print(make(options.out, form, options.seed))


if __name__ == "__main__":
    main()
