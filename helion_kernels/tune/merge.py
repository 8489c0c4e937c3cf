# SPDX-License-Identifier: Apache-2.0
"""Neighbouring numbers of tokens that one config serves: fewer launchers to make ready."""

from collections.abc import Mapping
from typing import NamedTuple

TOLERANCE = 0.01
"""A config may be slower than the best by this share where it serves several buckets."""


class Segment(NamedTuple):
    upto: int
    """The largest num_tokens that it serves."""
    key: str


def segments(
    times: Mapping[int, Mapping[str, float]], tolerance: float = TOLERANCE
) -> list[Segment]:
    """The fewest segments of num_tokens in each of which one config is near the best everywhere.

    times: num_tokens -> key of a config -> microseconds; a config must be timed wherever it serves.
    Of the configs that serve a segment, the one that loses least in all of it.
    """
    merged: list[Segment] = []
    loss: dict[str, float] = {}
    for num_tokens in sorted(times):
        best = min(times[num_tokens].values())
        here = {
            k: us / best - 1 for k, us in times[num_tokens].items() if us <= (1 + tolerance) * best
        }
        both = {k: loss[k] + here[k] for k in loss.keys() & here.keys()}
        if both:
            merged.pop()
        loss = both or here
        merged.append(Segment(num_tokens, min(sorted(loss), key=loss.__getitem__)))
    return merged
