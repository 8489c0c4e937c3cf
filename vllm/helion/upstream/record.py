# SPDX-License-Identifier: Apache-2.0
"""Write kernels.json anew, on a GPU: python -m vllm.helion.upstream.record --model MODEL --out FILE

For another release of upstream. Notes what Triton is asked to compile while an engine starts and
serves requests of every kind. Kernels for requests that the former file has are kept, as these are
more kinds than are tried here; those of functions that are gone, a test finds.
"""

import argparse
import ast
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

from vllm.helion.upstream.kernel import DIVISIBLE, RECORDED, Kernel, read

_ALWAYS = ("debug", "instrumentation_mode")
"""Launch options that are in every key, and no choice of the kernel's."""
BATCH = 9
"""Requests at a time: from 8 on upstream's top-k and top-p are a Triton kernel."""
REQUESTS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.8, "top_k": 20, "top_p": 0.9},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 0.8, "top_k": 20},
    {"temperature": 0.8, "min_p": 0.1, "seed": 1},
    {"temperature": 0.8, "presence_penalty": 0.5, "repetition_penalty": 1.1},
    {"temperature": 0.0, "logprobs": 0},
    {"temperature": 0.0, "logprobs": 5},
    {"temperature": 0.0, "logprobs": 15},
    {"temperature": 0.0, "logprobs": 20},
    {"temperature": 0.0, "prompt_logprobs": 3},
)


def described(data: str, warm_up: bool) -> Kernel:
    """The kernel of Triton's specialization data."""
    known = json.loads(data)
    values = {
        path[0]: v for path, v in zip(known["constant_keys"], known["constant_vals"], strict=True)
    }
    facts = {path[0]: v for path, v in zip(known["attrs_keys"], known["attrs_vals"], strict=True)}
    arguments = {
        name: _plain(values[i]) if kind == "constexpr" else kind + DIVISIBLE * bool(facts.get(i))
        for i, (name, kind) in enumerate(known["signature"].items())
    }
    options = ast.literal_eval(known["key"].rpartition("]")[2])
    chosen = {name: value for name, value in options.items() if name not in _ALWAYS}
    return Kernel(known["name"], arguments, chosen, warm_up)


def _plain(value: Any) -> Any:
    return value["constexpr"] if isinstance(value, dict) else value


def to_json(kernels: list[Kernel], facts: dict[str, Any]) -> str:
    """kernels.json: facts about the recording, then the kernels."""
    rows = [
        {
            "function": each.function,
            "for": "warm-up" if each.warm_up else "request",
            **({"options": each.options} if each.options else {}),
            "arguments": each.arguments,
        }
        for each in kernels
    ]
    return json.dumps(facts | {"kernels": rows}, indent=2) + "\n"


def merge(recorded: list[Kernel], former: list[Kernel]) -> list[Kernel]:
    """recorded, each once, and after them what requests need of former."""
    merged: list[Kernel] = []
    for each in (*recorded, *(each for each in former if not each.warm_up)):
        same = (each.function, each.arguments, each.options)
        if all((k.function, k.arguments, k.options) != same for k in merged):
            merged.append(each)
    return merged


def run(model: str) -> list[Kernel]:
    """What is compiled in this process while an engine for model starts and serves."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from triton import knobs

    from vllm import LLM, SamplingParams
    from vllm.helion.upstream import background
    from vllm.utils import jit_monitor

    recorded: list[Kernel] = []

    def note(*, compile: dict[str, Any], fn: Any, **_: Any) -> None:
        if fn.module.startswith("vllm."):
            data = compile["specialization_data"]
            recorded.append(described(data, warm_up=not jit_monitor.is_active()))

    knobs.runtime.jit_post_compile_hook = note
    background.start = lambda logits: None
    llm = LLM(
        model,
        skip_tokenizer_init=True,
        max_model_len=4096,
        enable_prefix_caching=False,
        hf_overrides={"head_dtype": "model"},  # logits of kernel.LOGITS[0]
    )
    prompts = [{"prompt_token_ids": list(range(100, 140))}] * BATCH
    for settings in REQUESTS:
        llm.generate(prompts, SamplingParams(max_tokens=4, detokenize=False, **settings))
    return recorded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a Qwen3 checkpoint in FP8")
    parser.add_argument("--out", type=Path, default=RECORDED, metavar="FILE")
    options = parser.parse_args()
    kernels = merge(run(options.model), read())
    import torch

    facts = {
        "vllm": importlib.metadata.version("vllm").split("+")[0],
        "triton": importlib.metadata.version("triton"),
        "gpu": torch.cuda.get_device_name(),
        "model": f"{options.model}, max_model_len 4096",
    }
    options.out.write_text(to_json(kernels, facts))
    print(f"{options.out}: {len(kernels)} kernels, {sum(k.warm_up for k in kernels)} for warm-up")


if __name__ == "__main__":
    main()
