# SPDX-License-Identifier: Apache-2.0
"""Buckets are joined where it costs at most a hundredth, and everywhere where it does not."""

from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from helion_kernels.tune.merge import TOLERANCE, segments

TIMES = st.dictionaries(
    st.integers(1, 9),
    st.dictionaries(
        st.sampled_from("abcd"), st.sampled_from([1.0, 1.005, 1.009, 1.02, 2.0]), min_size=1
    ),
    min_size=1,
    max_size=7,
)


def joins(part):
    """Is there a config within tolerance of the best in each?"""
    shared = set.intersection(*(set(us) for us in part))
    return any(all(us[k] <= (1 + TOLERANCE) * min(us.values()) for us in part) for k in shared)


@given(TIMES)
def test_few_and_near_the_best(times):
    found = segments(times)
    counts = sorted(times)
    assert [segment.upto for segment in found] == sorted({s.upto for s in found})
    assert found[-1].upto == counts[-1]
    for n in counts:
        serving = next(segment.key for segment in found if segment.upto >= n)
        assert times[n][serving] <= (1 + TOLERANCE) * min(times[n].values())
    # No fewer segments will do: every smaller choice of cuts has a part without a common config.
    for fewer in range(len(found) - 1):
        for cuts in combinations(range(1, len(counts)), fewer):
            edges = [0, *cuts, len(counts)]
            parts = [[times[n] for n in counts[a:b]] for a, b in pairwise(edges)]
            assert not all(joins(part) for part in parts)


def test_of_those_that_serve_the_one_that_loses_least():
    times = {1: {"a": 10.0, "b": 10.05}, 2: {"a": 10.09, "b": 10.0}}
    assert segments(times) == [(2, "b")]
    assert segments({1: {"a": 1.0}, 2: {"b": 1.0}}) == [(1, "a"), (2, "b")]
