# SPDX-License-Identifier: Apache-2.0
"""VLLM_HELION_FP8_LM_HEAD=1: logits of an lm_head in FP8, and which lm_heads keep bf16."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("vllm.helion")

from torch import nn

from vllm.helion import lm_head
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

VOCAB, HIDDEN = 320, 256
CONFIG = SimpleNamespace(
    model_config=SimpleNamespace(dtype=torch.bfloat16, head_dtype=torch.bfloat16)
)


def model(weight: torch.Tensor) -> nn.Module:
    """What serving an lm_head needs of a loaded model."""
    head = nn.Module()
    head.weight = nn.Parameter(weight, requires_grad=False)
    head.quant_method = UnquantizedEmbeddingMethod()
    return SimpleNamespace(lm_head=head)


@pytest.fixture
def weight() -> torch.Tensor:
    """Rows of very different sizes, as tokens' are, and one of zeros."""
    sizes = torch.logspace(-3, 0, VOCAB).unsqueeze(1)
    rows = torch.randn(VOCAB, HIDDEN) * sizes
    rows[7] = 0
    return rows.to(torch.bfloat16)


def bound(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What two FP8 roundings and one to bf16 may change of exact logits, [M, vocab] float64.

    A rounding changes an element by 2^-4 of it, or by 2^-10 / 448 of its row's largest.
    """
    x, weight = x.double().abs(), weight.double().abs()
    tiny = 2.0**-10 / 448
    error_x = x * 2**-4 + tiny * x.amax(-1, keepdim=True)
    error_w = weight * 2**-4 + tiny * weight.amax(-1, keepdim=True).clamp(min=lm_head.MIN_AMAX)
    worst = error_x @ weight.t() + x @ error_w.t() + error_x @ error_w.t()
    return worst * (1 + 2**-7) + (x @ weight.t()) * 2**-8


@pytest.mark.parametrize("tokens", [1, 3, 5, 11])
def test_logits_are_near_the_exact_ones(tokens, weight, monkeypatch):
    monkeypatch.setattr(lm_head, "MOST_TOKENS", 5)  # 11 tokens: three launches, the last of one
    served = model(weight)
    assert lm_head.serve(served, CONFIG) is not None
    head = served.lm_head
    x = (torch.randn(tokens, HIDDEN) * torch.logspace(-1, 2, tokens).unsqueeze(1)).bfloat16()
    exact = x.double() @ weight.double().t()
    logits = head.quant_method.apply(head, x)
    assert logits.dtype == torch.bfloat16
    error = (logits.double() - exact).abs()
    assert (error <= bound(x, weight)).all()
    # Rounding errors of both signs add up like noise: far below the sum of their sizes.
    assert error.mean() < 0.1 * bound(x, weight).mean()
    assert (logits[:, 7] == 0).all()


def test_a_bias_and_more_dimensions(weight):
    served = model(weight)
    lm_head.serve(served, CONFIG)
    head = served.lm_head
    x, bias = torch.randn(2, 3, HIDDEN).bfloat16(), torch.randn(VOCAB).bfloat16()
    plain = head.quant_method.apply(head, x)
    assert plain.shape == (2, 3, VOCAB)
    assert torch.equal(head.quant_method.apply(head, x, bias=bias), plain + bias)


def test_a_tied_embedding_stays_exact(weight):
    served = model(weight)
    lm_head.serve(served, CONFIG)
    head = served.lm_head
    ids = torch.randint(VOCAB, (9,))
    assert torch.equal(head.quant_method.embedding(head, ids), weight[ids])


def test_a_reload_is_followed(weight):
    served = model(weight)
    lm_head.serve(served, CONFIG)
    head = served.lm_head
    x = torch.randn(4, HIDDEN).bfloat16()
    before = head.quant_method.apply(head, x)
    head.weight.data.copy_(-weight)
    head.quant_method.process_weights_after_loading(head)  # as upstream's loader does
    assert torch.equal(head.quant_method.apply(head, x), -before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda served, config: setattr(served, "lm_head", object()), "another rank"),
        (lambda served, config: setattr(served.lm_head, "quant_method", object()), "already"),
        (lambda served, config: setattr(config, "head_dtype", torch.float32), "torch.float32"),
    ],
)
def test_an_lm_head_that_stays_is_named(change, words, weight, monkeypatch):
    said = []
    monkeypatch.setattr(lm_head.logger, "warning", lambda text, *args: said.append(text % args))
    served, config = model(weight), SimpleNamespace(**vars(CONFIG.model_config))
    change(served, config)
    assert lm_head.serve(served, SimpleNamespace(model_config=config)) is None
    assert len(said) == 1
    assert words in said[0]
    assert "VLLM_HELION_FP8_LM_HEAD" in said[0]
