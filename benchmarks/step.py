# SPDX-License-Identifier: Apache-2.0
"""The calls of all decoder layers in one CUDA graph: a decode step without an engine around it.

    python -m benchmarks.step --model 8b --format token --tokens 1,8,32 --out step.json

Random weights, every layer its own, so that each is read from memory; PyTorch's attention over 512
tokens of context stands where the engine's would be. What kernels do to each other shows here and
in no benchmark of one kernel. That kernels which overlap do not race is what tests/gpu/test_step.py
shows, with another attention: PyTorch's own differs from run to run.
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
from helion_kernels.fp8 import FP8, GROUP
from helion_kernels.qwen3 import MODELS, Sizes, calls

CONTEXT = 512
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
    _, norm, qkv, _, rope_kv, _, quant, o, gate_up, silu, down = calls(sizes, block)
    wanted = (norm, qkv, rope_kv, quant, o, gate_up, silu, down)
    where = torch.device(device)
    ids = plan.prepare([(OPS[name], dims) for name, dims in wanted], max_num_tokens, where)
    names = ("norm", "qkv", "rope_kv", "quant", "o", "gate_up", "silu", "down")
    return {name: plan.entry(i) for name, i in zip(names, ids, strict=True)}


class Model:
    """Weights, caches and buffers of a step of num_tokens."""

    def __init__(
        self, sizes: Sizes, layers: int, block: bool, num_tokens: int, entries: Entries
    ) -> None:
        self.sizes, self.block, self.m, self.entries = sizes, block, num_tokens, entries
        hidden, inner, q_heads, kv_heads, d = sizes
        self.q, self.kv = q_heads * d, kv_heads * d
        attention = [(self.q + 2 * self.kv, hidden), (hidden, self.q)]
        shapes = [*attention, (2 * inner, hidden), (hidden, inner)]
        self.layers = [[_weight(n, k, block) for n, k in shapes] for _ in range(layers)]
        self.workspace = split_k.shared(torch.device("cuda", 0))
        self.norm = torch.ones(hidden, dtype=torch.bfloat16, device="cuda")
        self.head_norm = torch.ones(d, dtype=torch.bfloat16, device="cuda")
        self.cos_sin = torch.randn((1024, d), device="cuda").to(torch.bfloat16)
        self.positions = torch.full((num_tokens,), CONTEXT, device="cuda")
        blocks = -(-num_tokens // 16)
        cache = torch.zeros((blocks, 16, kv_heads, 2 * d), dtype=torch.bfloat16, device="cuda")
        self.cache, self.slots = cache.transpose(1, 2), torch.arange(num_tokens, device="cuda")
        shape = (2, num_tokens, kv_heads, CONTEXT, d)
        self.context = [torch.randn(shape, device="cuda").to(torch.bfloat16) for _ in self.layers]
        self.input = torch.randn((num_tokens, hidden), device="cuda").to(torch.bfloat16)

    def _activation(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        values = torch.empty((self.m, k), dtype=FP8, device="cuda")
        if not self.block:
            return values, torch.empty((self.m, 1), device="cuda")
        return values, torch.empty((k // GROUP, self.m), device="cuda").t()

    def step(self, note: Note = lambda name, out: None) -> torch.Tensor:
        """The last layer's output; note(what, its output) after each launch."""

        def call(name: str, out: torch.Tensor, *args: Any) -> torch.Tensor:
            function, number = self.entries[name]
            function(out, *args, number)
            note(name, out)
            return out

        def mm(name: str, x: torch.Tensor, scale: torch.Tensor, weight: Any) -> torch.Tensor:
            out = torch.empty((self.m, len(weight[0])), dtype=torch.bfloat16, device="cuda")
            return call(name, out, x, weight[0].t(), scale, weight[1], self.workspace)

        hidden, inner, q_heads, _, d = self.sizes
        x = self.input.clone()
        residual = torch.zeros_like(x)
        for (qkv_w, o_w, gate_up_w, down_w), (k, v) in zip(self.layers, self.context, strict=True):
            y, s = self._activation(hidden)
            call("norm", y, x, self.norm, s, 1e-6, residual)
            qkv = mm("qkv", y, s, qkv_w)
            inputs = (qkv, self.head_norm, self.head_norm, self.cos_sin, self.positions, 1e-6)
            q = call("rope_kv", qkv.new_empty((self.m, self.q)), self.cache, self.slots, *inputs)
            attended = torch.nn.functional.scaled_dot_product_attention(
                q.view(self.m, q_heads, 1, d), k, v, enable_gqa=True
            )
            note("attention", attended)
            y, s = self._activation(self.q)
            call("quant", y, attended.view(self.m, self.q), s)
            x = mm("o", y, s, o_w)
            y, s = self._activation(hidden)
            call("norm", y, x, self.norm, s, 1e-6, residual)
            gate_up = mm("gate_up", y, s, gate_up_w)
            y, s = self._activation(inner)
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
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--no-pdl", action="store_true", help="launch kernels one after another")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    sizes, layers = MODELS[args.model], args.layers or LAYERS[args.model]
    hidden, inner, q_heads, kv_heads, d = sizes
    layer_bytes = hidden * (2 * q_heads + 2 * kv_heads) * d + 3 * hidden * inner
    tokens = [int(x) for x in args.tokens.split(",")]
    block = args.format == "block"
    plan.use_pdl(not args.no_pdl)
    entries = prepare(sizes, block, max(tokens))
    rows = []
    for m in tokens:
        us = measure(Model(sizes, layers, block, m, entries), args.rounds)
        gb_s = layers * layer_bytes / us / 1e3
        rows.append({"tokens": m, "us": us, "weight_gb_s": gb_s})
        print(f"{m:5d} tokens {us:9.1f} us {gb_s:6.0f} GB/s of weights", flush=True)
        torch.cuda.empty_cache()
    if args.out:
        document = {"environment": describe(), "args": vars(args) | {"out": str(args.out)}}
        args.out.write_text(json.dumps(document | {"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
