# SPDX-License-Identifier: Apache-2.0
"""Options of engines that serve a small model, several on one GPU or on a CPU."""

from typing import Any

COMMON = {"max_model_len": 1024}
GPU = {"kv_cache_memory_bytes": 2 << 30, "gpu_memory_utilization": 0.08}
"""vLLM measures memory for a cache whose size it is not told, and gives up where a neighbour starts
or ends meanwhile. The share must be free when an engine starts, and bounds nothing else then."""
CPU = {"enforce_eager": True}
CPU_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1"}
SHAPES: dict[str, dict[str, Any]] = {
    "whole": {"max_num_batched_tokens": 8192, "max_num_seqs": 256},
    "chunked": {"max_num_batched_tokens": 96, "max_num_seqs": 64},
    "whole-eager": {"max_num_batched_tokens": 8192, "max_num_seqs": 256, "enforce_eager": True},
    "chunked-eager": {"max_num_batched_tokens": 96, "max_num_seqs": 64, "enforce_eager": True},
    "alone": {"max_num_batched_tokens": 96, "max_num_seqs": 1},
}
"""Sequences decoded alone have what few tokens have (`helion_kernels.qwen3.few_tokens`); a thousand
tokens of them take a second, so that shape is to be asked for by name."""


def options(shape: str, gpu: bool) -> dict[str, Any]:
    """Arguments of `LLM`."""
    return COMMON | SHAPES[shape] | (GPU if gpu else CPU)


def shapes(gpu: bool) -> list[str]:
    """Those of a usual run that differ here: a CPU has no graphs."""
    return [shape for shape in SHAPES if shape != "alone" and (gpu or "eager" not in shape)]
