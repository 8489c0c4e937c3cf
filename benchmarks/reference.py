# SPDX-License-Identifier: Apache-2.0
"""Qwen3 in plain PyTorch, slow and readable: what the served model must compute.

It reads a checkpoint in bf16, FP8-dynamic (compressed-tensors) or block FP8, and shares no code
with what it checks. Arithmetic is float32; values are rounded only where the served model rounds:
to e4m3 the input of every FP8 GEMM, with a float32 scale per token, or per 128 elements of a token;
to bf16 at the places in SERVED.

A bf16 checkpoint rounds to bf16 where an FP8 one quantises. `exact` leaves out every rounding to
bf16 and computes in float64: what is left is the quantised model itself, which no engine's choice
of where to round favours.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

FP8_MAX = 448.0
MIN_TOKEN_SCALE = 1.0 / (FP8_MAX * 512.0)
MIN_GROUP_AMAX = 1e-10
MIN_HEAD_AMAX = 1e-4
GROUP = 128


SERVED = frozenset({
    "mlp_residual", "attention_residual",  # the stream after each addition; norms see it before
    "qkv", "o", "gate_up", "down",  # outputs of GEMMs
    "cos_sin", "rope",  # q and k once, after norm and rotation
    "attention",  # its output
    "last_norm",  # the lm_head's input
})  # fmt: skip
"""Where the served model rounds to bf16; logits stay float32."""
UPSTREAM = frozenset({"norm", "qk_norm", "softmax", "silu", "logits"})
"""Where upstream's kernels round, too, or some of them."""
EXACT: frozenset[str] = frozenset()
GROUPS = "groups"
"""No rounding, but named as one: the inputs of o and down have scales per 128 elements in per-token
FP8, too, as ours gives them to few tokens (`helion_kernels.qwen3.FEW`)."""
_OUTPUTS = dict.fromkeys(("q_proj", "k_proj", "v_proj"), "qkv")
_OUTPUTS |= {"o_proj": "o", "gate_proj": "gate_up", "up_proj": "gate_up", "down_proj": "down"}


def bf16(x: torch.Tensor) -> torch.Tensor:
    """Round to bf16, keep the type."""
    return x.to(torch.bfloat16).to(x.dtype)


def unrounded(x: torch.Tensor) -> torch.Tensor:
    return x


