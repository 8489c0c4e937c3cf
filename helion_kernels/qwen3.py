# SPDX-License-Identifier: Apache-2.0
"""Sizes of the dense Qwen3 models, and the op calls that they make."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from helion_kernels.attention import serves_query_len
from helion_kernels.fp8 import GROUP
from helion_kernels.gemm import MOST_GROUPWISE


class Sizes(NamedTuple):
    """Of the whole model, before tensor parallelism; from its config.json."""

    hidden_size: int
    intermediate_size: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int = 128
    vocab_size: int = 151936


MODELS = {
    "0.6b": Sizes(1024, 3072, 16, 8),
    "1.7b": Sizes(2048, 6144, 16, 8),
    "4b": Sizes(2560, 9728, 32, 8),
    "8b": Sizes(4096, 12288, 32, 8),
    "14b": Sizes(5120, 17408, 40, 8),
    "32b": Sizes(5120, 25600, 64, 8),
}

BLOCK_SIZE = 16
"""Tokens of a block of the KV cache: vLLM's default with FlashAttention."""

FEW = MOST_GROUPWISE
"""Most tokens of a step whose attention and SwiGLU are quantised per group in per-token FP8, too:
they need no pass over a row then. With more, the GEMM loses what they gain (`few_tokens`;
docs/performance-log.md)."""

Call = tuple[str, tuple[Any, ...]]
"""(op, static dims)"""

VOCAB_PADDING = 64
"""vLLM rounds the rows of an lm_head up to a multiple."""


