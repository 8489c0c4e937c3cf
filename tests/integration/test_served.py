# SPDX-License-Identifier: Apache-2.0
"""Which models are refused, from their configs alone."""

from types import SimpleNamespace

import pytest
import torch

from vllm.helion import served
from vllm.model_executor.models.qwen3 import Qwen3DecoderLayer


@pytest.fixture
def config(monkeypatch):
    """Qwen3-32B in FP8, as vLLM's configs say it."""
    monkeypatch.setattr(served, "switch_refusal", lambda: None)
    text = SimpleNamespace(
        quantization_config={"quant_method": "fp8"},
        head_dim=128,
        hidden_act="silu",
        intermediate_size=25600,
    )
    return SimpleNamespace(
        model_config=SimpleNamespace(
            hf_text_config=text,
            hf_config=text,
            dtype=torch.bfloat16,
            quantization="fp8",
            uses_mrope=False,
        ),
        parallel_config=SimpleNamespace(
            decode_context_parallel_size=1,
            prefill_context_parallel_size=1,
            tensor_parallel_size=1,
            enable_dbo=False,
        ),
        scheduler_config=SimpleNamespace(max_num_batched_tokens=16384),
        lora_config=None,
    )


def test_served(config):
    assert served.model_refusal(config) is None


def test_steps_whose_activations_32_bits_cannot_address(config):
    config.scheduler_config.max_num_batched_tokens = 41944
    assert 41944 * 51200 > 2**31 > 41943 * 51200
    assert "41944 tokens" in served.model_refusal(config)
    config.scheduler_config.max_num_batched_tokens = 41943
    assert served.model_refusal(config) is None
    config.scheduler_config.max_num_batched_tokens = 65536
    config.parallel_config.tensor_parallel_size = 2
    assert served.model_refusal(config) is None


@pytest.mark.parametrize(
    ("part", "name", "value", "reason"),
    [
        ("parallel_config", "enable_dbo", True, "dual batch overlap"),
        ("parallel_config", "decode_context_parallel_size", 2, "decode context parallelism"),
        ("model_config", "dtype", torch.float16, "float16"),
        ("model_config", "uses_mrope", True, "mrope"),
    ],
)
def test_refused(config, part, name, value, reason):
    setattr(getattr(config, part), name, value)
    assert reason in served.model_refusal(config)


def test_lora(config):
    config.lora_config = object()
    assert served.model_refusal(config) == "LoRA is enabled"


def test_a_layer_with_a_forward_of_its_own():
    """As a draft's, which reads an embedding and a hidden state side by side."""

    class Draft(Qwen3DecoderLayer):
        def forward(self, positions, embeds, hidden_states, residual):
            raise NotImplementedError

    class Renamed(Qwen3DecoderLayer):
        pass

    assert served.class_refusal(Draft.__new__(Draft)) == "Draft has a forward of its own"
    assert served.class_refusal(Renamed.__new__(Renamed)) is None
