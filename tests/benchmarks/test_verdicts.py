# SPDX-License-Identifier: Apache-2.0
"""When perplexities count as the same: log-probabilities whose differences are known by hand."""

import pytest
import torch

from benchmarks import verdicts


@pytest.fixture
def exact() -> torch.Tensor:
    return -torch.rand(400, 64, dtype=torch.double) * 8


def off(exact: torch.Tensor, nats: float, noise: float = 0.01) -> torch.Tensor:
    """Log-probabilities whose perplexity is so much higher, give or take noise / 160."""
    return exact - nats + noise * torch.randn_like(exact)


@pytest.mark.parametrize(
    ("ours", "stock", "verdict"),
    [
        (0.0, 0.0, "pass"),
        (0.002, 0.002, "pass"),  # as stock
        (-0.0001, 0.002, "pass"),  # as float64, unlike stock
        (0.002, 0.0, "fail"),
        (0.002, -0.002, "fail"),
        (-0.002, 0.0, "fail"),  # below float64 is no better
    ],
)
def test_as_stock_or_as_the_exact_model(ours, stock, verdict, exact):
    found = verdicts.right_perplexity(off(exact, ours), off(exact, stock), exact)
    assert found["verdict_perplexity"] == verdict
    difference = verdicts.Estimate(**found["log_ppl_difference"])
    assert difference.mean == pytest.approx(ours - stock, abs=5 * difference.error)


def test_what_is_not_known_well_enough_is_unclear(exact):
    blurred = off(exact, 0.0, noise=0.5)
    found = verdicts.right_perplexity(blurred, off(exact, 0.0), exact)
    assert found["verdict_perplexity"] == "unclear"
