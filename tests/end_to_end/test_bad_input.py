# SPDX-License-Identifier: Apache-2.0
"""Damaged checkpoints and absurd wishes: one clear error each, or a fallback that says so."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint import write
from export import MODEL, export
from safetensors.torch import load_file, save_file
from server import environment
from tokenizers import Tokenizer

HERE = Path(__file__).parent
DOWN = "model.layers.2.mlp.down_proj."
Tensors = dict[str, torch.Tensor]


def damaged(folder: Path, form: str, damage: Callable[[Tensors], object]) -> str:
    """A checkpoint below ``folder`` whose tensors went through ``damage``."""
    model = export(folder, form)
    tensors = load_file(model / "model.safetensors")
    damage(tensors)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    return str(model)


def narrow(folder: Path) -> str:
    """A checkpoint with twice the heads, of half the size."""
    tensors = load_file(MODEL / "model.safetensors")
    for name in tensors:
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            tensors[name] = tensors[name][:64].contiguous()
    write(folder, "fp8-token", tensors, Tokenizer.from_file(str(MODEL / "tokenizer.json")))
    return str(folder)


def with_nan(scale: torch.Tensor) -> torch.Tensor:
    scale[1, 0] = torch.nan
    return scale


SCALE = {"fp8-token": DOWN + "weight_scale", "fp8-block": DOWN + "weight_scale_inv"}
DAMAGES: dict[str, Callable[[Tensors, str], object]] = {
    "nan": lambda tensors, name: tensors.update({name: with_nan(tensors[name])}),
    "shape": lambda tensors, name: tensors.update({name: tensors[name][:, :0].contiguous()}),
    "short": lambda tensors, name: tensors.update({name: tensors[name][1:].contiguous()}),
    "missing": lambda tensors, name: tensors.pop(name),
}
WISHES: dict[str, dict[str, Any]] = {
    "tp": {"tensor_parallel_size": 3},
    "seqs": {"max_num_seqs": 10**9},
    "seqs and tokens": {"max_num_seqs": 10**9, "max_num_batched_tokens": 10**9},
    "lora": {"enable_lora": True},
    "float32": {"dtype": "float32"},
}


@pytest.fixture(scope="session")
def attempts(workplace: Path) -> dict[str, dict[str, Any]]:
    """What became of each attempt, all made in one go."""
    sound = str(export(workplace / "sound", "fp8-token"))
    given = {name: {"model": sound, "options": options} for name, options in WISHES.items()}
    for form, scale in SCALE.items():
        for name, damage in DAMAGES.items():
            folder = workplace / f"{name}-{form}"
            spoil = partial(damage, name=scale)
            given[f"{name} {form}"] = {"model": damaged(folder, form, spoil), "options": {}}
    given["head_dim"] = {"model": narrow(workplace / "narrow"), "options": {}}
    result = subprocess.run(
        [sys.executable, str(HERE / "attempt.py")],
        input=json.dumps(given),
        env=environment(VLLM_ENABLE_V1_MULTIPROCESSING="0"),
        cwd=workplace,
        stdout=subprocess.PIPE,
        text=True,
        timeout=900,
        check=True,
    )
    return json.loads(result.stdout.splitlines()[-1])


def one_error(attempt: dict[str, Any]) -> str:
    """The error that ended an attempt, which neither hung nor answered."""
    assert attempt["text"] is None, "it answered, with nonsense"
    assert attempt["error"], attempt["output"][-2000:]
    assert not attempt["error"].startswith("hung"), attempt["output"][-2000:]
    return attempt["error"]


@pytest.mark.parametrize("form", SCALE)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_scale_ends_in_one_error_that_names_it(
    attempts: dict[str, dict[str, Any]], damage: str, form: str
) -> None:
    error = one_error(attempts[f"{damage} {form}"])
    assert "mlp.down_proj" in error
    assert SCALE[form].rpartition(".")[2] in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ("tp", "attention heads (4) must be divisible by tensor parallel size (3)"),
        ("seqs", "max_num_batched_tokens (128) must be greater than or equal to max_num_seqs"),
        ("seqs and tokens", "allocate"),
    ],
)
def test_an_absurd_wish_is_refused(
    attempts: dict[str, dict[str, Any]], wish: str, words: str
) -> None:
    assert words in one_error(attempts[wish])


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ("head_dim", "head_dim is 64, not 128"),
        ("lora", "LoRA is enabled"),
        ("float32", "dtype is torch.float32, not bfloat16"),
    ],
)
def test_what_is_not_served_runs_stock_and_says_why(
    attempts: dict[str, dict[str, Any]], wish: str, reason: str
) -> None:
    attempt = attempts[wish]
    assert attempt["error"] is None, attempt["output"][-2000:]
    assert attempt["text"]
    assert f"Helion: model.layers.0 and 4 more run stock: {reason}" in attempt["output"]
    assert attempt["output"].count("run stock") == 1, "said once"
    assert "Helion: serving" not in attempt["output"]
