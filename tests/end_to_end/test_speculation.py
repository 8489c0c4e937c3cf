# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding: served layers check the drafts, and tokens stay what they are."""

import json
from pathlib import Path

from export import export
from greedy import assert_greedy
from server import Server

from benchmarks import draft
from benchmarks.reference import Qwen3
from helion_kernels.qwen3 import Sizes

PROMPT, TOKENS = "NumPy: argsort", 24
DRAFTS = 3


def sizes(folder: Path) -> Sizes:
    config = json.loads((folder / "config.json").read_text())
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    return Sizes(*(config[name] for name in (*names, "head_dim", "vocab_size")))


def test_an_eagle3_draft_changes_no_token(workplace: Path) -> None:
    """Its guesses are noise: steps of four tokens a sequence, of which mostly one stays."""
    folder = export(workplace, "fp8-token")
    draft.write(sizes(folder), [1, 2, 3], workplace / "draft")
    speculation = {"method": "eagle3", "model": str(workplace / "draft")}
    option = json.dumps({**speculation, "num_speculative_tokens": DRAFTS})
    log = workplace / "speculation.log"
    with Server(folder, log, "--speculative-config", option) as server:
        request = {"prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
        (choice,) = server.post("/v1/completions", return_token_ids=True, **request)["choices"]
        assert "Helion: serving" in server.log()
        drafts = server.metric("vllm:spec_decode_num_draft_tokens_total")
    assert len(choice["token_ids"]) == TOKENS
    assert drafts > DRAFTS
    assert_greedy(Qwen3(folder), choice["prompt_token_ids"], choice["token_ids"])
