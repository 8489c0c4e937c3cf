# SPDX-License-Identifier: Apache-2.0
"""A sample of the quality gate: engines of ours and of stock, against float64."""

import json
from pathlib import Path

import pytest
from server import environment

from benchmarks import quality


def test_ours_is_as_good_as_stock(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Per-token FP8, in chunks: what stock can run here, in the shape that takes most steps."""
    monkeypatch.setattr("os.environ", environment())
    out = workplace / "quality.json"
    arguments = ["--sample", "--format", "fp8-token", "--shape", "chunked", "--no-bf16"]
    code = quality.main([*arguments, "--out", str(out), "--work", str(workplace / "quality")])
    document = json.loads(out.read_text())
    assert code == 0, document
    assert document["failed_engines"] == []
    assert [record["pass"] for record in document["records"]] == ["prefill", "decode", "greedy"]
    for record in document["records"][:2]:
        assert record["distance_ours"] < 1.2 * record["distance_stock"]
        assert record["distance_ours"] < 0.15
        assert abs(record["ppl_ours"] / record["ppl_float64"] - 1) < 0.02
