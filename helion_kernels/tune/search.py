# SPDX-License-Identifier: Apache-2.0
"""The search of one case: seeds, then random samples of the space, each followed by a local polish.

Why no model of the cost: compiling takes half a second and timing ten milliseconds, so what counts
is how few configs are compiled. Spaces are small (tens to some thousands) and smooth along their
axes; a walk from a few good points ends near the best of them, and other buckets' results, already
compiled, are good points (docs/performance-log.md).
"""

import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from heapq import nsmallest
from typing import Any

import numpy as np

from helion_kernels.op import Config
from helion_kernels.tune.device import Bench, Trial, key

BATCH = 32
"""Configs between two decisions: twice the cores of the reference machine, which stay busy."""
READY = 32
"""Configs that are compiled already, for a look. In a simulation of 16 compilers the best found is
nearer to exhaustive search: attention of four tokens in 2 minutes 1.11 instead of 1.14, Qwen3-8B in
3 to 4 minutes 1.018 instead of 1.022; more gain nothing (docs/performance-log.md)."""
LEADERS = 3
RADIUS = 2
"""Steps around a leader that the polish takes: shared memory binds axes in pairs."""


class Space:
    """Configs as points of a grid: each number of a config is an axis, its values are steps."""

    def __init__(self, configs: Iterable[Config]) -> None:
        self.configs = list({key(config): config for config in configs}.values())
        self.index = {key(config): i for i, config in enumerate(self.configs)}
        points = [_coordinates(config) for config in self.configs]
        axes = sorted({axis for point in points for axis in point})
        self._codes = np.full((len(points), len(axes)), _ABSENT)
        self._ordered = np.zeros(len(axes), dtype=bool)
        for column, axis in enumerate(axes):
            values = {point[axis] for point in points if axis in point}
            self._ordered[column] = all(isinstance(value, int) for value in values)
            rank = {value: i for i, value in enumerate(sorted(values, key=_order))}
            for row, point in enumerate(points):
                if axis in point:
                    self._codes[row, column] = rank[point[axis]]

    def steps(self, config: Config) -> np.ndarray:
        """From config to each: sum over the axes of the ranks between, or 1 if without order."""
        here = self._codes[self.index[key(config)]]
        apart = np.abs(self._codes - here)
        comparable = self._ordered & (self._codes != _ABSENT) & (here != _ABSENT)
        return np.where(comparable, apart, apart != 0).sum(axis=1)


_ABSENT = -1


def _order(value: Any) -> tuple[bool, Any]:
    return (True, value) if isinstance(value, int) else (False, str(value))


def _coordinates(config: Config) -> dict[tuple[str, int], Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():  # A library's numbers lie one level deeper.
        flat |= value if isinstance(value, dict) else {name: value}
    return {
        (name, i): tuple(part) if isinstance(part, list) else part
        for name, value in flat.items()
        for i, part in enumerate(value if isinstance(value, list) else [value])
    }


def search(
    bench: Bench,
    space: Sequence[Config],
    seeds: Sequence[Config],
    over: Callable[[], bool],
    rng: random.Random,
    then: Sequence[Config] = (),
    late: Callable[[], bool] | None = None,
) -> list[Trial]:
    """Every trial made, fastest first, until the time is over or nothing is untried.

    Even if the time is over, a batch is tried to find something that works, and the seeds are until
    it is late, if that is given: the first case of some sizes waits longest for its compilers, and
    would be left with what is compiled first. then: what comes next.
    """
    if not space and not seeds:
        return []
    walk = _Walk(bench, Space([*seeds, *then, *space]), over, rng)
    first = len({key(config) for config in seeds})
    walk.look(range(first), late)
    if then and not walk.done():
        walk.look(range(first, len({key(config) for config in [*seeds, *then]})))
    while not walk.done() and (rest := walk.untried()):
        walk.look(rng.sample(rest, min(BATCH, len(rest))))
        walk.polish()
    return sorted(walk.seen.values(), key=lambda trial: trial.us)


class _Walk:
    """What was seen of a space, and where to look next."""

    def __init__(
        self, bench: Bench, space: Space, over: Callable[[], bool], rng: random.Random
    ) -> None:
        self.bench, self.space, self.over, self.rng = bench, space, over, rng
        self.seen: dict[int, Trial] = {}

    def look(self, places: Iterable[int], late: Callable[[], bool] | None = None) -> None:
        """At places, and while they compile, at what is compiled already: the GPU would wait.

        late: until then at all places, even if the time is over.
        """
        wanted = set(places)
        places = [*dict.fromkeys([*places, *self.ready()])]
        with closing(self.bench.look([self.space.configs[i] for i in places])) as trials:
            for trial in trials:
                self.seen[self.space.index[key(trial.config)]] = trial
                if self.done() and (late is None or late() or wanted <= self.seen.keys()):
                    return

    def ready(self) -> list[int]:
        found = (self.space.index.get(key(config)) for config in self.bench.ready())
        unseen = [i for i in found if i is not None and i not in self.seen]
        return self.rng.sample(unseen, min(READY, len(unseen)))

    def polish(self) -> None:
        """Look around the leaders, nearest first, for as long as that finds a faster one."""
        best = float("inf")
        while not self.done() and (leaders := self.leaders()) and leaders[0].us < best:
            best = leaders[0].us
            steps = np.min([self.space.steps(trial.config) for trial in leaders], axis=0)
            near = [i for i in self.untried() if steps[i] <= RADIUS]
            self.look(sorted(near, key=lambda i: steps[i])[:BATCH])

    def untried(self) -> list[int]:
        return [i for i in range(len(self.space.configs)) if i not in self.seen]

    def leaders(self) -> list[Trial]:
        good = (trial for trial in self.seen.values() if not trial.problem)
        return nsmallest(LEADERS, good, key=lambda trial: trial.us)

    def done(self) -> bool:
        return self.over() and (bool(self.leaders()) or len(self.seen) >= BATCH)
