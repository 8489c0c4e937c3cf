# SPDX-License-Identifier: Apache-2.0
"""Training: the same weights after a kill, and a loss that falls."""

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples/tiny_qwen3"))

import train as trainer  # noqa: E402


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A model of one layer, and text that repeats itself."""
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    monkeypatch.setattr(trainer, "SIZES", sizes | heads)
    tokens = (torch.arange(4096) * 7 % 61).to(torch.uint16)
    save_file({"tokens": tokens}, tmp_path / "tokens.safetensors", {"tokenizer": "none"})


def options(out: Path, **more: Any) -> Namespace:
    settings = {"steps": 12, "batch": 4, "length": 32, "seed": 1, "log": 2, "save": 4}
    return Namespace(data=out.parent, out=out, **settings | more)


def test_a_killed_run_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.train(options(tmp_path / "whole"))
    batch = trainer.batch

    def killed(tokens: torch.Tensor, step: int, *rest: int) -> torch.Tensor:
        if step == 7:  # after the checkpoint of step 4 and the lines of step 6
            raise KeyboardInterrupt
        return batch(tokens, step, *rest)

    monkeypatch.setattr(trainer, "batch", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(options(tmp_path / "killed"))
    monkeypatch.setattr(trainer, "batch", batch)
    assert (tmp_path / "killed/checkpoint.pt").exists()
    trainer.train(options(tmp_path / "killed"))

    whole, resumed = (
        load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed")
    )
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    curves = [
        json.loads((tmp_path / name / "loss.json").read_text())["curve"]
        for name in ("whole", "killed")
    ]
    assert curves[0] == curves[1]
    assert not (tmp_path / "killed/checkpoint.pt").exists()


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    for seed in (1, 2):
        trainer.train(options(tmp_path / str(seed), seed=seed, steps=2))
    one, two = (load_file(tmp_path / seed / "model.safetensors") for seed in "12")
    assert not torch.equal(one["model.embed_tokens.weight"], two["model.embed_tokens.weight"])


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    torch.save({"settings": {"steps": 3}}, out / "checkpoint.pt")
    with pytest.raises(SystemExit, match=r"checkpoint\.pt is of another run"):
        trainer.train(options(out))


def test_it_learns(tmp_path: Path) -> None:
    trainer.train(options(tmp_path / "run", steps=60, log=10, save=20))
    curve = json.loads((tmp_path / "run/loss.json").read_text())["curve"]
    assert [step for step, _ in curve] == [10, 20, 30, 40, 50, 60]
    assert curve[-1][1] < 0.7 * curve[0][1]


def test_learning_rate_rises_and_falls() -> None:
    rates = [trainer.learning_rate(step, 1000) for step in range(1000)]
    top = rates.index(max(rates))
    assert 20 <= top <= 40
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) == pytest.approx(trainer.PEAK)
    assert rates[-1] == pytest.approx(trainer.FLOOR, rel=1e-3)
