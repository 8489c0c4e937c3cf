# SPDX-License-Identifier: Apache-2.0
"""The reference model against transformers, which shares no code with it."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from benchmarks.reference import Qwen3

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples/tiny_qwen3"))

from checkpoint import FORMATS  # noqa: E402
from export import export  # noqa: E402

PROMPT = "Returns the indices that would sort an array along the given axis. By default, the last."


@pytest.fixture(scope="module", params=FORMATS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("models"), request.param)


def transformers_logits(folder: Path, reference: Qwen3, tokens: list[int]) -> torch.Tensor:
    """With the reference's weights and in its dtype; transformers rounds no activation."""
    settings = json.loads((folder / "config.json").read_text("utf-8"))
    settings.pop("quantization_config", None)
    model = Qwen3ForCausalLM(Qwen3Config(**settings)).to(reference.dtype).eval()
    weights = {name + ".weight": linear.weight for name, linear in reference.linears.items()}
    weights |= reference.vectors | {"model.embed_tokens.weight": reference.embedding}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert missing in ([], ["lm_head.weight"])
    assert not unexpected
    model.tie_weights()
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0]


def test_logits_are_those_of_transformers(folder: Path) -> None:
    """What is left is rounding, 2^-9 of a value in bf16 and 2^-5 in e4m3 at each of 20 places."""
    reference = Qwen3(folder)
    tokens = AutoTokenizer.from_pretrained(folder)(PROMPT)["input_ids"]
    expected = transformers_logits(folder, reference, tokens)
    error = (reference.logits(tokens) - expected).square().mean().sqrt() / expected.std()
    assert error < (0.01 if folder.name == "tiny-qwen3" else 0.12)


def test_exact_logits_are_those_of_transformers_in_float64(tmp_path: Path) -> None:
    """The bf16 checkpoint has no activations to quantise: nothing is left but float32 norms."""
    folder = export(tmp_path, "bf16")
    reference = Qwen3(folder, exact=True)
    tokens = AutoTokenizer.from_pretrained(folder)(PROMPT)["input_ids"]
    expected = transformers_logits(folder, reference, tokens)
    error = (reference.logits(tokens) - expected).abs().max() / expected.std()
    assert error < 1e-5


def test_exact_and_rounded_differ_by_rounding_alone(folder: Path) -> None:
    tokens = AutoTokenizer.from_pretrained(folder)(PROMPT)["input_ids"]
    exact, rounded = (Qwen3(folder, exact=exact).logits(tokens) for exact in (True, False))
    assert exact.dtype == torch.float64
    error = (exact - rounded).square().mean().sqrt() / exact.std()
    assert 0 < error < (0.01 if folder.name == "tiny-qwen3" else 0.05)


def test_greedy_is_the_best_token_each_time(folder: Path) -> None:
    reference = Qwen3(folder)
    tokens = reference.greedy([0], 8)
    best = reference.logits([0, *tokens])[:-1].argmax(1)
    assert tokens == best.tolist()
