# SPDX-License-Identifier: Apache-2.0
"""Text for the quality gate: what is read, and what is refused in a line."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import quality, texts

MADE_WITH = {"tokenizer": texts.digest(texts.EXAMPLE / "model/tokenizer.json")}


def write(path: Path, tokens: torch.Tensor, name: str = "tokens") -> Path:
    save_file({name: tokens}, path, MADE_WITH)
    return path


def refused(path: Path, count: int | None = None) -> str:
    with pytest.raises(ValueError, match=path.name) as error:
        texts.read(path, count)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_the_default_is_the_published_text() -> None:
    text = texts.read()
    assert text.rows == load_file(texts.HELD_OUT)["tokens"].tolist()
    assert text.record["name"] == texts.HELD_OUT.name


@pytest.mark.parametrize("dtype", [torch.uint16, torch.int32, torch.int64])
def test_the_first_rows_of_any_integers(tmp_path: Path, dtype: torch.dtype) -> None:
    tokens = (torch.arange(5 * 512).view(5, 512) % 4000).to(dtype)
    text = texts.read(write(tmp_path / "text.safetensors", tokens), 3)
    assert text.rows == tokens.tolist()[:3]
    assert text.record["rows"] == 3
    assert text.sha256 == texts.digest(tmp_path / "text.safetensors")


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.safetensors"
    refused(path)
    path.write_text("no tensors")
    refused(path)
    rows = torch.zeros(4, 512, dtype=torch.int32)
    refused(write(path, rows, "words"))
    assert "[rows, 512]" in refused(write(path, rows[:, :100].contiguous()))
    assert "[rows, 512]" in refused(write(path, rows.flatten()))
    assert "[rows, 512]" in refused(write(path, rows.float()))
    assert "1 rows" in refused(write(path, rows), 1)
    save_file({"tokens": rows}, path)
    assert "tokenizer" in refused(path)


def test_more_text_has_the_same_prompts() -> None:
    rows = texts.read().rows
    assert quality.make_task(rows, False).prompts == quality.make_task(rows * 2, False).prompts
    assert quality.make_task(rows * 2, False).rows == rows * 2
