# SPDX-License-Identifier: Apache-2.0
"""The reference model against transformers, which shares no code with it."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "examples/tiny_qwen3"), str(Path(__file__).parent)]

from make import FORMATS, make  # noqa: E402
from qwen3 import Qwen3  # noqa: E402

PROMPT = "The words that it writes are the ones it was given here, and the night is long."


@pytest.fixture(scope="module", params=FORMATS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("models"), request.param)


def test_logits_are_those_of_transformers(folder: Path) -> None:
    """transformers computes in float32 on the same weights, and rounds no activation: what is left
    is rounding, 2^-9 of a value in bf16 and 2^-5 in e4m3 at each of 16 places."""
    reference = Qwen3(folder)
    settings = json.loads((folder / "config.json").read_text("utf-8"))
    settings.pop("quantization_config", None)
    model = Qwen3ForCausalLM(Qwen3Config(**settings)).float().eval()
    weights = {name + ".weight": linear.weight for name, linear in reference.linears.items()}
    weights |= reference.vectors | {"model.embed_tokens.weight": reference.embedding}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert missing in ([], ["lm_head.weight"])
    assert not unexpected
    model.tie_weights()
    tokens = AutoTokenizer.from_pretrained(folder)(PROMPT)["input_ids"]
    with torch.inference_mode():
        expected = model(torch.tensor([tokens])).logits[0]
    error = (reference.logits(tokens) - expected).square().mean().sqrt() / expected.std()
    assert error < (0.01 if folder.name == "tiny-qwen3" else 0.12)


def test_quantised_weights_are_near_the_originals(tmp_path: Path) -> None:
    """Scales belong to the right rows and blocks: e4m3 keeps 3 bits, so 2^-4 at worst."""
    exact, *quantised = (Qwen3(make(tmp_path, form)).linears for form in FORMATS)
    for linears in quantised:
        for name, linear in linears.items():
            difference = (linear.weight - exact[name].weight).norm() / exact[name].weight.norm()
            assert difference < 0.03, name


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    one, two, other = (
        {
            file.name: file.read_bytes()
            for file in make(tmp_path / name, "fp8-block", seed).iterdir()
        }
        for name, seed in (("one", 7), ("two", 7), ("other", 8))
    )
    assert one == two
    assert one["model.safetensors"] != other["model.safetensors"]


def test_greedy_output_is_varied(folder: Path) -> None:
    tokens, leads = Qwen3(folder).greedy([0], 24)
    assert len(set(tokens)) > 12
    assert min(leads) > 0.01
