# SPDX-License-Identifier: Apache-2.0
"""The OpenAI API of a served model, against the reference model, token for token."""

import re
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import Model
from greedy import assert_greedy

LONG = "The array is sorted along the last axis, and has the shape of the input. " * 11
PROMPTS = ["NumPy: argsort", "1", "What does DataFrame.merge do?", "Hello, world", LONG]
MESSAGES = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "What does argsort do in NumPy?"},
]
COUNT = 16
GREEDY = {"max_tokens": COUNT, "temperature": 0, "ignore_eos": True, "return_token_ids": True}


def complete(model: Model, prompt: str, **options: Any) -> dict[str, Any]:
    answer = model.server.post("/v1/completions", prompt=prompt, **{**GREEDY, **options})
    return answer["choices"][0]


def test_models(model: Model) -> None:
    (entry,) = model.server.get("/v1/models")["data"]
    assert entry["id"] == "tiny"
    assert entry["max_model_len"] == 384


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt[:12].strip())
def test_completion_is_the_references(model: Model, prompt: str) -> None:
    choice = complete(model, prompt)
    assert choice["finish_reason"] == "length"
    assert len(choice["token_ids"]) == COUNT
    assert_greedy(model.reference, choice["prompt_token_ids"], choice["token_ids"])


def test_the_long_prompt_spans_steps_and_cache_blocks(model: Model) -> None:
    assert len(complete(model, LONG)["prompt_token_ids"]) > 2 * 64


def test_logprobs_are_near_the_references(model: Model) -> None:
    """Of a prompt's own tokens, most of which are unlikely: context counts here, not only rank."""
    choice = complete(model, LONG, prompt_logprobs=0, max_tokens=1)
    tokens = choice["prompt_token_ids"]
    logprobs = model.reference.logits(tokens).log_softmax(-1)
    errors = [
        abs(given[str(token)]["logprob"] - float(logprobs[i, token]))
        for i, (token, given) in enumerate(
            zip(tokens[1:], choice["prompt_logprobs"][1:], strict=True)
        )
    ]
    assert sum(errors) / len(errors) < 0.1
    assert max(errors) < 1.0


def test_greedy_repeats(model: Model) -> None:
    first, *others = (complete(model, PROMPTS[2])["token_ids"] for _ in range(3))
    assert all(other == first for other in others)


def test_seeded_sampling_repeats(model: Model) -> None:
    options = {"temperature": 1.5, "seed": 5}
    assert complete(model, "1", **options)["text"] == complete(model, "1", **options)["text"]


def test_concurrent_requests_get_what_they_get_alone(model: Model) -> None:
    alone = [complete(model, prompt)["token_ids"] for prompt in PROMPTS]
    with ThreadPoolExecutor(len(PROMPTS) * 2) as pool:
        together = list(pool.map(lambda p: complete(model, p)["token_ids"], PROMPTS * 2))
    assert together == alone * 2


def test_chat_is_the_references(model: Model) -> None:
    answer = model.server.post("/v1/chat/completions", messages=MESSAGES, **GREEDY)
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert_greedy(model.reference, answer["prompt_token_ids"], choice["token_ids"])


def test_streamed_completion(model: Model) -> None:
    chunks = list(model.server.stream("/v1/completions", prompt=PROMPTS[0], **GREEDY))
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    assert len(choices) > COUNT // 2, "streamed in pieces, not at once"
    assert "".join(c["text"] for c in choices) == complete(model, PROMPTS[0])["text"]
    assert choices[-1]["finish_reason"] == "length"


def test_streamed_chat(model: Model) -> None:
    path = "/v1/chat/completions"
    whole = model.server.post(path, messages=MESSAGES, **GREEDY)["choices"][0]["message"]
    chunks = model.server.stream(path, messages=MESSAGES, **GREEDY)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == whole["content"]


def test_a_prompt_beyond_the_context_is_refused_and_serving_goes_on(model: Model) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        complete(model, LONG * 20)
    assert refusal.value.code == 400
    assert complete(model, "1")["text"]


def test_start_up_log_has_the_table_of_ops(model: Model) -> None:
    log = model.server.log()
    assert "Helion: serving 5 decoder layer(s)" in log
    assert re.search(r"op +dims +num_tokens +launcher +config source +reason", log)
    kind = "per_block" if model.form == "fp8-block" else "dynamic_per_token"
    gemm = "scaled_mm_blockwise" if model.form == "fp8-block" else "scaled_mm"
    quant = "per_token_group_fp8_quant" if kind == "per_block" else f"{kind}_scaled_fp8_quant"
    ops = [f"rms_norm_{kind}_quant", f"silu_and_mul_{kind}_quant", quant, gemm]
    for op in [*ops, "fused_qk_norm_rope"]:
        assert re.search(rf"{op} .* interpreter ", log), op