def read(checkpoint: str | Path) -> tuple[Sizes, bool]:
    """Sizes of a checkpoint folder, from its config.json, and whether its scales are per block.

    Raises OSError where there is none, and ValueError for another model than Qwen3.
    """
    path = Path(checkpoint) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if config["model_type"] != "qwen3":
            raise ValueError(f"a {config['model_type']} model; qwen3 is what we serve")
        heads = config["num_attention_heads"], config["num_key_value_heads"]
        sizes = Sizes(
            config["hidden_size"],
            config["intermediate_size"],
            *heads,
            config.get("head_dim", 128),
            config["vocab_size"],
        )
        quantization = config.get("quantization_config") or {}
        return sizes, bool(quantization.get("weight_block_size"))
    except FileNotFoundError:
        raise OSError(f"{path}: no such file; name a checkpoint folder") from None
    except KeyError as error:
        raise ValueError(f"{path}: has no {error}") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def calls(
    sizes: Sizes, block: bool, tp: int = 1, num_speculative_tokens: int = 0, attends: bool = True
) -> list[Call]:
    """(op, static dims) in the order of the layer, then what few tokens have instead (`FEW`).

    block: scales per 128 rather than per token. num_speculative_tokens: guesses that a decode step
    checks. attends: whether decode steps have our attention; it is upstream's with too many
    guesses, too. Raises ValueError where the sizes cannot be split over tp ranks, and for fewer
    than no guesses.
    """
    if num_speculative_tokens < 0:
        raise ValueError(f"{num_speculative_tokens} speculative tokens: must not be negative")
    query_len = 1 + num_speculative_tokens
    hidden, intermediate, q_heads, kv_heads, head_dim, _ = sizes
    for name, size in (("intermediate_size", intermediate), ("num_attention_heads", q_heads)):
        if size % tp:
            raise ValueError(f"{name} {size} is not divisible by tensor parallel size {tp}")
    if kv_heads % tp and tp % kv_heads:
        raise ValueError(f"{kv_heads} key-value heads cannot be split over {tp} ranks")
    heads = (q_heads // tp, max(1, kv_heads // tp), head_dim)
    q_size, kv_size, inner = heads[0] * head_dim, heads[1] * head_dim, intermediate // tp
    norm = "rms_norm_per_block_quant" if block else "rms_norm_dynamic_per_token_quant"
    quant = "per_token_group_fp8_quant" if block else "dynamic_per_token_scaled_fp8_quant"
    silu = "silu_and_mul_per_block_quant" if block else "silu_and_mul_dynamic_per_token_quant"
    mm = "scaled_mm_blockwise" if block else "scaled_mm"
    attention = "fused_qk_norm_rope_paged_attention"
    attends = attends and serves_query_len(*heads[:2], query_len)
    decode, few = [], []
    if attends:
        quantised = quantises(block, head_dim)
        decode = [(attention, (*heads, BLOCK_SIZE, quantised, query_len))]
    if attends and few_tokens(block, hidden, head_dim, inner):
        few = [
            (attention, (*heads, BLOCK_SIZE, True, query_len)),
            ("scaled_mm_groupwise", (hidden, q_size)),
            ("silu_and_mul_per_block_quant", (inner,)),
            ("scaled_mm_groupwise", (hidden, inner)),
        ]
    return [
        (norm, (hidden, False)),
        (norm, (hidden, True)),
        (mm, (q_size + 2 * kv_size, hidden)),
        ("fused_qk_norm_rope", heads),
        ("fused_qk_norm_rope_kv_write", heads),
        *decode,
        (quant, (q_size,)),
        (mm, (hidden, q_size)),
        (mm, (2 * inner, hidden)),
        (silu, (inner,)),
        (mm, (hidden, inner)),
        *few,
    ]


def few_tokens(block: bool, hidden: int, head_dim: int, inner: int) -> int:
    """Up to how many tokens per-token FP8 has scales per group (`FEW`); 0: none.

    A narrow model has few tiles for its parts of K: H200, a step of 0.6B with groups takes 0.89 of
    the time without at one token and 1.06 at 8, where 1.7B takes 0.95.
    """
    if block or head_dim != GROUP or inner % GROUP:
        return 0
    return FEW if hidden >= 2048 else 1


def replaced(
    sizes: Sizes, block: bool, tp: int = 1, num_speculative_tokens: int = 0
) -> dict[Call, int]:
    """Those of `calls` that decode steps of up to so many tokens do not make, as these have groups
    (`few_tokens`). Raises ValueError where `calls` does."""
    everything = calls(sizes, block, tp, num_speculative_tokens)
    grouped = [dims for name, dims in everything if name == "scaled_mm_groupwise"]
    if not grouped:
        return {}
    (hidden, q_size), (_, inner) = grouped
    gone = [("dynamic_per_token_scaled_fp8_quant", (q_size,)), ("scaled_mm", (hidden, q_size))]
    gone += [("silu_and_mul_dynamic_per_token_quant", (inner,)), ("scaled_mm", (hidden, inner))]
    attention = "fused_qk_norm_rope_paged_attention"
    gone += [call for call in everything if call[0] == attention and not call[1][4]]
    return dict.fromkeys(gone, few_tokens(block, hidden, sizes.head_dim, inner))


def quantises(block: bool, head_dim: int) -> bool:
    """Whether attention of a decode step quantises its output: where a head is a group."""
    return block and head_dim == GROUP


def lm_head_calls(sizes: Sizes, tp: int = 1) -> list[Call]:
    """(op, static dims) of an lm_head in FP8, which is per token whatever the layers are."""
    vocab = -(-sizes.vocab_size // VOCAB_PADDING) * VOCAB_PADDING
    return [
        ("dynamic_per_token_scaled_fp8_quant", (sizes.hidden_size,)),
        ("scaled_mm", (vocab // tp, sizes.hidden_size)),
    ]


def dims_of(sizes: Sizes, op_name: str) -> list[tuple[Any, ...]]:
    """The dims with which a model calls an op, in the order of the layer, each once.

    Raises KeyError for an op that no model calls.
    """
    both = calls(sizes, block=False) + calls(sizes, block=True) + lm_head_calls(sizes)
    dims = list(dict.fromkeys(dims for name, dims in both if name == op_name))
    if not dims:
        raise KeyError(f"{op_name}: Qwen3 does not call this op")
    return dims
