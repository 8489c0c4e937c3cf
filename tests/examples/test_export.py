# SPDX-License-Identifier: Apache-2.0
"""The tiny Qwen3's checkpoints: weights near the trained ones, scales as quantisers make them."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import quantize
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import load_file
from transformers import AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples/tiny_qwen3"))

import export as exporter  # noqa: E402
from checkpoint import FORMATS, per_block, per_row  # noqa: E402

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("export")
    return {form: exporter.export(out, form) for form in FORMATS}


def test_no_format_is_over_12_megabytes(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        assert sum(file.stat().st_size for file in folder.iterdir()) < 12 * MEGABYTE


def test_block_matrices_have_several_blocks(folders: dict[str, Path]) -> None:
    tensors = load_file(folders["fp8-block"] / "model.safetensors")
    scales = [tensor for name, tensor in tensors.items() if name.endswith("_scale_inv")]
    assert len(scales) == 7 * 5
    assert all(min(scale.shape) > 1 for scale in scales)


@pytest.mark.parametrize(("form", "suffix"), [("fp8-token", "_scale"), ("fp8-block", "_scale_inv")])
def test_dequantised_weights_are_near_the_trained(
    folders: dict[str, Path], form: str, suffix: str
) -> None:
    """e4m3 keeps 3 bits of a normal number, so half a step is 2^-4 of it; below, 2^-10 scales."""
    trained = load_file(exporter.MODEL / "model.safetensors")
    tensors = load_file(folders[form] / "model.safetensors")
    quantised = [name for name in trained if name.endswith("_proj.weight")]
    assert quantised
    for name in quantised:
        weight, scale = tensors[name].double(), tensors[name + suffix].double()
        rows, columns = weight.shape
        for axis, size in ((0, rows), (1, columns)):
            scale = scale.repeat_interleave(size // scale.shape[axis], axis)
        exact = trained[name].double()
        # a bf16 scale may be 2^-9 too small, and then the largest weight is clipped
        bound = exact.abs() * (2**-4 + 2**-8) + 2**-10 * scale
        assert bool(((weight * scale - exact).abs() <= bound).all()), name
    for name in set(trained) - set(quantised):
        assert torch.equal(tensors[name], trained[name]), name


@pytest.mark.parametrize("form", ["fp8-token", "fp8-block"])
def test_scales_and_values_are_those_of_compressed_tensors(form: str) -> None:
    weight = torch.randn(256, 384, generator=torch.Generator().manual_seed(3)).bfloat16()
    if form == "fp8-token":
        (_, value), (_, scale) = per_row("weight", weight)
        args = QuantizationArgs(num_bits=8, type="float", strategy="channel")
        low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    else:
        (_, value), (_, scale) = per_block("weight", weight)
        args = QuantizationArgs(
            num_bits=8, type="float", strategy="block", block_structure=[128, 128]
        )
        blocks = weight.view(2, 128, 3, 128)
        low, high = blocks.amin((1, 3)), blocks.amax((1, 3))
    their_scale, zero = calculate_qparams(low, high, args)
    assert torch.equal(scale, their_scale)
    theirs = quantize(weight, their_scale, zero, args, dtype=torch.float8_e4m3fn)
    # they divide in bf16, we in float32: a quotient near the middle of two values may fall beside
    steps = (value.view(torch.int8).int() - theirs.view(torch.int8).int()).abs()
    assert int(steps.max()) <= 1
    assert float((steps > 0).float().mean()) < 0.1


def test_rows_of_zeros_stay_zeros() -> None:
    for quantiser in (per_row, per_block):
        (_, value), (_, scale) = quantiser("weight", torch.zeros(128, 128, dtype=torch.bfloat16))
        assert not value.float().any()
        assert bool((scale > 0).all())


def test_chat_template_is_chatml(folders: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders["bf16"])
    messages = [{"role": "user", "content": "What is numpy?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
    text = "<|im_start|>user\nWhat is numpy?<|im_end|>\n<|im_start|>assistant\n"
    ids = ids["input_ids"] if not isinstance(ids, list) else ids
    assert tokenizer.decode(ids) == text
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|im_start|>")


def test_weights_that_are_not_the_published_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(exporter.MODEL, tmp_path / "model")
    monkeypatch.setattr(exporter, "MODEL", tmp_path / "model")
    hashes = json.loads((tmp_path / "model/sha256.json").read_text())
    hashes["fp8-block"] = "0" * 64
    (tmp_path / "model/sha256.json").write_text(json.dumps(hashes))
    exporter.export(tmp_path, "fp8-token")
    with pytest.raises(SystemExit, match=r"fp8-block weights have sha256 [0-9a-f]{64}, "):
        exporter.export(tmp_path, "fp8-block")
    tokenizer = tmp_path / "model/tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    with pytest.raises(SystemExit, match="trained with another tokenizer"):
        exporter.export(tmp_path, "fp8-token")
