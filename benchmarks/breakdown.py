# SPDX-License-Identifier: Apache-2.0
"""Where the time of a decode step goes: microseconds of its kernels, grouped by their names.

`engine_arm --profile` records the kernels of a prefill and of a prefill with decode steps after it;
their difference is the decode steps. Exact where the prefill fits one step (32 prompts of 512).
"""

import re
from typing import Any

from benchmarks.engine_arm import label

GROUPS = ("gemm", "norm+quant", "rope+cache", "attention", "lm_head", "sampling", "other")
_RULES = [
    (group, re.compile(pattern, re.IGNORECASE))
    for group, pattern in (
        ("attention", r"flash::|flash_fwd|flashinfer|fmha|paged_attention|unified_attention"),
        # Inductor gives combo kernels, which here join q's and k's norm or rope, a number alone.
        ("rope+cache", r"qk_?norm_?rope|reshape_and_cache|rotary|^triton_[a-z]+_fused_\d+$"),
        # Before the GEMMs: Inductor's names hold those of the GEMMs whose inputs they quantise.
        ("norm+quant", r"^_helion_.*(norm|quant)|^triton_.*(norm|quant|abs|silu)"),
        ("norm+quant", r"rms_?norm|quant|silu|act_and_mul"),
        # The one bf16 GEMM of these models; cuBLAS runs it.
        ("lm_head", r"^nvjet|cublas|_gemm_bf16|bf16_s\d+gemm|cutlass_80"),
        ("gemm", r"gemm|scaled_mm"),
        ("sampling", r"gumbel|argmax|sampl|top_?k|softmax"),
    )
]


def group(kernel: str) -> str:
    """Of a kernel's name."""
    return next((name for name, pattern in _RULES if pattern.search(kernel)), "other")


def by_group(profile: list[dict[str, Any]]) -> dict[str, float]:
    """Microseconds of each group."""
    us = dict.fromkeys(GROUPS, 0.0)
    for event in profile:
        us[group(event["kernel"])] += event["us"]
    return us


def cells(run: dict[str, Any]) -> dict[str, float]:
    """`gemm@32` …: microseconds of a decode step of a process's profiles, by group and batch.

    `kernels` is their sum; `not in kernels` what the time per output token has besides.
    """
    found: dict[str, float] = {}
    for name, profile in run.items():
        match = re.fullmatch(r"profile_(\d+)", name)
        prefill = run.get(f"{name}_prefill")
        if match is None or prefill is None:
            continue
        batch, steps = int(match[1]), run["profiled_tokens"] - 1
        whole, first = by_group(profile), by_group(prefill)
        # Whole ones: two prefills differ by fractions, which are no kernel of a step.
        us = {each: round(max(0.0, whole[each] - first[each]) / steps) for each in GROUPS}
        found |= {f"{each}@{batch}": value for each, value in us.items()}
        total = found[f"kernels@{batch}"] = sum(us.values())
        tpot = next((r["tpot_ms"] for r in run["rows"] if label(r) == match[1]), None)
        if tpot is not None:
            found[f"not in kernels@{batch}"] = 1e3 * tpot - total
    return found
