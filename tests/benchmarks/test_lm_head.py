# SPDX-License-Identifier: Apache-2.0
"""What an lm_head in FP8 costs: the reference quantises as the engine does, and it costs little."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import lm_head
from benchmarks.quality import export
from benchmarks.reference import Qwen3


def test_the_reference_quantises_as_the_engine_does(tmp_path: Path) -> None:
    head = pytest.importorskip("vllm.helion.lm_head")
    folder = export(tmp_path, "bf16")
    exact = Qwen3(folder, exact=True).head.weight
    values, scales = head.quantise(exact.to(torch.bfloat16))
    reference = Qwen3(folder, exact=True, fp8_lm_head=True).head.weight
    assert torch.equal(reference, values.double() * scales.double())
    assert not torch.equal(reference, exact)


def test_it_costs_something_and_not_much(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "lm-head.json"
    assert lm_head.main(["--sample", "--out", str(out), "--work", str(tmp_path / "work")]) == 0
    document = json.loads(out.read_text())
    assert [r["format"] for r in document["records"]] == ["fp8-token"] * 2 + ["fp8-block"] * 2
    for kept, quantised in zip(*[iter(document["records"])] * 2, strict=True):
        assert kept["distance"] != quantised["distance"]
        assert quantised["ppl"] == pytest.approx(kept["ppl"], rel=0.02)
        assert 0.9 < quantised["same"] <= 1
    assert "the best token stays in" in capsys.readouterr().out
