# SPDX-License-Identifier: Apache-2.0
"""One arm of `benchmarks.quality`: an engine's log-probabilities, in this process, as JSON.

Runs under whichever vllm is importable, so it imports nothing of ours.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the class below is of this process

from vllm import LLM, SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

PASSES = ("prefill", "decode", "greedy")


class Forced(AdapterLogitsProcessor):
    """Samples the tokens that a request brings; vLLM reports log-probabilities from before it."""

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> Any:
        forced = (params.extra_args or {}).get("forced")
        return None if forced is None else lambda output, _: forced[len(output)]

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """In one launch: a few for each sequence leave engines that share a GPU 50 ms a step."""
        if self.req_info:
            tokens = [token_of(logits) for token_of in self.req_info.values()]
            logits[list(self.req_info), tokens] = torch.inf
        return logits


def prompts(rows: list[list[int]]) -> list[dict[str, list[int]]]:
    return [{"prompt_token_ids": row} for row in rows]


def prefill(llm: LLM, rows: list[list[int]]) -> list[list[float]]:
    """Log-probability of each token of a prompt but the first."""
    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
    outputs = llm.generate(prompts(rows), params, use_tqdm=False)
    return [
        [
            given[token].logprob
            for token, given in zip(row[1:], out.prompt_logprobs[1:], strict=True)
        ]
        for row, out in zip(rows, outputs, strict=True)
    ]


def decode(llm: LLM, rows: list[list[int]], start: int) -> list[list[float]]:
    """Log-probability of each token from ``start`` on, generated one by one."""
    params = [
        SamplingParams(
            temperature=0.0,
            max_tokens=len(row) - start,
            ignore_eos=True,
            logprobs=0,
            detokenize=False,
            extra_args={"forced": row[start:]},
        )
        for row in rows
    ]
    outputs = llm.generate(prompts([row[:start] for row in rows]), params, use_tqdm=False)
    found = []
    for row, output in zip(rows, outputs, strict=True):
        assert list(output.outputs[0].token_ids) == row[start:]
        given = zip(row[start:], output.outputs[0].logprobs, strict=True)
        found.append([logprobs[token].logprob for token, logprobs in given])
    return found


def greedy(llm: LLM, rows: list[list[int]], tokens: int) -> dict[str, list[list[Any]]]:
    """The tokens that follow, and their log-probabilities."""
    params = SamplingParams(
        temperature=0.0, max_tokens=tokens, ignore_eos=True, logprobs=0, detokenize=False
    )
    outputs = [out.outputs[0] for out in llm.generate(prompts(rows), params, use_tqdm=False)]
    return {
        "greedy": [list(out.token_ids) for out in outputs],
        "greedy_logprobs": [
            [given[token].logprob for token, given in zip(out.token_ids, out.logprobs, strict=True)]
            for out in outputs
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", type=Path, required=True, help="rows, start, prompts, tokens")
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=list(PASSES))
    parser.add_argument("--engine-args", required=True, help="JSON")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    task = json.loads(args.task.read_text())
    # A processor of logits takes Qwen3 to vLLM's first model runner: no other pass has one.
    forced = {"logits_processors": [Forced]} if "decode" in args.passes else {}
    llm = LLM(
        args.model,
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
        seed=0,
        **forced,
        **json.loads(args.engine_args),
    )
    result: dict[str, Any] = {}
    if "prefill" in args.passes:
        result["prefill"] = prefill(llm, task["rows"])
    if "decode" in args.passes:
        result["decode"] = decode(llm, task["rows"], task["start"])
    if "greedy" in args.passes:
        result |= greedy(llm, task["prompts"], task["tokens"])
    args.out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
