# SPDX-License-Identifier: Apache-2.0
"""The start-up log: what runs, and the commands that would make it faster."""

import logging
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("vllm.helion")

from helion_kernels import OPS, plan
from helion_kernels.select import Choice
from vllm.helion import report


@pytest.fixture
def logged(monkeypatch):
    """Logs a start whose buckets have these sources and launchers; returns the lines."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.extend(record.getMessage().splitlines())  # type: ignore[method-assign]
    report.logger.addHandler(handler)
    monkeypatch.setattr(report.logger, "level", logging.INFO)

    def log(sources, kinds, tp=1, guesses=0, layers=1, op="scaled_mm", capability=(9, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        choices = [Choice(source, {}, 16 << i, "why") for i, source in enumerate(sources)]
        made = plan.Plan(OPS[op], OPS[op].dims(64, 128), choices, list(kinds), [])
        monkeypatch.setattr(plan, "PLANS", [made])
        layer = SimpleNamespace(format=SimpleNamespace(name="block"), writes_kv=True, attends=True)
        del lines[:]
        report.log([layer] * layers, {}, "a/model", tp, guesses)
        return lines

    yield log
    report.logger.removeHandler(handler)


def hints(lines):
    return [line.partition(": vllm helion ")[2] for line in lines if ": vllm helion " in line]


def test_what_is_tuned_and_packed_needs_no_command(logged):
    lines = logged(["exact", "exact"], ["pack", "stock"])
    assert hints(lines) == []
    assert any("exact" in line and "stock" in line for line in lines)


@pytest.mark.parametrize("source", ["default", "nearest", "related"])
def test_what_is_not_tuned_can_be(logged, source):
    assert hints(logged(["exact", source], ["pack", "pack"])) == ["tune --model a/model"]


@pytest.mark.parametrize(
    ("tp", "guesses", "sizes"),
    [(1, 0, ""), (2, 0, " -tp 2"), (4, 3, " -tp 4 --num-speculative-tokens 3")],
)
def test_what_was_compiled_can_be_packed(logged, tp, guesses, sizes):
    lines = logged(["exact"] * 3, ["compiled", "pack", "compiled"], tp, guesses)
    assert hints(lines) == [f"pack --model a/model{sizes}"]
    assert any("2 kernels were in no pack" in line for line in lines)
    both = hints(logged(["nearest"], ["compiled"], tp, guesses))
    assert both == [f"tune --model a/model{sizes}", f"pack --model a/model{sizes}"]


@pytest.mark.parametrize(
    ("op", "capability", "kinds", "named"),
    [
        ("scaled_mm_blockwise", (9, 0), ["pack", "compiled"], True),
        ("scaled_mm_blockwise", (8, 9), ["pack", "compiled"], False),
        ("scaled_mm", (9, 0), ["pack", "compiled"], False),
    ],
)
def test_deep_gemm_is_named_where_a_pack_would_have_it(logged, op, capability, kinds, named):
    lines = logged(["exact"] * 2, kinds, op=op, capability=capability)
    assert hints(lines) == ["pack --model a/model"]
    assert any("DeepGEMM's" in line for line in lines) is named


def test_an_interpreter_has_nothing_to_pack(logged):
    assert hints(logged(["interpreter"], ["interpreter"])) == []


def test_without_a_served_layer_there_is_no_table(logged):
    assert logged(["default"], ["compiled"], layers=0) == []
