# SPDX-License-Identifier: Apache-2.0
"""The generator against the figures that it states, which a normal sample fails."""

import pytest
import torch

from benchmarks import heavy_tails
from benchmarks.heavy_tails import MASSIVE, MEDIAN, OUTLIER, Tails, channel_ratio, kurtosis

SEEDS = [0, 1, 2]
# Of tables of Student's t with 5 degrees of freedom: |t| is larger with probability p.
QUANTILES = {0.5: 0.7267, 0.1: 2.0150, 0.01: 4.0321, 0.001: 6.8688}


def shares(x: torch.Tensor) -> dict[float, float]:
    """p -> how often |x| exceeds its quantile, over p."""
    standard = x.abs() * (5 / 3) ** 0.5
    return {p: float((standard > t).double().mean()) / p for p, t in QUANTILES.items()}


@pytest.mark.parametrize("seed", SEEDS)
def test_weights_are_students(seed):
    tails = Tails("cpu", seed)
    found = shares(tails.student(1000, 2000))
    assert all(abs(ratio - 1) < 0.1 for ratio in found.values()), found
    normal = shares(torch.randn(1000, 2000))
    assert normal[0.001] < 0.1
    # The sample's kurtosis has no variance of its own: wide bounds, and beyond a normal's 3.
    weight = tails.weight(512, 4096)
    assert 6 < kurtosis(weight) < 500
    assert weight.square().mean().sqrt() * 4096**0.5 == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("channels", [1024, 4096, 12288])
def test_activations_have_outlier_channels(seed, channels):
    x = Tails("cpu", seed).activations(256, channels)
    assert OUTLIER[0] * 0.9 < channel_ratio(x) < OUTLIER[1] * 1.3
    sizes = x.abs().median(0).values
    outliers = sizes > 0.8 * OUTLIER[0] * sizes.median()
    assert int(outliers.sum()) == round(channels * 6 / 4096)
    # ... the same in every token, and of one sign.
    signs = x[:, outliers].sign()
    assert (signs == signs[:1]).all()
    assert (30 if channels < 4096 else 100) < kurtosis(x) < 4000
    assert kurtosis(torch.randn(256, channels)) < 4
    assert channel_ratio(torch.randn(256, channels)) < 2


@pytest.mark.parametrize("seed", SEEDS)
def test_the_streams_massive_activations(seed):
    """Sun et al.: over 100 and over 1000 times the median, few, in two channels of two tokens."""
    x = Tails("cpu", seed).stream(64, 4096)
    assert float(x.abs().median()) == pytest.approx(MEDIAN, rel=0.1)
    massive = (x.abs() > 100) & (x.abs() > 1000 * x.abs().median())
    tokens, channels = massive.nonzero(as_tuple=True)
    assert sorted(tokens.tolist()) == [0, 0, 5, 5]
    assert len(set(channels.tolist())) == 2
    assert sorted(x[0, massive[0]].tolist()) == sorted(MASSIVE)
    assert torch.equal(x[0, massive[0]], x[5, massive[5]])
    assert kurtosis(x) > 50_000


def test_norms_amplify():
    weight = Tails("cpu", 0).norm_weight(4096).float()
    ratio = float(weight.max() / weight.median())
    assert OUTLIER[0] < ratio < OUTLIER[1] * 1.1
    plain = Tails("cpu", 0).head_norm_weight(128).float()
    assert plain.max() < OUTLIER[0] * plain.median()


@pytest.mark.parametrize(
    "draw",
    [
        lambda tails: tails.weight(8, 64),
        lambda tails: tails.activations(8, 64),
        lambda tails: tails.stream(8, 64),
        lambda tails: tails.norm_weight(64),
        lambda tails: tails.head_norm_weight(64),
    ],
)
def test_a_seed_says_everything(draw):
    assert torch.equal(draw(Tails("cpu", 1)), draw(Tails("cpu", 1)))
    assert not torch.equal(draw(Tails("cpu", 1)), draw(Tails("cpu", 2)))
    tails = Tails("cpu", 1)
    assert not torch.equal(draw(tails), draw(tails))


def test_a_value_lies_at_the_end_of_the_tail(monkeypatch):
    """No infinity where a uniform number is as near to 1 as it gets."""
    monkeypatch.setattr(torch, "rand", lambda shape, **about: torch.full(shape, 1 - 2**-24))
    end = Tails("cpu", 0).student(1)
    assert torch.isfinite(end).all() and float(end.abs()) == pytest.approx(48, abs=1)
    assert heavy_tails.DEGREES == 5
