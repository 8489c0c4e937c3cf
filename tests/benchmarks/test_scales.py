# SPDX-License-Identifier: Apache-2.0
"""What power-of-two scales cost: the reference's against the kernels' own, and the comparison."""

import json
from pathlib import Path

import torch

from benchmarks import scales
from benchmarks.reference import GROUP, Linear, unrounded
from helion_kernels.fp8 import FP8
from helion_kernels.sample import Random
from helion_kernels.ue8m0 import power_of_two, requantise


def test_the_reference_rounds_as_the_switch_does():
    n, k = 300, 512
    weight = Random("cpu").randn((n, k), FP8, std=60.0)
    scale = Random("cpu").uniform((3, 4), 1e-4, 1e-2)
    tensors = {"x.weight": weight.clone(), "x.weight_scale_inv": scale.clone()}
    linear = Linear(tensors, "x", torch.float64, unrounded, ue8m0=True)
    requantise(weight, scale)
    wide = scale.double().repeat_interleave(GROUP, 0)[:n].repeat_interleave(GROUP, 1)
    assert torch.equal(linear.weight, weight.double() * wide)
    x = Random("cpu").randn((5, k), torch.float32).double()
    groups = linear.quantise(x).unflatten(-1, (-1, GROUP))
    steps = (
        groups
        / power_of_two((x.unflatten(-1, (-1, GROUP)).abs().amax(-1) / 448).float())[
            ..., None
        ].double()
    )
    assert torch.equal(steps.float().to(FP8).double(), steps)


def test_the_checkpoints_scales_are_nearer_to_the_bf16_model(tmp_path: Path, capsys):
    out = tmp_path / "scales.json"
    arguments = ["--sample", "--no-engines", "--out", str(out), "--work", str(tmp_path / "work")]
    assert scales.main(arguments) == 0
    exact, rounded = json.loads(out.read_text())["records"]
    assert (exact["model"], rounded["model"]) == ("float64", "float64-ue8m0")
    assert exact["distance"] < rounded["distance"]
    assert rounded["further"]["mean"] > 2 * rounded["further"]["error"]
    assert "than float64" in capsys.readouterr().out
