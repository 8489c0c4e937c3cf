# SPDX-License-Identifier: Apache-2.0
"""What stock vLLM runs in an op's place: its own kernels. What Inductor makes: `inductor`.

An arm takes an op's arguments and returns a closure that does the op's work on them. Layouts that
stock's own kernels write for one another (DeepGEMM's aligned scales) are made outside the closure.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch

from helion_kernels import OPS
from helion_kernels.fp8 import FP8_MAX, GROUP

Arm = Callable[..., Callable[[], object]]


def load() -> str | None:
    """Make `torch.ops._C` available. Returns why it cannot be, or None."""
    try:
        importlib.import_module("vllm._C_stable_libtorch")
    except ImportError as error:
        return f"stock arms skipped: {error}"
    return None


def register() -> str | None:
    """Give plans the kernels that config entries named `stock` mean, as serving does.

    Returns why it cannot be, or None. A plan without them runs the op's own rule instead.
    """
    try:
        served = importlib.import_module("vllm.helion.stock")
    except ImportError as error:
        return f"buckets that are stock's run our rule instead: {error}"
    served.register()
    return None


def arms(op_name: str, dims: tuple[Any, ...]) -> dict[str, Arm]:
    """Stock's arms for an op, by name; vLLM's ops must be loaded."""
    found = dict(_CSRC.get(op_name, {}))
    if op_name == "scaled_mm_blockwise" and _deep_gemm() is None:
        del found["deepgemm"]
    return found


def _rms_norm_token(out, input, weight, scale, epsilon, residual):  # type: ignore[no-untyped-def]
    op = torch.ops._C.rms_norm_dynamic_per_token_quant
    return lambda: op(out, input, weight, scale, epsilon, None, residual)


def _rms_norm_block(out, input, weight, scale, epsilon, residual):  # type: ignore[no-untyped-def]
    op = torch.ops._C.rms_norm_per_block_quant
    return lambda: op(out, input, weight, scale, epsilon, None, residual, 128, True)


def _token_quant(out, input, scale):  # type: ignore[no-untyped-def]
    op = torch.ops._C.dynamic_per_token_scaled_fp8_quant
    return lambda: op(out, input, scale, None)


def _group_quant(out, input, scale):  # type: ignore[no-untyped-def]
    op = torch.ops._C.per_token_group_fp8_quant
    return lambda: op(input, out, scale, 128, 1e-10, -FP8_MAX, FP8_MAX, False, True, False)


def _silu_token(out, input, scale):  # type: ignore[no-untyped-def]
    activated = torch.empty(out.shape, dtype=input.dtype, device=input.device)

    def run() -> None:
        torch.ops._C.silu_and_mul(activated, input)
        torch.ops._C.dynamic_per_token_scaled_fp8_quant(out, activated, scale, None)

    return run


def _silu_block(out, input, scale):  # type: ignore[no-untyped-def]
    op = torch.ops._C.silu_and_mul_per_block_quant
    return lambda: op(out, input, scale, 128, None, True)


def _qk_norm_rope(q_out, k_out, qkv, q_weight, k_weight, cos_sin_cache, positions, epsilon):  # type: ignore[no-untyped-def]
    d = q_weight.shape[0]
    q, kv = q_out.shape[1] // d, k_out.shape[1] // d
    op = torch.ops._C.fused_qk_norm_rope
    weights = q_weight, k_weight, cos_sin_cache
    return lambda: op(qkv, q, kv, kv, d, epsilon, *weights, True, positions)


def _qk_norm_rope_kv_write(  # type: ignore[no-untyped-def]
    q_out, kv_cache, slot_mapping, qkv, q_weight, k_weight, cos_sin_cache, positions, epsilon
):
    d, kv = q_weight.shape[0], kv_cache.shape[1]
    k_out = qkv.new_empty((0, kv * d))
    rope = _qk_norm_rope(q_out, k_out, qkv, q_weight, k_weight, cos_sin_cache, positions, epsilon)
    _, key, value = qkv.split([q_out.shape[1], kv * d, kv * d], dim=1)
    key, value = key.unflatten(1, (kv, d)), value.unflatten(1, (kv, d))
    caches = kv_cache.transpose(1, 2).split(d, dim=-1)
    one = torch.ones((), device=qkv.device)
    write = torch.ops._C_cache_ops.reshape_and_cache_flash

    def run() -> None:
        rope()
        write(key, value, *caches, slot_mapping, "auto", one, one)

    return run


MAX_SPLITS = 32
"""vLLM's `flash_attn_max_num_splits_for_cuda_graph`."""


