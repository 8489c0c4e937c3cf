# SPDX-License-Identifier: Apache-2.0
"""The calls of all decoder layers in one CUDA graph: a decode step without an engine around it.

    python -m benchmarks.step --model 8b --format token --tokens 1,8,32 --out step.json

Random weights and --context tokens a sequence in a paged cache, every layer its own, so that each
is read from memory. What kernels do to each other shows here and in no benchmark of one kernel.
That kernels which overlap do not race is what tests/gpu/test_step.py shows.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.checkpoint import LAYERS
from helion_kernels import OPS, plan, split_k, timing
from helion_kernels.environment import describe
from helion_kernels.fp8 import FP8, GROUP, empty_group_scales
from helion_kernels.qwen3 import BLOCK_SIZE, MODELS, Sizes, calls, few_tokens, quantises

CONTEXT = 512
"""Tokens of a sequence before the step's own, unless others are asked for."""
CALLS = ("norm", "qkv", "rope_kv", "attention", "quant", "o", "gate_up", "silu", "down")
FEW_CALLS = ("few_attention", "few_o", "few_silu", "few_down")
"""Those of `wanted`, in the order of the layer; then what few tokens of per-token FP8 have instead
(`qwen3.few_tokens`)."""
Note = Callable[[str, torch.Tensor], None]
Entries = dict[str, tuple[Callable[..., None], int]]
"""Name of a call -> `plan.entry` of its plan."""


