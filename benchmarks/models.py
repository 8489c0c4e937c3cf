# SPDX-License-Identifier: Apache-2.0
"""Sizes of the dense Qwen3 models, and the static dims of every op that they meet."""

from typing import Any, NamedTuple


class Model(NamedTuple):
    hidden_size: int
    intermediate_size: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int = 128


MODELS = {
    "0.6b": Model(1024, 3072, 16, 8),
    "1.7b": Model(2048, 6144, 16, 8),
    "4b": Model(2560, 9728, 32, 8),
    "8b": Model(4096, 12288, 32, 8),
    "14b": Model(5120, 17408, 40, 8),
    "32b": Model(5120, 25600, 64, 8),
}


def dims_of(model: Model, op_name: str) -> list[tuple[Any, ...]]:
    """The dims with which a decoder layer calls the op, in the order of the layer, each once."""
    hidden, intermediate, q, kv, d = model
    if op_name in ("scaled_mm", "scaled_mm_blockwise"):
        dims: list[tuple[Any, ...]] = [
            ((q + 2 * kv) * d, hidden),
            (hidden, q * d),
            (2 * intermediate, hidden),
            (hidden, intermediate),
        ]
    elif op_name.startswith("rms_norm"):
        dims = [(hidden, False), (hidden, True)]
    elif op_name.startswith("silu_and_mul"):
        dims = [(intermediate,)]
    elif op_name.startswith("fused_qk_norm_rope"):
        dims = [(q, kv, d)]
    elif op_name in ("dynamic_per_token_scaled_fp8_quant", "per_token_group_fp8_quant"):
        dims = [(q * d,)]
    else:
        raise KeyError(f"{op_name}: no dims of a model known for this op")
    return list(dict.fromkeys(dims))
