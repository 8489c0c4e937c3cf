# SPDX-License-Identifier: Apache-2.0
"""How far the residual stream is from float64 after each layer of a heavy-tailed model.

Layers are made one by one and dropped again: memory is that of one layer, at any size of model.
One sequence goes through a layer in chunks, as an engine prefills and decodes: its keys and values
are in the layer's paged cache. Attention of the first chunk is PyTorch's in float32 for all arms.
That of the others is the arm's own, each token a sequence of those before it: what sees a token
but not the ones after it is a decode step.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from benchmarks import op_errors, reference, stock
from benchmarks.heavy_tails import MEDIAN, Tails
from benchmarks.step import CALLS, Entries, names, wanted
from helion_kernels import split_k
from helion_kernels.fp8 import FP8, GROUP, as_group_scales, empty_group_scales
from helion_kernels.qwen3 import BLOCK_SIZE, Sizes, quantises

GROWTH = MEDIAN
"""Size of what attention and MLP each add to the stream: from layer to layer it grows as those of
trained models do, and massive activations stay as they are."""
PREFIX = "model.layers.0."
Weight = tuple[torch.Tensor, torch.Tensor]
"""Float8 [N, K] and its scales."""
Launch = Callable[..., None]
"""launch(name of the call, *the op's arguments)."""


class Layer(NamedTuple):
    tensors: dict[str, torch.Tensor]
    """As a checkpoint keeps them, for the reference."""
    linears: dict[str, Weight]
    """As the layer's calls take them: qkv, o, gate_up, down."""


def make_layer(tails: Tails, sizes: Sizes, block: bool) -> Layer:
    hidden, inner, q_heads, kv_heads, d, _ = sizes
    tensors = {
        f"{PREFIX}input_layernorm.weight": tails.norm_weight(hidden),
        f"{PREFIX}post_attention_layernorm.weight": tails.norm_weight(hidden),
        f"{PREFIX}self_attn.q_norm.weight": tails.head_norm_weight(d),
        f"{PREFIX}self_attn.k_norm.weight": tails.head_norm_weight(d),
    }

    def after(norm: str) -> float:
        """That makes outputs of size 1 of a norm's outputs."""
        return float(tensors[f"{PREFIX}{norm}.weight"].double().square().mean().rsqrt())

    attention, mlp = after("input_layernorm"), after("post_attention_layernorm")
    shapes = {
        "self_attn.q_proj": (q_heads * d, hidden, attention),
        "self_attn.k_proj": (kv_heads * d, hidden, attention),
        "self_attn.v_proj": (kv_heads * d, hidden, attention),
        "self_attn.o_proj": (hidden, q_heads * d, GROWTH),
        "mlp.gate_proj": (inner, hidden, mlp),
        "mlp.up_proj": (inner, hidden, mlp),
        "mlp.down_proj": (hidden, inner, GROWTH),
    }
    scale_name = "weight_scale_inv" if block else "weight_scale"
    for name, (n, k, size) in shapes.items():
        edges = (GROUP, GROUP) if block else (1, k)
        weight, scale = op_errors.quantise(tails.weight(n, k, size), *edges)
        tensors[f"{PREFIX}{name}.weight"] = weight
        tensors[f"{PREFIX}{name}.{scale_name}"] = scale

    def merged(*names: str) -> Weight:
        weights = [tensors[f"{PREFIX}{name}.weight"].view(torch.uint8) for name in names]
        scales = [tensors[f"{PREFIX}{name}.{scale_name}"] for name in names]
        return torch.cat(weights).view(FP8), torch.cat(scales)

    linears = {
        "qkv": merged(*(f"self_attn.{x}_proj" for x in "qkv")),
        "o": merged("self_attn.o_proj"),
        "gate_up": merged("mlp.gate_proj", "mlp.up_proj"),
        "down": merged("mlp.down_proj"),
    }
    return Layer(tensors, linears)


def ours(entries: Entries) -> Launch:
    """Prepared plans."""

    def launch(call: str, *args: Any) -> None:
        function, number = entries[call]
        function(*args, number)

    return launch


def upstreams(sizes: Sizes, block: bool) -> Launch:
    """Stock's kernels; `stock.load` first."""
    arms = {
        call: next(iter(stock.arms(name, dims).values()))
        for call, (name, dims) in zip(names(sizes, block), wanted(sizes, block), strict=True)
        if call in CALLS
    }

    def launch(call: str, *args: Any) -> None:
        arms[call](*args)()
        if call == "rope_kv":  # which rotates in qkv's place
            args[0].copy_(args[3][:, : args[0].shape[1]])

    return launch


class Served:
    """An arm's stream: kernels, a paged cache, and rounding where the served model rounds."""

    def __init__(
        self, launch: Launch, sizes: Sizes, block: bool, stream: torch.Tensor, chunks: Sequence[int]
    ) -> None:
        """stream [M, hidden] bf16; chunks: how many tokens go through a layer at a time, in all M.

        Raises ValueError if they do not add up.
        """
        if sum(chunks) != len(stream):
            raise ValueError(f"chunks of {sum(chunks)} tokens, a stream of {len(stream)}")
        self.launch, self.sizes, self.block = launch, sizes, block
        self.chunks = [(x.clone(), torch.zeros_like(x)) for x in stream.split(list(chunks))]
        self.device = stream.device
        self.workspace = split_k.workspace(stream.device)
        self.cos_sin = op_errors.cos_sin(len(stream), sizes.head_dim, stream.device)
        blocks = -(-len(stream) // BLOCK_SIZE)
        self.blocks = torch.arange(blocks, dtype=torch.int32, device=stream.device)
        shape = (blocks, BLOCK_SIZE, sizes.num_kv_heads, 2 * sizes.head_dim)
        self.cache = torch.empty(shape, dtype=torch.bfloat16, device=stream.device)

    def layer(self, layer: Layer) -> torch.Tensor:
        """The stream [M, hidden] bf16 after it."""
        self.cache.fill_(torch.nan)
        start = 0
        streams = []
        for i, (x, residual) in enumerate(self.chunks):
            x = self._chunk(layer, x, residual, start)
            self.chunks[i] = (x, residual)
            streams.append((x.float() + residual.float()).to(torch.bfloat16))
            start += len(x)
        return torch.cat(streams)

    def _chunk(
        self, layer: Layer, x: torch.Tensor, residual: torch.Tensor, start: int
    ) -> torch.Tensor:
        """What the layer adds last; residual, in place, all before it."""
        tensors = {name.removeprefix(PREFIX): value for name, value in layer.tensors.items()}
        hidden, inner, q_heads, _, d, _ = self.sizes
        m = len(x)

        def quantised(call: str, k: int, source: torch.Tensor, *rest: Any) -> Weight:
            values, scale = self._activation(m, k)
            if call == "norm":
                weight, before = rest
                self.launch(call, values, source, weight, scale, op_errors.EPSILON, before)
            else:
                self.launch(call, values, source, scale)
            return values, scale

        def mm(call: str, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            weight, weight_scale = layer.linears[call]
            out = torch.empty((m, len(weight)), dtype=torch.bfloat16, device=self.device)
            self.launch(call, out, x, weight.t(), scale, weight_scale, self.workspace)
            return out

        y = quantised("norm", hidden, x, tensors["input_layernorm.weight"], residual)
        qkv = mm("qkv", *y)
        norms = tensors["self_attn.q_norm.weight"], tensors["self_attn.k_norm.weight"]
        if start:
            y = self._decode(qkv, norms, start)
        else:
            q = qkv.new_empty((m, q_heads * d))
            positions = torch.arange(m, device=self.device)
            inputs = (qkv, *norms, self.cos_sin, positions, op_errors.EPSILON)
            self.launch("rope_kv", q, self.cache.transpose(1, 2), positions, *inputs)
            y = quantised("quant", q_heads * d, self._prefill(q))
        x = mm("o", *y)
        y = quantised("norm", hidden, x, tensors["post_attention_layernorm.weight"], residual)
        return mm("down", *quantised("silu", inner, mm("gate_up", *y)))

    def _decode(self, qkv: torch.Tensor, norms: tuple[torch.Tensor, ...], start: int) -> Weight:
        """Of qkv [m, (Hq + 2 Hkv) D] bf16 a token at a time, as each sees those before it."""
        d = self.sizes.head_dim
        cache, table = self.cache.transpose(1, 2), self.blocks.unsqueeze(0)
        values, scales = [], []
        for i, token in enumerate(qkv.split(1), start):
            position = torch.full((1,), i, device=self.device)
            length = (position + 1).to(torch.int32)
            inputs = (token, *norms, self.cos_sin, position, op_errors.EPSILON)
            step = (cache, position, *inputs, table, length, d**-0.5, self.workspace)
            value, scale = self._activation(1, self.sizes.num_q_heads * d)
            if quantises(self.block, d):
                self.launch("attention", value, *step, scale)
            else:
                out = token.new_empty(value.shape)
                self.launch("attention", out, *step, None)
                self.launch("quant", value, out, scale)
            values.append(value)
            scales.append(scale)
        return torch.cat(values), as_group_scales(torch.cat(scales))

    def _activation(self, m: int, k: int) -> Weight:
        """Unwritten values [m, k] and scales."""
        values = torch.empty((m, k), dtype=FP8, device=self.device)
        if self.block:
            return values, empty_group_scales(m, k // GROUP, self.device)
        return values, torch.empty((m, 1), device=self.device)

    def _prefill(self, q: torch.Tensor) -> torch.Tensor:
        """The same of the first tokens, float32 inside."""
        _, _, q_heads, kv_heads, d, _ = self.sizes
        m = len(q)
        seen = self.cache.flatten(0, 1)[:m].float()
        keys, values = seen.repeat_interleave(q_heads // kv_heads, 1).split(d, dim=-1)
        scores = torch.einsum("qhd,khd->hqk", q.float().view(m, q_heads, d), keys) * d**-0.5
        future = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, -torch.inf).softmax(-1)
        return torch.einsum("hqk,khd->qhd", weights, values).flatten(1).to(torch.bfloat16)


def compare(exact: torch.Tensor, stream: torch.Tensor) -> dict[str, float]:
    """Streams [M, hidden]: error (`op_errors.Error`) and the least cosine of a token."""
    exact, stream = exact.double(), stream.double()
    cosine = torch.nn.functional.cosine_similarity(exact, stream, dim=1)
    return {**op_errors.error(exact, stream)._asdict(), "cosine": float(cosine.min())}


@torch.inference_mode()
def rows(
    arms: dict[str, Launch],
    sizes: Sizes,
    layers: int,
    block: bool,
    chunks: Sequence[int],
    device: torch.device,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """A row for each layer: size, the median token's root mean square, and arm -> its error.

    "rounding" is float64 that rounds to bf16 where the served model does: what nobody can avoid.
    """
    tails = Tails(device, seed)
    stream = tails.stream(sum(chunks), sizes.hidden_size).to(torch.bfloat16)
    served = {name: Served(arm, sizes, block, stream, chunks) for name, arm in arms.items()}
    exact, rounded = stream.double(), stream.double()
    heads = sizes.num_q_heads, sizes.num_kv_heads, sizes.head_dim
    for index in range(layers):
        layer = make_layer(tails, sizes, block)

        def through(x: torch.Tensor, places: frozenset[str]) -> torch.Tensor:
            model = reference.Decoder(layer.tensors, *heads, torch.float64, places)  # noqa: B023
            return model.layer(x, 0)

        exact = through(exact, reference.EXACT)
        rounded = through(rounded, reference.SERVED)
        errors = {"rounding": compare(exact, reference.bf16(rounded))}
        errors |= {name: compare(exact, arm.layer(layer)) for name, arm in served.items()}
        size = float(exact.square().mean(1).sqrt().median())
        yield {"layer": index, "size": size, "errors": errors}
