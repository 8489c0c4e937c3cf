# SPDX-License-Identifier: Apache-2.0
"""The least time of a decode step: the bytes that it must read, at the rate of the GPU's memory.

Weights in FP8, keys and values in bf16, the lm_head in bf16 or FP8. Scales, activations and what a
step writes are less than a hundredth of it.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks import breakdown, engine, spread
from benchmarks.checkpoint import LAYERS
from benchmarks.engine_arm import OUTPUT_TOKENS, case
from benchmarks.step import layer_bytes
from helion_kernels.qwen3 import MODELS, Sizes


class Share(NamedTuple):
    """How near a time is to its floor, both in the unit of their cell."""

    floor: float
    share: float

    def __str__(self) -> str:
        return f"{100 * self.share:.0f} % of {spread.number(self.floor)}"


def step_bytes(
    sizes: Sizes, layers: int, batch: int, context: float, fp8_lm_head: bool
) -> dict[str, float]:
    """Of a step of `batch` sequences of `context` tokens, by the group of `breakdown` that reads
    them."""
    token = layers * sizes.num_kv_heads * sizes.head_dim * 2 * 2
    lm_head = sizes.vocab_size * sizes.hidden_size * (1 if fp8_lm_head else 2)
    return {
        "gemm": layers * layer_bytes(sizes),
        "attention": batch * context * token,
        "lm_head": lm_head,
    }


def shares(document: dict[str, Any], bytes_per_us: float) -> dict[str, dict[str, Share]]:
    """Of a document of `benchmarks.engine`: arm -> cell -> share; cells as they are there.

    Empty for another model than Qwen3, and with speculative decoding, whose steps are of another
    kind.
    """
    named = re.match(r"Qwen3-([\d.]+B)\b", str(document.get("model")))
    arguments = document.get("arguments") or []
    if named is None or named[1].lower() not in MODELS or "speculative_config" in str(arguments):
        return {}
    model = named[1].lower()
    tokens = OUTPUT_TOKENS
    if "--tokens" in arguments:
        tokens = int(arguments[arguments.index("--tokens") + 1])
    found: dict[str, dict[str, Share]] = {}
    for arm, times in spread.summary(document["runs"], _times).items():
        quick = (document.get("arms") or {}).get(arm, {}).get("VLLM_HELION_FP8_LM_HEAD") == "1"
        for cell, time in times.items():
            kind, at, where = cell.partition("@")
            if not at:
                continue  # start-up
            batch, length = case(where)
            context = length + tokens / 2 if kind == "tpot_ms" else length
            needed = step_bytes(MODELS[model], LAYERS[model], batch, context, quick)
            if time.median and kind in ("tpot_ms", *needed):
                us = needed.get(kind, sum(needed.values())) / bytes_per_us
                floor = us / 1e3 if kind == "tpot_ms" else us
                found.setdefault(arm, {})[cell] = Share(floor, floor / time.median)
    return found


def _times(run: dict[str, Any]) -> dict[str, float]:
    return engine.cells(run) | breakdown.cells(run)


def lines(found: dict[str, dict[str, Share]]) -> Iterator[list[str]]:
    """Of a table whose columns are the arms."""
    cells = dict.fromkeys(cell for arm in found.values() for cell in arm)
    for cell in cells:
        yield [cell, *(str(arm.get(cell, "-")) for arm in found.values())]
