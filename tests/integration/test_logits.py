# SPDX-License-Identifier: Apache-2.0
"""Which models get float32 logits, and that upstream's processor then computes them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("vllm.helion")

from vllm.helion import logits
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

GPU = SimpleNamespace(is_cuda=lambda: True)


@pytest.fixture
def model() -> Any:
    processor = SimpleNamespace(head_dtype=torch.bfloat16)
    head = SimpleNamespace(quant_method=UnquantizedEmbeddingMethod())
    return SimpleNamespace(lm_head=head, logits_processor=processor)


@pytest.fixture
def config() -> Any:
    return SimpleNamespace(
        model_config=SimpleNamespace(
            dtype=torch.bfloat16, head_dtype=torch.bfloat16, hf_config=SimpleNamespace()
        ),
        parallel_config=SimpleNamespace(tensor_parallel_size=1),
    )


def test_of_an_lm_head_in_bf16_on_a_gpu(model, config, monkeypatch):
    monkeypatch.setattr(logits, "current_platform", GPU)
    said: list[str] = []
    monkeypatch.setattr(logits.logger, "info", said.append)
    assert logits.keep_float32(model, config)
    assert model.logits_processor.head_dtype == torch.float32
    assert len(said) == 1
    assert "head_dtype" in said[0]


def test_not_on_a_cpu(model, config):
    assert not logits.keep_float32(model, config)
    assert model.logits_processor.head_dtype == torch.bfloat16


@pytest.mark.parametrize(
    "change",
    [
        lambda model, config: setattr(config.parallel_config, "tensor_parallel_size", 2),
        lambda model, config: setattr(config.model_config.hf_config, "head_dtype", "model"),
        lambda model, config: setattr(config.model_config, "head_dtype", torch.float32),
        lambda model, config: setattr(model.lm_head, "quant_method", object()),
        lambda model, config: delattr(model, "lm_head"),
        lambda model, config: delattr(model, "logits_processor"),
    ],
    ids=["two GPUs", "model asked for", "float32 asked for", "quantised", "other rank", "other"],
)
def test_not_where(change, model, config, monkeypatch):
    monkeypatch.setattr(logits, "current_platform", GPU)
    change(model, config)
    assert not logits.keep_float32(model, config)


def test_not_where_bits_must_not_depend_on_the_batch(model, config, monkeypatch):
    monkeypatch.setattr(logits, "current_platform", GPU)
    monkeypatch.setattr(logits.switches, "batch_invariant", lambda: True)
    assert not logits.keep_float32(model, config)


def test_not_of_an_lm_head_in_fp8(model, config, monkeypatch):
    monkeypatch.setattr(logits, "current_platform", GPU)
    assert logits.wanted(config)
    monkeypatch.setenv("VLLM_HELION_FP8_LM_HEAD", "1")
    assert not logits.wanted(config)
    assert not logits.keep_float32(model, config)


def test_upstreams_processor_takes_it():
    """What is set is what its product asks: float32 logits, no rounding on their way."""
    from vllm.model_executor.layers.logits_processor import LogitsProcessor

    processor = LogitsProcessor.__new__(LogitsProcessor)
    torch.nn.Module.__init__(processor)
    processor.head_dtype = torch.float32
    weight, x = torch.randn(64, 128).bfloat16(), torch.randn(5, 128).bfloat16()
    head = SimpleNamespace(quant_method=UnquantizedEmbeddingMethod(), weight=weight)
    found = processor._apply_head(head, x, None)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), x.double() @ weight.double().t(), rtol=0, atol=1e-4)