def _weight(n: int, k: int, block: bool) -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.randn((n, k), device="cuda").mul_(60).clamp_(-448, 448).to(FP8)
    shape = (-(-n // GROUP), k // GROUP) if block else (n, 1)
    return weight, torch.full(shape, k**-0.5 / 60, device="cuda")


def prepare(
    sizes: Sizes, block: bool, max_num_tokens: int, device: torch.device | str = "cuda:0"
) -> Entries:
    """How each call of a layer is made; once for all numbers of tokens, as an engine does."""
    found = [(OPS[name], dims) for name, dims in wanted(sizes, block)]
    ids = plan.prepare(found, max_num_tokens, torch.device(device))
    return {name: plan.entry(i) for name, i in zip(names(sizes, block), ids, strict=True)}


def names(sizes: Sizes, block: bool) -> tuple[str, ...]:
    """Of what `wanted` has."""
    return CALLS + FEW_CALLS if is_few(sizes, block, 1) else CALLS


def is_few(sizes: Sizes, block: bool, num_tokens: int) -> bool:
    """Whether a decode step has `FEW_CALLS`."""
    most = few_tokens(block, sizes.hidden_size, sizes.head_dim, sizes.intermediate_size)
    return num_tokens <= most


def made(call: str, few: bool) -> str:
    """The name of what a decode step calls there."""
    return name if few and (name := f"few_{call}") in FEW_CALLS else call


def wanted(sizes: Sizes, block: bool) -> list[tuple[str, tuple[Any, ...]]]:
    """(op, static dims) of `CALLS`: a layer's but for a model's first norm and the rope kernel that
    writes no cache. "rope_kv" is for prompts: a decode step's "attention" does that, too."""
    _, *found = calls(sizes, block)
    return [(name, dims) for name, dims in found if name != "fused_qk_norm_rope"]


def layer_bytes(sizes: Sizes) -> int:
    """Of a layer's weights."""
    hidden, inner, q_heads, kv_heads, d, _ = sizes
    return hidden * (2 * q_heads + 2 * kv_heads) * d + 3 * hidden * inner


def written(cache: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Of a layer's cache what a step of the usual context writes, [num_tokens, kv_heads, 2 d]."""
    return cache[:num_tokens, :, CONTEXT % BLOCK_SIZE]


def lengths_of(num_seqs: int, context: int, spread: float) -> list[int]:
    """Tokens of sequences, evenly from context * (1 - spread) to context * (1 + spread)."""
    offsets = [(2 * i + 1 - num_seqs) / max(1, num_seqs - 1) for i in range(num_seqs)]
    return [round(context * (1 + spread * offset)) for offset in offsets]


class Model:
    """Weights, caches and buffers of a step of num_tokens, of sequences of `context` tokens."""

    def __init__(
        self,
        sizes: Sizes,
        layers: int,
        block: bool,
        num_tokens: int,
        entries: Entries,
        context: int = CONTEXT,
        spread: float = 0.0,
    ) -> None:
        """Sequences of context tokens on the average, the shortest and the longest by spread of it
        from that."""
        self.sizes, self.block, self.m, self.entries = sizes, block, num_tokens, entries
        self.few = is_few(sizes, block, num_tokens)
        hidden, inner, q_heads, kv_heads, d, _ = sizes
        self.q, self.kv = q_heads * d, kv_heads * d
        attention = [(self.q + 2 * self.kv, hidden), (hidden, self.q)]
        shapes = [*attention, (2 * inner, hidden), (hidden, inner)]
        self.layers = [[_weight(n, k, block) for n, k in shapes] for _ in range(layers)]
        self.workspace = split_k.shared(torch.device("cuda", 0))
        self.norm = torch.ones(hidden, dtype=torch.bfloat16, device="cuda")
        self.head_norm = torch.ones(d, dtype=torch.bfloat16, device="cuda")
        self.cos_sin = torch.randn((context + 1, d), device="cuda").to(torch.bfloat16)
        self.positions = torch.full((num_tokens,), context, device="cuda")
        lengths = lengths_of(num_tokens, context, spread)
        blocks = -(-(max(lengths) + 1) // BLOCK_SIZE)
        shape = (num_tokens * blocks, BLOCK_SIZE, kv_heads, 2 * d)
        self.caches = [
            torch.randn(shape, device="cuda").to(torch.bfloat16).transpose(1, 2)
            for _ in self.layers
        ]
        # A sequence's blocks lie anywhere, as in a server that has run for a while, but for the one
        # that the step writes to: `written`.
        last = torch.arange(num_tokens, device="cuda")
        others = torch.randperm(num_tokens * (blocks - 1), device="cuda") + num_tokens
        table = torch.cat((others.view(num_tokens, -1), last.unsqueeze(1)), dim=1)
        self.block_table = table.to(torch.int32)
        self.slots = last * BLOCK_SIZE + context % BLOCK_SIZE
        self.seq_lens = torch.tensor(lengths, dtype=torch.int32, device="cuda") + 1
        self.input = torch.randn((num_tokens, hidden), device="cuda").to(torch.bfloat16)

    def _activation(self, k: int, grouped: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        values = torch.empty((self.m, k), dtype=FP8, device="cuda")
        if not (self.block or grouped):
            return values, torch.empty((self.m, 1), device="cuda")
        return values, empty_group_scales(self.m, k // GROUP, "cuda")

    def step(self, note: Note = lambda name, out: None) -> torch.Tensor:
        """The last layer's output; note(what, its output) after each launch."""

        def call(name: str, out: torch.Tensor, *args: Any) -> torch.Tensor:
            name = made(name, self.few)
            function, number = self.entries[name]
            function(out, *args, number)
            note(name, out)
            return out

        def mm(name: str, x: torch.Tensor, scale: torch.Tensor, weight: Any) -> torch.Tensor:
            out = torch.empty((self.m, len(weight[0])), dtype=torch.bfloat16, device="cuda")
            return call(name, out, x, weight[0].t(), scale, weight[1], self.workspace)

        hidden, inner, _, _, d, _ = self.sizes
        x = self.input.clone()
        residual = torch.zeros_like(x)
        sequences = (self.block_table, self.seq_lens, d**-0.5, self.workspace)
        for (qkv_w, o_w, gate_up_w, down_w), cache in zip(self.layers, self.caches, strict=True):
            y, s = self._activation(hidden)
            call("norm", y, x, self.norm, s, 1e-6, residual)
            qkv = mm("qkv", y, s, qkv_w)
            inputs = (qkv, self.head_norm, self.head_norm, self.cos_sin, self.positions, 1e-6)
            y, s = self._activation(self.q, self.few)
            attention = (cache, self.slots, *inputs, *sequences)
            if self.few or quantises(self.block, d):
                call("attention", y, *attention, s)
            else:
                out = qkv.new_empty((self.m, self.q))
                call("quant", y, call("attention", out, *attention, None), s)
            x = mm("o", y, s, o_w)
            y, s = self._activation(hidden)
            call("norm", y, x, self.norm, s, 1e-6, residual)
            gate_up = mm("gate_up", y, s, gate_up_w)
            y, s = self._activation(inner, self.few)
            call("silu", y, gate_up, s)
            x = mm("down", y, s, down_w)
        return x


def measure(model: Model, rounds: int) -> float:
    """Median microseconds of a step."""
    return timing.measure([timing.Graph([model.step], 1)], rounds)[0].us


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="8b")
    parser.add_argument("--layers", type=int, help="default: the model's")
    parser.add_argument("--format", choices=("token", "block"), default="token")
    parser.add_argument("--tokens", default="1,8,32")
    parser.add_argument("--context", type=int, default=CONTEXT, help=f"{CONTEXT}")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--no-pdl", action="store_true", help="launch kernels one after another")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    sizes, layers = MODELS[args.model], args.layers or LAYERS[args.model]
    tokens = [int(x) for x in args.tokens.split(",")]
    block = args.format == "block"
    plan.use_pdl(not args.no_pdl)
    entries = prepare(sizes, block, max(tokens))
    rows = []
    for m in tokens:
        us = measure(Model(sizes, layers, block, m, entries, args.context), args.rounds)
        gb_s = layers * layer_bytes(sizes) / us / 1e3
        rows.append({"tokens": m, "us": us, "weight_gb_s": gb_s})
        print(f"{m:5d} tokens {us:9.1f} us {gb_s:6.0f} GB/s of weights", flush=True)
        torch.cuda.empty_cache()
    if args.out:
        document = {"environment": describe(), "args": vars(args) | {"out": str(args.out)}}
        args.out.write_text(json.dumps(document | {"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
