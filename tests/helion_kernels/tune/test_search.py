# SPDX-License-Identifier: Apache-2.0
"""The search of one case, and what it may leave undone."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helion_kernels import OPS
from helion_kernels.tune.cases import Case
from helion_kernels.tune.device import key
from helion_kernels.tune.search import BATCH, READY, Space, search
from tests.helion_kernels.tune.fake import Fake, cost_us

OP = OPS["scaled_mm"]
CASE = Case(OP, OP.dims(6144, 4096), 16, 1.0)
SPACE = [dict(config) for config in OP.space(CASE.dims, 16)]
RULE = dict(OP.default_config(CASE.dims, 16))


def run(device, seconds=float("inf"), space=SPACE, seeds=(RULE,), seed=0):
    with device.bench(CASE) as bench:
        over = lambda: device.clock() >= seconds  # noqa: E731
        return search(bench, space, seeds, over, random.Random(seed))


def test_with_time_everything_is_tried_once_and_the_best_comes_first():
    device = Fake(noise=0.0)
    trials = run(device)
    assert len(device.looked) == len(set(device.looked)) == len({key(c) for c in [*SPACE, RULE]})
    assert trials[0].us == min(cost_us(CASE, config) for config in [*SPACE, RULE])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1 << 30))
def test_a_third_of_the_space_is_enough(seed):
    device = Fake(noise=0.01)
    trials = run(device, seconds=3.5, seed=seed)
    assert len(trials) <= len(SPACE) // 2.5
    best = min(cost_us(CASE, config) for config in SPACE)
    assert cost_us(CASE, trials[0].config) <= 1.1 * best


def test_it_stops_soon_after_the_time_is_over():
    device = Fake()
    run(device, seconds=2.0)
    assert 2.0 <= device.now < 2.1


def test_a_batch_is_tried_for_something_that_works_though_the_time_is_over():
    works = key(SPACE[3])
    device = Fake(wrong=lambda case, config: "" if key(config) == works else "out is wrong")
    trials = run(device, seconds=0.0, space=SPACE[: BATCH - 1])
    assert key(trials[0].config) == works
    hopeless = Fake(wrong=lambda case, config: "out is wrong")
    assert all(trial.problem for trial in run(hopeless, seconds=0.0))
    assert len(hopeless.looked) <= 2 * BATCH


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, len(SPACE) - 1)))
def test_what_fails_comes_last(bad):
    wrong = {key(SPACE[i]) for i in bad}
    trials = run(Fake(wrong=lambda case, config: "wrong" if key(config) in wrong else ""), 5.0)
    good = [not trial.problem for trial in trials]
    assert good == sorted(good, reverse=True)
    assert all((key(trial.config) in wrong) == bool(trial.problem) for trial in trials)


def test_what_another_bucket_compiled_is_timed_while_new_ones_compile():
    """Its workers are busy for half a second at a time, in which the GPU can time some forty."""
    device = Fake()
    run(device, seconds=3.0)
    known = {config for _, config in device.looked}
    more = replace(CASE, num_tokens=32)
    start = device.now
    with device.bench(more) as bench:
        trials = search(bench, SPACE, [RULE], lambda: device.now > start + 1.0, random.Random(1))
    assert sum(key(trial.config) in known for trial in trials) >= READY
    # Nothing is timed twice, and nothing that is not compiled was waited for in vain.
    looked = [config for case, config in device.looked if case == str(more)]
    assert len(looked) == len(set(looked)) == len(trials)


def test_nothing_to_try():
    assert run(Fake(), space=[], seeds=[]) == []


@pytest.mark.parametrize(
    ("a", "b", "steps"),
    [
        ({"block_sizes": [16, 32]}, {"block_sizes": [16, 32]}, 0),
        ({"block_sizes": [16, 32]}, {"block_sizes": [64, 32]}, 2),
        ({"block_sizes": [16, 32]}, {"block_sizes": [32, 64]}, 2),
        ({"pid_type": "flat"}, {"pid_type": "xyz"}, 1),
        ({"block_sizes": [16]}, {"block_sizes": [16, 32]}, 1),
        ({"num_warps": 4}, {"num_stages": 4}, 2),
        ({"loop_orders": [[0, 1]]}, {"loop_orders": [[1, 0]]}, 1),
        ({"range_flattens": [None]}, {"range_flattens": [True]}, 1),
    ],
)
def test_steps(a, b, steps):
    more = [{"block_sizes": [32, 64]}, {"pid_type": "other"}]
    space = Space([a, b, *more])
    assert space.steps(a)[space.index[key(b)]] == steps
    assert space.steps(b)[space.index[key(a)]] == steps
