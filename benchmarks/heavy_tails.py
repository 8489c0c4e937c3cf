# SPDX-License-Identifier: Apache-2.0
"""Weights and activations with the tails of a trained language model, from a seed.

What is published, and what is made of it here:

- Student's t of 5 degrees of freedom fits most weights and activations of language models: Dotzel
  et al., "Learning from Students", 2024, arXiv:2405.03103, whose format SF4 is built on it.
  `DEGREES`; of weights and, within a channel, of activations. Its kurtosis is 9, a normal's 3.
- From 6.7 B parameters on, about six channels of the inputs of a layer's projections (0.1 % of all)
  hold values up to 20 times as large as the others', in every layer: Dettmers et al., "LLM.int8()",
  2022, arXiv:2208.07339, section 4. About 100 times as large, always in the same channels and alike
  for all tokens: Xiao et al., "SmoothQuant", 2023, arXiv:2211.10438, section 3. `OUTLIERS` channels
  in 4096, `OUTLIER` times the median one, log-uniform; one sign a channel, a tenth of spread.
- The weights of the norms amplify them: Wei et al., "Outlier Suppression", 2022, arXiv:2209.13325.
  `norm_weight` has the outliers of the channels, so that a norm's outputs have them.
- In the residual stream two fixed channels of the first token and of the first delimiter hold
  2622 and 1547, the median magnitude being 0.2 (LLaMA2-7B): Sun et al., "Massive Activations in
  Large Language Models", 2024, arXiv:2402.17762, table 1. From the first layers to the last they
  stay as they are. `stream`.
- Averaged over layers, the kurtosis of activations is 1777 (OPT-125m) and 3076 (BERT): Bondarenko
  et al., "Quantizable Transformers", 2023, arXiv:2306.12929. Here some hundreds with outlier
  channels, 80000 with massive activations.

No figure is published for how scales differ between the other channels: log-normal, `SPREAD`, is
an assumption. Tensors are float32 on the generator's device, unless said otherwise.
"""

import math

import torch

DEGREES = 5
"""Of freedom."""
OUTLIERS = 6
"""Channels in 4096; one at least."""
OUTLIER = (20.0, 100.0)
"""Least and largest ratio of an outlier channel to the median one."""
CONSISTENCY = 0.1
"""Standard deviation of an outlier channel over tokens, relative to its mean."""
SPREAD = 0.5
"""Standard deviation of the logarithm of the channels' scales."""
MASSIVE = (2622.0, -1547.0)
MEDIAN = 0.2
"""Of magnitudes in the residual stream."""
DELIMITER = 5
"""Which token is the first delimiter; as in the stream's first, activations are massive there."""
MEDIAN_STUDENT = 0.72669 / math.sqrt(DEGREES / (DEGREES - 2))
"""Of magnitudes of `Tails.student`."""


class Tails:
    """Draws, each other than the last, from a generator."""

    def __init__(self, device: torch.device | str, seed: int) -> None:
        self.device = torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def _uniform(self, *shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device)

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device)

    def student(self, *shape: int) -> torch.Tensor:
        """Student's t of DEGREES, scaled to a variance of 1.

        By Bailey's polar method (Mathematics of Computation 62, 1994): two uniform numbers a value.
        Uniform numbers of 24 bits end the tail at 48, past which a value lies once in 2^24.
        """
        radius = (1 - self._uniform(*shape)).pow_(-2 / DEGREES).sub_(1).mul_(DEGREES - 2).sqrt_()
        return radius.mul_(self._uniform(*shape).mul_(2 * math.pi).cos_())

    def _channels(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(scales of all channels, whose median is 1; which of them are outliers, int64)."""
        scales = torch.exp(SPREAD * self._normal(count))
        low, high = map(math.log, OUTLIER)
        outliers = max(1, round(count * OUTLIERS / 4096))
        where = torch.randperm(count, generator=self.generator, device=self.device)[:outliers]
        scales[where] = torch.exp(low + (high - low) * self._uniform(outliers))
        return scales, where

    def norm_weight(self, count: int) -> torch.Tensor:
        """Of an RMSNorm, [count] bf16: log-normal, with outlier channels."""
        return self._channels(count)[0].to(torch.bfloat16)

    def head_norm_weight(self, count: int) -> torch.Tensor:
        """Of the norms of queries and keys, [count] bf16: log-normal alone."""
        return torch.exp(SPREAD * self._normal(count)).to(torch.bfloat16)

    def activations(self, num_tokens: int, channels: int) -> torch.Tensor:
        """[num_tokens, channels]: what a projection reads or writes."""
        scales, where = self._channels(channels)
        out = self.student(num_tokens, channels).mul_(scales)
        sign = torch.where(self._uniform(len(where)) < 0.5, -1.0, 1.0)
        alike = 1 + CONSISTENCY * self._normal(num_tokens, len(where))
        out[:, where] = scales[where] * sign * alike * MEDIAN_STUDENT
        return out

    def stream(self, num_tokens: int, channels: int) -> torch.Tensor:
        """[num_tokens, channels]: a residual stream of one sequence from its first token on."""
        scales = torch.exp(SPREAD * self._normal(channels)) * (MEDIAN / MEDIAN_STUDENT)
        out = self.student(num_tokens, channels).mul_(scales)
        where = torch.randperm(channels, generator=self.generator, device=self.device)
        massive = torch.tensor(MASSIVE, device=self.device)
        for token in (0, DELIMITER):
            if token < num_tokens:
                out[token, where[: len(MASSIVE)]] = massive
        return out

    def weight(self, n: int, k: int, size: float = 1.0) -> torch.Tensor:
        """[n, k] of a projection: Student's t, rows log-normal. Of inputs whose root mean square
        is 1 the median row makes outputs of that size.
        """
        rows = torch.exp(SPREAD / 2 * self._normal(n, 1)) * (size * k**-0.5)
        return self.student(n, k).mul_(rows)


def kurtosis(x: torch.Tensor) -> float:
    """Of all elements: the fourth central moment over the square of the second; a normal's is 3."""
    centred = x.double() - x.double().mean()
    return float(centred.pow(4).mean() / centred.square().mean().square())


def channel_ratio(x: torch.Tensor) -> float:
    """The largest of the channels' median magnitudes over their median; x [tokens, channels]."""
    sizes = x.abs().median(0).values
    return float(sizes.max() / sizes.median())