def _decode_attention(  # type: ignore[no-untyped-def]
    out, kv_cache, slot_mapping, qkv, q_weight, k_weight, cos_sin_cache, positions, epsilon,
    block_table, seq_lens, softmax_scale, workspace, scale,
):  # fmt: skip
    mixed = qkv.new_empty(out.shape) if scale is not None else out
    inputs = q_weight, k_weight, cos_sin_cache, positions, epsilon
    write = _qk_norm_rope_kv_write(mixed, kv_cache, slot_mapping, qkv, *inputs)
    queries = qkv[:, : out.shape[1]]  # which are rotated in their place
    attend = _flash_attention(mixed, queries, kv_cache, block_table, seq_lens, softmax_scale)
    quantise = _group_quant(out, mixed, scale) if scale is not None else lambda: None

    def run() -> None:
        write()
        attend()
        quantise()

    return run


def _flash_attention(out, q, kv_cache, block_table, seq_lens, softmax_scale):  # type: ignore[no-untyped-def]
    """As in a CUDA graph (vllm/v1/attention/backends/flash_attn.py): scheduled once a step, not
    once a layer, so outside of what is timed."""
    flash = importlib.import_module("vllm.vllm_flash_attn")
    m, (_, kv_heads, block_size, width) = len(q), kv_cache.shape
    d = width // 2
    keys, values = kv_cache.transpose(1, 2).split(d, dim=-1)
    queries, mixed = q.unflatten(1, (-1, d)), out.unflatten(1, (-1, d))
    longest = block_table.shape[1] * block_size
    starts = torch.arange(m + 1, dtype=torch.int32, device=q.device)
    schedule = flash.get_scheduler_metadata(
        batch_size=m,
        max_seqlen_q=1,
        max_seqlen_k=longest,
        num_heads_q=queries.shape[1],
        num_heads_kv=kv_heads,
        headdim=d,
        cache_seqlens=seq_lens,
        qkv_dtype=q.dtype,
        cu_seqlens_q=starts,
        page_size=block_size,
        causal=True,
        num_splits=MAX_SPLITS,
    )
    return lambda: flash.flash_attn_varlen_func(
        q=queries,
        k=keys,
        v=values,
        out=mixed,
        cu_seqlens_q=starts,
        max_seqlen_q=1,
        seqused_k=seq_lens,
        max_seqlen_k=longest,
        softmax_scale=softmax_scale,
        causal=True,
        block_table=block_table,
        scheduler_metadata=schedule,
        fa_version=3,
        num_splits=MAX_SPLITS,
    )


def _cutlass(out, a, b, scale_a, scale_b, workspace):  # type: ignore[no-untyped-def]
    op = torch.ops._C.cutlass_scaled_mm
    return lambda: op(out, a, b, scale_a, scale_b, None)


def _cutlass_token(out, a, b, scale_a, scale_b, workspace):  # type: ignore[no-untyped-def]
    """With a scale per token, which stock has there; quantised again outside of what is timed."""
    exact = a.float() * scale_a.repeat_interleave(GROUP, dim=1)
    values, scale = torch.empty_like(a), scale_a.new_empty((len(a), 1))
    OPS["dynamic_per_token_scaled_fp8_quant"].reference(values, exact, scale)
    return _cutlass(out, values, b, scale, scale_b, workspace)


def _cutlass_block(out, a, b, scale_a, scale_b, workspace):  # type: ignore[no-untyped-def]
    return _cutlass(out, a, b, scale_a, scale_b.t(), workspace)


def _deep_gemm() -> Any:
    try:
        module = importlib.import_module("vllm.utils.deep_gemm")
        return module if module.is_deep_gemm_supported() else None
    except Exception:  # vLLM without a usable platform or DeepGEMM's JIT without nvcc
        return None


def _deepgemm(out, a, b, scale_a, scale_b, workspace):  # type: ignore[no-untyped-def]
    module = _deep_gemm()
    aligned = module.get_col_major_tma_aligned_tensor(scale_a)
    # float32 scales as they are: the E8M0 form would be another computation.
    return lambda: module.fp8_gemm_nt(
        (a, aligned), (b.t(), scale_b), out, is_deep_gemm_e8m0_used=False
    )


_CSRC: dict[str, dict[str, Arm]] = {
    "rms_norm_dynamic_per_token_quant": {"csrc": _rms_norm_token},
    "rms_norm_per_block_quant": {"csrc": _rms_norm_block},
    "dynamic_per_token_scaled_fp8_quant": {"csrc": _token_quant},
    "per_token_group_fp8_quant": {"csrc": _group_quant},
    "silu_and_mul_dynamic_per_token_quant": {"csrc x2": _silu_token},
    "silu_and_mul_per_block_quant": {"csrc": _silu_block},
    "fused_qk_norm_rope": {"csrc": _qk_norm_rope},
    "fused_qk_norm_rope_kv_write": {"csrc x2": _qk_norm_rope_kv_write},
    "fused_qk_norm_rope_paged_attention": {"csrc and fa3": _decode_attention},
    "scaled_mm": {"cutlass": _cutlass},
    "scaled_mm_blockwise": {"cutlass": _cutlass_block, "deepgemm": _deepgemm},
    "scaled_mm_groupwise": {"cutlass": _cutlass_token},
}
