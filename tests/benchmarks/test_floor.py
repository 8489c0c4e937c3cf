# SPDX-License-Identifier: Apache-2.0
"""The least time of a decode step, by hand."""

import pytest

from benchmarks import floor, step
from helion_kernels.qwen3 import MODELS

LAYER = 4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 12288
WEIGHTS, LM_HEAD = 36 * LAYER, 2 * 151936 * 4096
TOKEN = 36 * 8 * 128 * 2 * 2
RATE = 3e6
"""Bytes per microsecond."""


def test_bytes_of_a_step():
    assert step.layer_bytes(MODELS["8b"]) == LAYER
    expected = {"gemm": WEIGHTS, "attention": 8 * 600 * TOKEN, "lm_head": LM_HEAD}
    assert floor.step_bytes(MODELS["8b"], 36, 8, 600, False) == expected
    expected["lm_head"] /= 2
    assert floor.step_bytes(MODELS["8b"], 36, 8, 600, True) == expected


def document(**more):
    run = {
        "startup_s": 60.0,
        "rows": [
            {"batch": 8, "tpot_ms": 4.0, "prefill_ms": 50.0},
            {"batch": 2, "input": 8192, "tpot_ms": 5.0, "prefill_ms": 500.0},
        ],
        "profiled_tokens": 3,
        "profile_8": [
            {"kernel": "_helion_scaled_mm", "us": 8000.0},
            {"kernel": "nvjet", "us": 2e3},
        ],
        "profile_8_prefill": [{"kernel": "_helion_scaled_mm", "us": 0.0}],
    }
    return {"model": "Qwen3-8B, per-token FP8", "runs": {"ours": [run], "stock": [run]}, **more}


def test_shares_of_steps_and_of_their_kernels():
    found = floor.shares(document(), RATE)
    assert found["ours"] == found["stock"]
    ours = found["ours"]
    # What was generated counts half: at first there is nothing of it, at last 128 tokens.
    least = (WEIGHTS + LM_HEAD + 8 * (512 + 64) * TOKEN) / RATE / 1e3
    assert ours["tpot_ms@8"] == pytest.approx((least, least / 4.0))
    least = (WEIGHTS + LM_HEAD + 2 * (8192 + 64) * TOKEN) / RATE / 1e3
    assert ours["tpot_ms@2x8192"] == pytest.approx((least, least / 5.0))
    assert ours["gemm@8"] == pytest.approx((WEIGHTS / RATE, WEIGHTS / RATE / 4000))
    assert ours["lm_head@8"] == pytest.approx((LM_HEAD / RATE, LM_HEAD / RATE / 1000))
    assert set(ours) == {"tpot_ms@8", "tpot_ms@2x8192", "gemm@8", "lm_head@8"}


def test_as_many_tokens_as_were_asked_for():
    found = floor.shares(document(arguments=["--tokens", "600"]), RATE)
    least = (WEIGHTS + LM_HEAD + 8 * (512 + 300) * TOKEN) / RATE / 1e3
    assert found["ours"]["tpot_ms@8"].floor == pytest.approx(least)


def test_an_lm_head_in_fp8_has_half_the_bytes():
    found = floor.shares(document(arms={"ours": {"VLLM_HELION_FP8_LM_HEAD": "1"}}), RATE)
    saved = found["stock"]["tpot_ms@8"].floor - found["ours"]["tpot_ms@8"].floor
    assert saved == pytest.approx(LM_HEAD / 2 / RATE / 1e3)


@pytest.mark.parametrize(
    "more",
    [
        {"model": "Llama-8B"},
        {"model": "Qwen3-9B"},
        {"arguments": ["--engine-args", '{"speculative_config": {}}']},
    ],
)
def test_none_of_steps_of_another_kind(more):
    assert floor.shares(document(**more), RATE) == {}


def test_lines_have_every_cell_and_every_arm():
    one, two = floor.Share(2.0, 0.711), floor.Share(400.0, 1.0)
    found = {"ours": {"tpot_ms@1": one}, "stock": {"tpot_ms@1": one, "lm_head@1": two}}
    assert list(floor.lines(found)) == [
        ["tpot_ms@1", "71 % of 2.000", "71 % of 2.000"],
        ["lm_head@1", "-", "100 % of 400.0"],
    ]
