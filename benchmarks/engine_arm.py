# SPDX-License-Identifier: Apache-2.0
"""One arm of `benchmarks.engine`: time an engine in this process, and write JSON.

Runs under whichever vllm is importable, so it imports nothing of ours.
"""

import argparse
import json
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

INPUT_TOKENS, OUTPUT_TOKENS = 512, 128
FORCED_PROMPTS, FORCED_TOKENS = 8, 64
PROFILED_TOKENS = 9
"""A prefill and eight decode steps."""


def case(text: str) -> tuple[int, int]:
    """Batch and prompt tokens of `8`, or `8x32768`. Raises ArgumentTypeError."""
    batch, _, tokens = text.partition("x")
    try:
        found = int(batch), int(tokens or INPUT_TOKENS)
    except ValueError:
        found = 0, 0
    if min(found) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r}: write a batch, 8, or one of long prompts, 8x32768"
        )
    return found


def label(row: dict[str, Any]) -> str:
    """What `case` reads: of a row of results, of which the first had no "input"."""
    length = row.get("input", INPUT_TOKENS)
    return f"{row['batch']}" if length == INPUT_TOKENS else f"{row['batch']}x{length}"


def cases(text: str) -> list[tuple[int, int]]:
    return [case(each) for each in text.split(",") if each]


def prompts(count: int, length: int, seed: int) -> list[dict[str, list[int]]]:
    source = random.Random(seed)
    return [
        {"prompt_token_ids": [source.randrange(1000, 150000) for _ in range(length)]}
        for _ in range(count)
    ]


class Arm:
    def __init__(self, args: argparse.Namespace) -> None:
        started = time.perf_counter()
        import torch

        from vllm import LLM, SamplingParams

        imported = time.perf_counter()
        self.torch, self.sampling, self.out = torch, SamplingParams, args.out
        options: dict[str, Any] = {
            "skip_tokenizer_init": True,
            "max_model_len": 4096,
            "gpu_memory_utilization": 0.85,
            "max_num_seqs": 256,
            "enable_prefix_caching": False,
            "logprobs_mode": "raw_logits",
            "seed": 0,
            **json.loads(args.engine_args),
        }
        self.llm = LLM(model=args.model, **options)
        self.result: dict[str, Any] = {
            "import_s": round(imported - started, 1),
            "startup_s": round(time.perf_counter() - imported, 1),
            "engine_args": options,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "vllm": __import__("vllm").__version__,
            "torch": torch.__version__,
        }
        print("startup_s", self.result["startup_s"], flush=True)

    def run(self, batch: list[dict[str, list[int]]], tokens: int) -> tuple[float, list[list[int]]]:
        params = self.sampling(
            temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False
        )
        if self.result["gpu"]:
            self.torch.cuda.synchronize()
        start = time.perf_counter()
        outputs = self.llm.generate(batch, params, use_tqdm=False)
        seconds = time.perf_counter() - start
        ids = [list(output.outputs[0].token_ids) for output in outputs]
        assert all(len(row) == tokens for row in ids)
        return seconds, ids

    def time(self, batches: list[tuple[int, int]], tokens: int, repeats: int) -> None:
        rows = self.result["rows"] = []
        for size, length in batches:
            batch = prompts(size, length, size)
            self.run(batch, 4)
            prefills = [self.prefill(batch) for _ in range(repeats)]
            first = [self.run(batch, 1)[0] for _ in range(repeats)] if self.caching else prefills
            whole = [self.run(batch, tokens + 1)[0] for _ in range(repeats)]
            decode = statistics.median(whole) - statistics.median(first)
            row = {
                "batch": size,
                "input": length,
                "prefill_ms": round(statistics.median(prefills) * 1e3, 3),
                "tpot_ms": round(decode / tokens * 1e3, 4),
                "prefill_all_ms": [round(x * 1e3, 3) for x in prefills],
                "total_all_ms": [round(x * 1e3, 2) for x in whole],
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
            self.save()

    @property
    def caching(self) -> bool:
        return bool(self.result["engine_args"]["enable_prefix_caching"])

    def prefill(self, batch: list[dict[str, list[int]]]) -> float:
        """Seconds of a batch's prompts, of which nothing is cached."""
        if self.caching:
            self.llm.reset_prefix_cache()
        return self.run(batch, 1)[0]

    def save(self) -> None:
        """What was measured so far: starting took minutes, and whoever waits may give up."""
        part = self.out.with_suffix(".part")
        part.write_text(json.dumps(self.result))
        os.replace(part, self.out)

    def greedy(self) -> list[list[int]]:
        batch = prompts(FORCED_PROMPTS, 128, seed=7)
        return self.run(batch, FORCED_TOKENS)[1]

    def forced_logits(self, continuations: list[list[int]]) -> list[list[list[float]]]:
        """Per prompt and position of the continuation: [top-1 id, its logit, the token's logit]."""
        batch = prompts(FORCED_PROMPTS, 128, seed=7)
        for prompt, ids in zip(batch, continuations, strict=True):
            prompt["prompt_token_ids"].extend(ids)
        params = self.sampling(temperature=0.0, max_tokens=1, prompt_logprobs=1, detokenize=False)
        rows = []
        for output in self.llm.generate(batch, params, use_tqdm=False):
            row = []
            for token, logits in list(
                zip(output.prompt_token_ids, output.prompt_logprobs, strict=True)
            )[128:]:
                top = min(logits, key=lambda i: (logits[i].rank, -logits[i].logprob))
                row.append([top, logits[top].logprob, logits[token].logprob])
            rows.append(row)
        return rows

    def profile(self, size: int, tokens: int) -> list[dict[str, Any]]:
        """Kernels of a batch of size whose prompts get so many tokens."""
        from torch.profiler import ProfilerActivity, profile

        batch = prompts(size, INPUT_TOKENS, size)
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            self.run(batch, tokens)
        events = [e for e in profiler.key_averages() if e.device_type.name == "CUDA"]
        events.sort(key=lambda e: -e.self_device_time_total)
        return [
            {"kernel": e.key[:160], "count": e.count, "us": round(e.self_device_time_total, 1)}
            for e in events
        ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--batches", type=cases, default="1,8,32,128", help="8x32768: long prompts")
    parser.add_argument("--tokens", type=int, default=OUTPUT_TOKENS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", default="", help="batches whose kernels are recorded")
    parser.add_argument("--engine-args", default="{}")
    parser.add_argument("--forced", type=Path, help="continuations to force; written if absent")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    arm = Arm(args)
    arm.result["greedy"] = arm.greedy()
    if args.forced:
        if not args.forced.exists():
            args.forced.write_text(json.dumps(arm.result["greedy"]))
        arm.result["forced"] = arm.forced_logits(json.loads(args.forced.read_text()))
    arm.save()
    arm.time(args.batches, args.tokens, args.repeats)
    arm.result["profiled_tokens"] = PROFILED_TOKENS
    for size in args.profile.split(","):
        if size:
            arm.result[f"profile_{size}"] = arm.profile(int(size), PROFILED_TOKENS)
            arm.result[f"profile_{size}_prefill"] = arm.profile(int(size), 1)
    arm.save()


if __name__ == "__main__":
    main()
