# SPDX-License-Identifier: Apache-2.0
"""Whether a server's greedy tokens are those of the reference model."""

import torch

from benchmarks.reference import Qwen3

NEAR_TIE = 1.0
"""Logits that rounding may swap: FP8 moves a token's log-probability by 0.08 on the average, ours
and upstream's alike, and one in a thousand by 0.5 (`benchmarks.quality`: near tie 1.06)."""


def assert_greedy(reference: Qwen3, prompt: list[int], tokens: list[int]) -> None:
    """Each token is the reference's choice after those before it, but for a few near ties."""
    logits = reference.logits(prompt + tokens)[len(prompt) - 1 : -1]
    chosen = logits.gather(1, torch.tensor(tokens).unsqueeze(1)).squeeze(1)
    lag = logits.amax(1) - chosen
    assert float(lag.max()) < NEAR_TIE, f"token {int(lag.argmax())} of {tokens}"
    assert int((lag == 0).sum()) >= 0.75 * len(tokens), f"too many near ties: {lag.tolist()}"
