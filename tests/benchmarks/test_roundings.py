# SPDX-License-Identifier: Apache-2.0
"""Which roundings are left out and added, and that leaving all of them out changes most."""

import json

import pytest
import torch

from benchmarks import roundings, texts
from benchmarks.reference import GROUPS, SERVED, UPSTREAM, Qwen3
from benchmarks.verdicts import logprobs


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    out = tmp_path_factory.mktemp("roundings") / "out.json"
    assert roundings.main(["--out", str(out), "--rows", "2", "--work", str(out.parent)]) == 0
    return out.parent, json.loads(out.read_text())


def test_each_place_is_left_out_or_added_once(document):
    _, found = document
    names = [each["variant"] for each in found["records"] if each["format"] == "fp8-token"]
    places = {name.lstrip("+-") for name in names if name[0] in "+-"}
    assert places == SERVED | UPSTREAM - {"logits"} | {GROUPS}
    assert len(names) == len(set(names)) == len(places) + 4
    assert found["records"][0]["moved"]["mean"] == 0
    records = [each for each in found["records"] if each["format"] == "fp8-block"]
    by_name = {each["variant"]: each["distance"] for each in records}
    assert by_name["none"] == min(by_name.values())
    assert len(set(by_name.values())) == len(by_name)  # no place that nothing rounds at
    of_bf16 = {each["distance_bf16"] for each in records}
    assert len(of_bf16) == len(by_name)
    assert of_bf16.isdisjoint(by_name.values())


def test_several_rows_at_once_are_rows_one_by_one(document):
    folder, _ = document
    (checkpoint,) = folder.glob("*-dynamic")
    model = Qwen3(checkpoint, exact=True)
    rows = texts.read(count=3).rows
    alone = torch.cat([logprobs(model, [row]) for row in rows])
    torch.testing.assert_close(logprobs(model, rows), alone, rtol=0, atol=1e-9)
    assert roundings.main(["--out", "x", "--text", "missing"]) == 2
