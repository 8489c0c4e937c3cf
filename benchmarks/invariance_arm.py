# SPDX-License-Identifier: Apache-2.0
"""One arm of `benchmarks.invariance`: prompts alone, then in mixes, in this process, as JSON.

Runs under whichever vllm is importable, so it imports nothing of ours. Log-probabilities are
float32, which JSON gives back bit for bit.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # its kernels are of this process

from vllm import LLM, SamplingParams


def generate(llm: LLM, prompts: list[list[int]], tokens: list[int]) -> list[dict[str, Any]]:
    """All at once: each prompt's own log-probabilities, the tokens that follow and theirs."""
    params = [
        SamplingParams(
            temperature=0.0,
            max_tokens=count,
            ignore_eos=True,
            logprobs=0,
            prompt_logprobs=0,
            detokenize=False,
        )
        for count in tokens
    ]
    inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
    outputs = llm.generate(inputs, params, use_tqdm=False)
    assert [len(output.outputs[0].token_ids) for output in outputs] == tokens
    return [
        {
            "prompt": chosen(prompt[1:], output.prompt_logprobs[1:]),
            "tokens": list(output.outputs[0].token_ids),
            "logprobs": chosen(output.outputs[0].token_ids, output.outputs[0].logprobs),
        }
        for prompt, output in zip(prompts, outputs, strict=True)
    ]


def chosen(tokens: Any, logprobs: Any) -> list[float]:
    return [float(each[token].logprob) for token, each in zip(tokens, logprobs, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", type=Path, required=True, help="prompts, tokens, mixes")
    parser.add_argument("--engine-args", required=True, help="JSON")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    task = json.loads(args.task.read_text())
    prompts, tokens = task["prompts"], task["tokens"]
    options = {"skip_tokenizer_init": True, "enable_prefix_caching": False, "seed": 0}
    llm = LLM(args.model, **options | json.loads(args.engine_args))
    alone = [generate(llm, [prompt], [tokens])[0] for prompt in prompts]
    mixes = [
        generate(llm, [prompts[i] for i, _ in mix], [count for _, count in mix])
        for mix in task["mixes"]
    ]
    args.out.write_text(json.dumps({"alone": alone, "mixes": mixes}))


if __name__ == "__main__":
    main()
