# SPDX-License-Identifier: Apache-2.0
"""Upstream's VLLM_BATCH_INVARIANT reaches the plans, and `vllm helion status` says so."""

import argparse

import pytest

pytest.importorskip("vllm.helion")

from helion_kernels import plan
from vllm import envs
from vllm.helion import cli, switches


@pytest.fixture
def switch(monkeypatch):
    """Sets upstream's switch; what a plan is made for is as before after the test."""
    monkeypatch.setattr(plan, "_invariant", False)

    def turn(on):
        monkeypatch.setenv("VLLM_BATCH_INVARIANT", on)
        if hasattr(envs.__getattr__, "cache_clear"):
            envs.__getattr__.cache_clear()

    return turn


@pytest.mark.parametrize("on", ["0", "1"])
def test_switch(switch, on, monkeypatch, capsys):
    switch(on)
    assert switches.batch_invariant() is (on == "1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("vllm.helion.served.switch_refusal", lambda: None)
    args = {"model": None, "format": None, "tensor_parallel_size": 1, "num_speculative_tokens": 0}
    cli.status(argparse.Namespace(**args, max_num_batched_tokens=64))
    out = capsys.readouterr().out
    assert ("not batch invariant" in out) is (on == "1")
    # Attention is upstream's then.
    assert ("fused_qk_norm_rope_paged_attention" in out) is (on == "0")


def test_without_our_attention_status_does_not_list_it(switch, monkeypatch, capsys):
    switch("0")
    monkeypatch.setenv("VLLM_HELION_ATTENTION", "0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("vllm.helion.served.switch_refusal", lambda: None)
    args = {"model": None, "format": None, "tensor_parallel_size": 1, "num_speculative_tokens": 0}
    cli.status(argparse.Namespace(**args, max_num_batched_tokens=64))
    assert "fused_qk_norm_rope_paged_attention" not in capsys.readouterr().out