def fp8(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Quantise to e4m3 by ``scale``, and back."""
    quotient = (x / scale).clamp(-FP8_MAX, FP8_MAX)
    return quotient.to(torch.float8_e4m3fn).to(x.dtype) * scale


def power_of_two(x: torch.Tensor) -> torch.Tensor:
    """Rounded up; of float32, as vLLM has its scales."""
    return torch.exp2(torch.ceil(torch.log2(x.float()))).to(x.dtype)


def ue8m0_weight(weight: torch.Tensor) -> torch.Tensor:
    """Dequantised blocks, quantised again with scales that are powers of two, and back."""
    rows, columns = weight.shape
    pad = (0, -columns % GROUP, 0, -rows % GROUP)
    blocks = (
        torch.nn.functional.pad(weight, pad).unflatten(1, (-1, GROUP)).unflatten(0, (-1, GROUP))
    )
    amax = blocks.abs().amax((1, 3), keepdim=True).clamp(min=1e-4)
    return fp8(blocks, power_of_two(amax / FP8_MAX)).flatten(2).flatten(0, 1)[:rows, :columns]


class Linear:
    """y = round(quantised(x) @ weight.T), by the tensors that the checkpoint has under ``name``."""

    def __init__(
        self,
        tensors: dict[str, torch.Tensor],
        name: str,
        dtype: torch.dtype,
        round: Callable[[torch.Tensor], torch.Tensor],
        ue8m0: bool = False,
    ) -> None:
        weight = tensors[name + ".weight"].to(dtype)
        self.round, self.ue8m0 = round, ue8m0
        rows, columns = weight.shape
        self.group: int | None = None
        if (scale := tensors.get(name + ".weight_scale")) is not None:
            assert scale.shape == (rows, 1), f"{name}: a scale per row"
            weight = weight * scale.to(dtype)
            self.group = columns
        elif (scale := tensors.get(name + ".weight_scale_inv")) is not None:
            wide = scale.to(dtype).repeat_interleave(GROUP, 0).repeat_interleave(GROUP, 1)
            weight = weight * wide[:rows, :columns]
            weight = ue8m0_weight(weight) if ue8m0 else weight
            self.group = GROUP
        self.weight = weight

    def quantise(self, x: torch.Tensor) -> torch.Tensor:
        if self.group is None:
            return self.round(x)
        groups = x.unflatten(-1, (-1, self.group))
        amax = groups.abs().amax(-1, keepdim=True)
        if self.group == GROUP:
            scale = amax.clamp(min=MIN_GROUP_AMAX) / FP8_MAX
            scale = power_of_two(scale) if self.ue8m0 else scale
        else:
            scale = (amax / FP8_MAX).clamp(min=MIN_TOKEN_SCALE)
        return fp8(groups, scale).flatten(-2)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.round(self.quantise(x) @ self.weight.t())


class Decoder:
    """Decoder layers of the tensors given, named as in a checkpoint.

    dtype: of all arithmetic; rounded: the places at which values are rounded to bf16.
    """

    def __init__(
        self,
        tensors: dict[str, torch.Tensor],
        q_heads: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        rounded: frozenset[str],
        epsilon: float = 1e-6,
        theta: float = 1e6,
        ue8m0: bool = False,
    ) -> None:
        self.q_heads, self.kv_heads, self.head_dim = q_heads, kv_heads, head_dim
        self.epsilon, self.theta = epsilon, theta
        self.dtype, self.rounded = dtype, rounded
        self.linears = {
            name: Linear(tensors, name, dtype, self._rounding(_OUTPUTS[name.split(".")[-1]]), ue8m0)
            for name in (key.removesuffix(".weight") for key in tensors)
            if name.endswith("_proj")
        }
        if GROUPS in rounded:
            for name, linear in self.linears.items():
                if name.endswith(("o_proj", "down_proj")) and linear.group is not None:
                    linear.group = GROUP
        self.vectors = {name: t.to(dtype) for name, t in tensors.items() if "norm" in name}

    def _rounding(self, place: str) -> Callable[[torch.Tensor], torch.Tensor]:
        return bf16 if place in self.rounded else unrounded

    def round(self, x: torch.Tensor, place: str) -> torch.Tensor:
        return self._rounding(place)(x)

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon)
        return x * inverse * self.vectors[name + ".weight"]

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        """NeoX rotary embedding of x [..., tokens, heads, head_dim]."""
        exponents = torch.arange(0, self.head_dim, 2).to(x) / self.head_dim
        angles = torch.outer(torch.arange(x.shape[-3]).to(x), self.theta**-exponents)
        cos = self.round(angles.cos(), "cos_sin").unsqueeze(1)
        sin = self.round(angles.sin(), "cos_sin").unsqueeze(1)
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    def attention(self, x: torch.Tensor, prefix: str) -> torch.Tensor:
        def heads(projection: str) -> torch.Tensor:
            return self.linears[prefix + projection](x).unflatten(-1, (-1, self.head_dim))

        def normed(name: str) -> torch.Tensor:
            x = self.round(self.norm(heads(f"{name}_proj"), f"{prefix}{name}_norm"), "qk_norm")
            return self.round(self.rotate(x), "rope")

        q, k, v = normed("q"), normed("k"), heads("v_proj")
        shared = self.q_heads // self.kv_heads
        k, v = k.repeat_interleave(shared, -2), v.repeat_interleave(shared, -2)
        scores = torch.einsum("...qhd,...khd->...hqk", q, k) / self.head_dim**0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
        # A kernel divides by the sum of what it has not rounded, after the product.
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        total = weights.sum(-1, keepdim=True).transpose(-3, -2)
        mixed = torch.einsum("...hqk,...khd->...qhd", self.round(weights, "softmax"), v) / total
        return self.linears[prefix + "o_proj"](self.round(mixed, "attention").flatten(-2))

    def mlp(self, x: torch.Tensor, prefix: str) -> torch.Tensor:
        gate, up = (self.linears[prefix + name](x) for name in ("gate_proj", "up_proj"))
        return self.linears[prefix + "down_proj"](
            self.round(gate * torch.sigmoid(gate) * up, "silu")
        )

    def layer(self, x: torch.Tensor, index: int) -> torch.Tensor:
        """The residual stream [..., tokens, hidden] of sequences after that layer, not rounded yet:
        x is what the layer before returned.
        """
        prefix = f"model.layers.{index}."
        normed = self.round(self.norm(x, prefix + "input_layernorm"), "norm")
        x = self.round(x, "mlp_residual") + self.attention(normed, prefix + "self_attn.")
        normed = self.round(self.norm(x, prefix + "post_attention_layernorm"), "norm")
        return self.round(x, "attention_residual") + self.mlp(normed, prefix + "mlp.")


class Qwen3(Decoder):
    """The model of one checkpoint folder. No cache: every call computes all tokens anew."""

    def __init__(
        self,
        folder: Path,
        exact: bool = False,
        device: str | torch.device = "cpu",
        ue8m0: bool = False,
        fp8_lm_head: bool = False,
        rounded: frozenset[str] = SERVED,
    ) -> None:
        """rounded: places at which values are rounded to bf16, unless exact."""
        config = json.loads((folder / "config.json").read_text("utf-8"))
        tensors = {
            name: tensor.to(device)
            for name, tensor in load_file(folder / "model.safetensors").items()
        }
        super().__init__(
            tensors,
            config["num_attention_heads"],
            config["num_key_value_heads"],
            config["head_dim"],
            torch.float64 if exact else torch.float32,
            EXACT if exact else rounded,
            config["rms_norm_eps"],
            config["rope_theta"],
            ue8m0,
        )
        self.layers: int = config["num_hidden_layers"]
        self.embedding = tensors["model.embed_tokens.weight"].to(self.dtype)
        tied = config["tie_word_embeddings"]
        head = self.embedding if tied else tensors["lm_head.weight"].to(self.dtype)
        quantised = {"lm_head.weight": head}
        if fp8_lm_head:
            scale = head.abs().amax(1, keepdim=True).clamp(min=MIN_HEAD_AMAX) / FP8_MAX
            scale = scale.float()  # as an engine keeps it
            values = (head / scale).to(torch.float8_e4m3fn)
            quantised = {"lm_head.weight": values, "lm_head.weight_scale": scale}
        self.head = Linear(quantised, "lm_head", self.dtype, unrounded)

    @torch.inference_mode()
    def hidden(self, tokens: list[int] | torch.Tensor) -> torch.Tensor:
        """The lm_head's input [..., hidden] for tokens [...]: a sequence, or some of one length."""
        x = self.embedding[tokens]
        for layer in range(self.layers):
            x = self.layer(x, layer)
        return self.round(self.norm(self.round(x, "mlp_residual"), "model.norm"), "last_norm")

    @torch.inference_mode()
    def logits(self, tokens: list[int] | torch.Tensor) -> torch.Tensor:
        """Logits [..., vocabulary]: row i is what comes after token i."""
        return self.round(self.head(self.hidden(tokens)), "logits")

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """The ``count`` best tokens after ``prompt``, one by one."""
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(self.logits(tokens)[-1].argmax()))
        return tokens[len(prompt) :]
