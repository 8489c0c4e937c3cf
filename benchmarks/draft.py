# SPDX-License-Identifier: Apache-2.0
"""Write an EAGLE3 draft for a Qwen3 checkpoint: one Llama layer of seeded random weights, bf16.

    python -m benchmarks.draft --model 8b --out /tmp/qwen3-8b-eagle3
    python -m benchmarks.engine --model /tmp/qwen3-8b-token --batches 16 --engine-args \\
        '{"speculative_config": {"method": "eagle3", "model": "/tmp/qwen3-8b-eagle3",
          "num_speculative_tokens": 3, "rejection_sample_method": "synthetic",
          "synthetic_acceptance_length": 2.5}}' --arm ours:... --arm stock:...

Its guesses are noise, so how many are accepted must be vLLM's to say, as above: then both arms make
the same number of steps. Sizes are those of published drafts: the target's, a vocabulary of 32000.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.checkpoint import LAYERS, architecture, linears
from helion_kernels.qwen3 import MODELS, Sizes

VOCABULARY = 32000


def auxiliary(layers: int) -> list[int]:
    """Before which of the target's layers the draft reads its hidden states, as EAGLE3 has it."""
    return [2, layers // 2, layers - 3]


def draft_vocabulary(sizes: Sizes) -> int:
    return min(VOCABULARY, sizes.vocab_size)


def config(sizes: Sizes, layers: list[int]) -> dict[str, Any]:
    """config.json; layers: `auxiliary`, three different ones."""
    return {
        **architecture(sizes),
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "num_hidden_layers": 1,
        "draft_vocab_size": draft_vocabulary(sizes),
        "eagle_aux_hidden_state_layer_ids": layers,
        "tie_word_embeddings": False,
    }


def tensors(sizes: Sizes, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Of the checkpoint. Its embedding is the target's, and its tokens are the target's first."""
    hidden = sizes.hidden_size
    vocabulary = draft_vocabulary(sizes)

    def weight(n: int, k: int) -> torch.Tensor:
        values = torch.randn((n, k), generator=generator, device=generator.device)
        return (values * k**-0.5).bfloat16().cpu()

    found = {"fc.weight": weight(hidden, 3 * hidden), "norm.weight": torch.ones(hidden)}
    for name, n, k in linears(sizes):
        # Attention reads an embedding and a hidden state side by side.
        reads = 2 * k if name.startswith("self_attn") and not name.endswith("o_proj") else k
        found[f"midlayer.{name}.weight"] = weight(n, reads)
    for name in ("input_layernorm", "hidden_norm", "post_attention_layernorm"):
        found[f"midlayer.{name}.weight"] = torch.ones(hidden)
    found["lm_head.weight"] = weight(vocabulary, hidden)
    found = {name: value.bfloat16() for name, value in found.items()}
    return found | {"d2t": torch.zeros(vocabulary, dtype=torch.int64)}


def write(sizes: Sizes, layers: list[int], out: Path, seed: int = 0) -> None:
    """config.json and model.safetensors."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config(sizes, layers), indent=1))
    found = tensors(sizes, torch.Generator(device).manual_seed(seed))
    save_file(found, out / "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.draft",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=MODELS, default="8b", help="the target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint's folder")
    args = parser.parse_args()
    write(MODELS[args.model], auxiliary(LAYERS[args.model]), args.out, args.seed)


if __name__ == "__main__":
    main()
