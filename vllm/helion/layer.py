# SPDX-License-Identifier: Apache-2.0
"""Qwen3's decoder layer as direct calls of Helion kernels."""

from typing import Any

import torch
from torch import nn

from helion_kernels import OPS, qwen3  # registers torch.ops.helion_kernels
from helion_kernels.attention import serves_query_len
from vllm.config import VllmConfig, get_current_vllm_config
from vllm.config.compilation import CompilationMode
from vllm.distributed import tensor_model_parallel_all_reduce
from vllm.forward_context import get_forward_context
from vllm.helion import graphs, switches
from vllm.helion.fp8 import HelionLinearMethod, format_of
from vllm.platforms import current_platform


class Call:
    """One op at one place of the layer. prepare sets `function` and `plan` (`plan.entry`)."""

    def __init__(self, op: str, *dims: int) -> None:
        self.op = op
        self.dims: Any = OPS[op].dims(*dims)
        self.plan = -1
        self.function: Any = getattr(torch.ops.helion_kernels, op).default

    def __call__(self, *args: Any) -> None:
        self.function(*args, self.plan)


class HelionDecoderLayer:
    """What a served Qwen3DecoderLayer runs instead of its modules' forwards.

    It owns no parameters: weights stay on the upstream modules, where loading, sharding, sleeping
    and reloading find them.
    """

    def __init__(self, layer: nn.Module) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        format = format_of(attention.qkv_proj)
        assert format is not None
        self.format = format
        self.input_norm = layer.input_layernorm
        self.post_norm = layer.post_attention_layernorm
        self.qkv, self.o = attention.qkv_proj, attention.o_proj
        self.gate_up, self.down = mlp.gate_up_proj, mlp.down_proj
        self.q_norm, self.k_norm = attention.q_norm, attention.k_norm
        self.rope = attention.rotary_emb
        self.attn = attention.attn
        self.epsilon = self.q_norm.variance_epsilon

        hidden, self.q_size, self.kv_size = layer.hidden_size, attention.q_size, attention.kv_size
        self.intermediate = self.down.input_size_per_partition
        self.reduce_o = self.o.reduce_results and self.o.tp_size > 1
        self.reduce_down = self.down.reduce_results and self.down.tp_size > 1
        for linear in (self.qkv, self.o, self.gate_up, self.down):
            linear.quant_method = HelionLinearMethod(format, linear)

        heads = (attention.num_heads, attention.num_kv_heads, attention.head_dim)
        self.first_norm_quant = Call(format.rms_norm_quant, hidden, False)
        self.norm_quant = Call(format.rms_norm_quant, hidden, True)
        self.qkv_mm = Call(format.scaled_mm, self.q_size + 2 * self.kv_size, hidden)
        self.qk_norm_rope = Call("fused_qk_norm_rope", *heads)
        self.qk_norm_rope_kv_write = Call("fused_qk_norm_rope_kv_write", *heads)
        vllm_config = get_current_vllm_config()
        block_size = vllm_config.cache_config.block_size
        quantises = qwen3.quantises(format.grouped, attention.head_dim)
        query_len = 1 + vllm_config.num_speculative_tokens
        self.decode_attention = Call(
            "fused_qk_norm_rope_paged_attention", *heads, block_size, quantises, query_len
        )
        self.attn_quant = Call(format.quant, self.q_size)
        self.o_mm = Call(format.scaled_mm, hidden, self.q_size)
        self.gate_up_mm = Call(format.scaled_mm, 2 * self.intermediate, hidden)
        self.silu_and_mul_quant = Call(format.silu_and_mul_quant, self.intermediate)
        self.down_mm = Call(format.scaled_mm, hidden, self.intermediate)
        self.writes_kv = _writes_kv(self.attn)
        self.attends = (
            self.writes_kv
            and serves_query_len(*heads[:2], query_len)
            and _attends(self.attn, block_size, vllm_config)
        )
        few = qwen3.few_tokens(format.grouped, hidden, attention.head_dim, self.intermediate)
        self.few_tokens = few if self.attends else 0
        if self.few_tokens:
            self.few_attention = Call(
                "fused_qk_norm_rope_paged_attention", *heads, block_size, True, query_len
            )
            self.few_o_mm = Call("scaled_mm_groupwise", hidden, self.q_size)
            self.few_silu_and_mul_quant = Call("silu_and_mul_per_block_quant", self.intermediate)
            self.few_down_mm = Call("scaled_mm_groupwise", hidden, self.intermediate)
        if self.attends:
            graphs.use(query_len)
        self.workspace: torch.Tensor | None = None
        """Of the GEMMs; set by prepare."""

    @property
    def calls(self) -> list[Call]:
        """Every op that this layer can call."""
        skipped = [] if self.writes_kv else [self.qk_norm_rope_kv_write]
        skipped += [] if self.attends else [self.decode_attention]
        return [c for c in vars(self).values() if isinstance(c, Call) and c not in skipped]

    def __call__(
        self, positions: torch.Tensor, hidden_states: torch.Tensor, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden_states, residual [M, hidden] bf16; residual is updated in place, as upstream's."""
        hidden = hidden_states.shape[1]
        norm = self.input_norm
        x, scale = self.format.activation(hidden_states, hidden)
        if residual is None:
            residual = hidden_states
            self.first_norm_quant(x, residual, norm.weight, scale, norm.variance_epsilon, None)
        else:
            epsilon = norm.variance_epsilon
            self.norm_quant(x, hidden_states, norm.weight, scale, epsilon, residual)

        qkv = self._mm(self.qkv_mm, x, scale, self.qkv)
        x, scale, o_mm = self._attention(positions, qkv)
        hidden_states = self._mm(o_mm, x, scale, self.o)
        if self.reduce_o:
            hidden_states = tensor_model_parallel_all_reduce(hidden_states)

        norm = self.post_norm
        x, scale = self.format.activation(hidden_states, hidden)
        self.norm_quant(x, hidden_states, norm.weight, scale, norm.variance_epsilon, residual)
        gate_up = self._mm(self.gate_up_mm, x, scale, self.gate_up)

        few = self._is_few(hidden_states)
        x, scale = self.format.activation(hidden_states, self.intermediate, few)
        silu_and_mul_quant = self.few_silu_and_mul_quant if few else self.silu_and_mul_quant
        silu_and_mul_quant(x, gate_up, scale)
        down_mm = self.few_down_mm if few else self.down_mm
        hidden_states = self._mm(down_mm, x, scale, self.down)
        if self.reduce_down:
            hidden_states = tensor_model_parallel_all_reduce(hidden_states)
        return hidden_states, residual

    def _is_few(self, x: torch.Tensor) -> bool:
        """Whether per-token FP8 has scales per group here: no row is passed over ahead of them."""
        # A compiled graph, which has none, is not to depend on its size.
        return self.few_tokens > 0 and len(x) <= self.few_tokens

    def _mm(
        self, call: Call, x: torch.Tensor, scale: torch.Tensor, linear: nn.Module
    ) -> torch.Tensor:
        weight = linear.weight
        out = torch.empty((x.shape[0], weight.shape[0]), dtype=torch.bfloat16, device=x.device)
        call(out, x, weight.t(), scale, linear.helion_scale, self.workspace)
        return out

    def _attention(
        self, positions: torch.Tensor, qkv: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, Call]:
        """Attention's output, quantised: values and scales, and the GEMM that takes them."""
        inputs = (
            qkv,
            self.q_norm.weight,
            self.k_norm.weight,
            self.rope.cos_sin_cache,
            positions,
            self.epsilon,
        )
        q = qkv.new_empty((qkv.shape[0], self.q_size))
        slots = self._slot_mapping() if self.writes_kv else None
        if slots is None:
            k = qkv.new_empty((qkv.shape[0], self.kv_size))
            self.qk_norm_rope(q, k, *inputs)
            out = self.attn(q, k, qkv[:, self.q_size + self.kv_size :])
        else:
            cache = self.attn.kv_cache
            if metadata := self._decode_metadata(len(qkv), slots, cache):
                few = self._is_few(qkv)
                attention = self.few_attention if few else self.decode_attention
                if attention.dims.quantised:
                    x, scale = self.format.activation(qkv, self.q_size, grouped=True)
                    self._attend(attention, metadata, slots, inputs, x, scale)
                    return x, scale, self.few_o_mm if few else self.o_mm
                self._attend(attention, metadata, slots, inputs, q, None)
                out = q
            else:
                self.qk_norm_rope_kv_write(q, cache, slots, *inputs)
                out = self.attn(q, None, None)
        x, scale = self.format.activation(qkv, self.q_size)
        self.attn_quant(x, out, scale)
        return x, scale, self.o_mm

    def _attend(
        self,
        attention: Call,
        metadata: Any,
        slots: torch.Tensor,
        inputs: tuple[Any, ...],
        out: torch.Tensor,
        scale: torch.Tensor | None,
    ) -> None:
        """A decode step from qkv to attention's output; inputs: of the rope kernels, qkv first."""
        qkv, *weights, positions, epsilon = inputs
        query_len = attention.dims.query_len
        if query_len > 1:  # [sequences, query_len, ...]
            shape = (-1, query_len)
            out, slots, qkv, positions = (
                x.unflatten(0, shape) for x in (out, slots, qkv, positions)
            )
            scale = None if scale is None else scale.unflatten(0, shape)
        inputs = qkv, *weights, positions, epsilon
        sequences = metadata.block_table, metadata.seq_lens, self.attn.impl.scale
        attention(out, self.attn.kv_cache, slots, *inputs, *sequences, self.workspace, scale)

    def _slot_mapping(self) -> torch.Tensor | None:
        """Where this step's tokens go in the KV cache; None while memory is profiled."""
        mapping = get_forward_context().slot_mapping
        return mapping.get(self.attn.layer_name) if isinstance(mapping, dict) else None

    def _decode_metadata(self, num_tokens: int, slots: torch.Tensor, cache: torch.Tensor) -> Any:
        """FlashAttention's metadata of a step that `decode_attention` serves; else None."""
        if not self.attends:
            return None
        of_layers = get_forward_context().attn_metadata
        if not isinstance(of_layers, dict):  # a dummy run
            return None
        metadata = of_layers[self.attn.layer_name]
        dims = self.decode_attention.dims
        if not graphs.is_decode(metadata):
            return None
        serves = (
            not metadata.use_cascade
            and len(slots) == num_tokens == len(metadata.seq_lens) * dims.query_len
            and cache.shape[2] == dims.block_size
        )
        if not serves:
            graphs.upstream_attends()
        return metadata if serves else None


def _writes_kv(attn: nn.Module) -> bool:
    """Whether our kernel may write the cache: layout known, bf16, nothing traced around it."""
    vllm_config = get_current_vllm_config()
    return (
        current_platform.is_cuda()
        and attn.attn_backend.get_name() == "FLASH_ATTN"
        and attn.kv_cache_torch_dtype == torch.bfloat16
        and not attn.calculate_kv_scales
        # A compiled graph may not read the forward context: there upstream's own op writes.
        and vllm_config.compilation_config.mode == CompilationMode.NONE
    )


def _attends(attn: nn.Module, block_size: int, vllm_config: VllmConfig) -> bool:
    """Whether our attention may serve decode steps: plain causal attention over all tokens."""
    impl = attn.impl
    plain = (
        impl.sliding_window == (-1, -1)
        and impl.alibi_slopes is None
        and not impl.logits_soft_cap
        and impl.sinks is None
    )
    # With batch invariance a token beside a prompt must get the bits that it gets in a decode step.
    return (
        plain
        # Around each layer's attention upstream's op calls a connector, which may wait for its KV.
        and vllm_config.kv_transfer_config is None
        and block_size & (block_size - 1) == 0
        and switches.attention()
        and not switches.batch_invariant()
    )
