# SPDX-License-Identifier: Apache-2.0
"""The loop over the cases: budget, order, what is written when."""

import hashlib
import inspect
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from helion_kernels import select
from helion_kernels.op import Config, Op
from helion_kernels.registry import OPS
from helion_kernels.tune import entries
from helion_kernels.tune.cases import Case
from helion_kernels.tune.device import STOCK, Bench, Device, DeviceLostError, key
from helion_kernels.tune.journal import Journal, Record, id_of
from helion_kernels.tune.merge import segments
from helion_kernels.tune.search import search
from helion_kernels.tune.seeds import seeds, today

FINALISTS = 6
LIKELIEST = 3
BASE_S = 1.5
"""Seconds that each case gets before the rest is divided by weight: its seeds and a few more. Until
small spaces, tried in whole, have shown how long they take here."""
SEEDS = 1.0
"""Of a case's time, that its seeds may take beyond it. Simulated, Qwen3-4B in 3 minutes: 1.018 of
the best instead of 1.023, the worst case 1.16 instead of 2.03; without an end others had none."""
MERGING_S, MERGING = 0.2, 0.05
"""Kept for timing winners at neighbouring buckets: seconds for each case, and at most this share of
the budget."""


@dataclass(frozen=True)
class Outcome:
    tuned: int
    total: int
    stale: int
    """Cases of an earlier run that could not be resumed: other kernels or tools."""
    interrupted: bool


class Tuning:
    """Cases, a device and a folder; `run` does the work."""

    def __init__(
        self,
        todo: Sequence[Case],
        device: Device,
        folder: Path,
        minutes: float,
        resume: bool = False,
        report: Callable[[int, int, float, str], None] = lambda done, total, left_s, note: None,
        seed: int = 0,
    ) -> None:
        """minutes: of device time, from now. folder: of config folders, one for each GPU.

        report is called with (cases done, cases in all, seconds left, what was found last).
        """
        self.todo, self.device, self.report = todo, device, report
        self.folder = folder / select.slug(device.gpu)
        self.budget = 60.0 * minutes
        self.end = device.clock() + self.budget
        self.rng = random.Random(seed)
        self.journal = Journal(self.folder / "journal.jsonl", self._valid, resume)

    def run(self) -> Outcome:
        """Tune until everything is tuned, the time is over, or Ctrl-C.

        Raises DeviceLostError, after noting the config for --resume, and select.ConfigError or
        ValueError for a config file that cannot be used.
        """
        interrupted = False
        try:
            for op, dims in dict.fromkeys((case.op, case.dims) for case in self.todo):
                self._save(op, dims)  # what an earlier run measured, but had no time to write
            self._search()
            self._merge()
        except KeyboardInterrupt:
            interrupted = True
        except DeviceLostError as error:
            self.journal.add_broken(error.case.op, error.case.dims, error.config)
            raise
        return Outcome(self._done(), len(self.todo), len(self.journal.stale), interrupted)

    def _search(self) -> None:
        new = [case for case in self.todo if id_of(case) not in self.journal.records]
        self._report("")
        self._round(new)
        # Small spaces leave time over: it goes to those that had too little.
        records = self.journal.records
        again = [case for case in new if (r := records.get(id_of(case))) and r.tried < r.space]
        if len(again) < len(new):
            self._round(again)

    def _round(self, rest: list[Case]) -> None:
        """Tune each, dividing the time that is left by weight."""
        reserve = min(MERGING_S * len(self.todo), MERGING * self.budget)
        short: list[float] = []
        while rest:
            now = self.device.clock()
            left = self.end - reserve - now
            if left <= 0:
                return
            base = min(mean(short or [BASE_S]), left / len(rest))
            share = rest[0].weight / sum(case.weight for case in rest)
            allowed = base + (left - base * len(rest)) * share
            case, *rest = rest
            record = self._tune(case, now + allowed)
            if record.tried == record.space:
                short = [*short[-9:], self.device.clock() - now]
            self.journal.add(record)
            self._save(case.op, case.dims)
            self._report(_line(case, record))

    def _tune(self, case: Case, until: float) -> Record:
        libraries = self._allowed(case, self.device.libraries(case))
        space = self._allowed(case, case.op.space(case.dims, case.num_tokens))
        # All of a library's: they are few, and no walk leads from one kernel to another. The
        # likeliest come first: 206 cases in 5 minutes had time for one to six of a large batch's.
        gpu, compile_here = self.device.gpu, bool(libraries)
        late = until + SEEDS * (until - self.device.clock())
        seeded = self._allowed(case, seeds(case, self.journal, gpu, compile_here))
        start = libraries[:LIKELIEST] + seeded
        with self.device.bench(case) as bench:
            trials = search(
                bench,
                space,
                start,
                lambda: self.device.clock() >= until,
                self.rng,
                then=libraries,
                late=lambda: self.device.clock() >= late,
            )
            good = [trial.config for trial in trials if not trial.problem]
            others = {key(winner) for winner in self._winners(case)}
            finalists = good[:FINALISTS] + [c for c in good[FINALISTS:] if key(c) in others]
            # Even untried for want of time: an entry is not to be slower than what it replaces.
            current = self._allowed(case, today(case, gpu, compile_here))
            finalists += [config for config in current if config not in finalists]
            if before := self.journal.records.get(id_of(case)):
                finalists += [config for config, _ in before.times if config not in finalists]
            times, stock_us = _final(bench, finalists)
            return Record(
                op=case.op.name,
                dims=dict(zip(case.op.dims._fields, case.dims, strict=True)),  # type: ignore[attr-defined]
                num_tokens=case.num_tokens,
                times=times,
                stock_us=stock_us,
                floor_us=bench.floor_us,
                tried=max(len(trials), before.tried if before else 0),
                space=len({key(c) for c in [*space, *start, *libraries]}),
                provenance=provenance(case.op, self.device),
            )

    def _allowed(self, case: Case, configs: list[Config]) -> list[Config]:
        """Without those that may not serve the case, or left the GPU unusable in an earlier run."""
        mine = (case.op.name, tuple(case.dims))
        return [
            config
            for config in configs
            if case.op.serves(case.dims, config, case.num_tokens)
            and (*mine, key(config)) not in self.journal.broken
        ]

    def _winners(self, case: Case) -> list[Config]:
        """The best of the other buckets of the case's (op, dims)."""
        records = self.journal.of(case.op.name, tuple(case.dims))
        return [record.times[0][0] for record in records if record.times]

    def _merge(self) -> None:
        """Time the winner of each bucket at the next one, both ways, where that can join them."""
        cases = {id_of(case): case for case in self.todo}
        for op, dims in dict.fromkeys((case.op, case.dims) for case in self.todo):
            records = [record for record in self.journal.of(op.name, tuple(dims)) if record.times]
            for pair in pairwise(records):
                winners = [record.times[0][0] for record in pair]
                for record in pair:
                    if record.id not in cases or self._joined(pair):
                        continue
                    # Read again: the pair before this one may have added times.
                    known = self.journal.records[record.id]
                    served = self._allowed(cases[record.id], winners)
                    if all(key(winner) in known.by_key() for winner in served):
                        continue
                    if self.device.clock() >= self.end:
                        return
                    with self.device.bench(cases[record.id]) as bench:
                        self.journal.add(_with_times(known, served, bench))
            self._save(op, dims)

    def _joined(self, pair: tuple[Record, Record]) -> bool:
        known = (self.journal.records[record.id] for record in pair)
        return len(segments({record.num_tokens: record.by_key() for record in known})) == 1

    def _save(self, op: Op, dims: tuple[Any, ...]) -> None:
        if records := self.journal.of(op.name, tuple(dims)):
            entries.save(self.folder / f"{op.name}.json", op, records)

    def _valid(self, record: Record) -> bool:
        """Measured with these kernels and tools, on such a GPU."""
        if record.op not in OPS:
            return False
        now = provenance(OPS[record.op], self.device)
        return {**record.provenance, "date": None} == {**now, "date": None}

    def _done(self) -> int:
        return sum(id_of(case) in self.journal.records for case in self.todo)

    def _report(self, note: str) -> None:
        left_s = max(0.0, self.end - self.device.clock())
        self.report(self._done(), len(self.todo), left_s, note)


def _final(
    bench: Bench, finalists: list[Config]
) -> tuple[list[tuple[Config, float]], float | None]:
    """Finalists against each other and stock: (those that are right, fastest first; stock)."""
    arms = [*finalists, STOCK] if bench.has_stock else finalists
    us = dict(zip(map(key, arms), bench.compare(arms), strict=True)) if arms else {}
    right = [(config, us[key(config)]) for config in finalists if us[key(config)] < float("inf")]
    stock_us = us.get(key(STOCK), float("inf"))
    return sorted(right, key=lambda item: item[1]), stock_us if stock_us < float("inf") else None


def _with_times(record: Record, winners: list[Config], bench: Bench) -> Record:
    """record with the times of the winners that it lacks, in proportion to its own winner's."""
    best, best_us = record.times[0]
    known = record.by_key()
    others = [winner for winner in winners if key(winner) not in known]
    reference, *times = bench.compare([best, *others])
    if not reference < float("inf"):
        return record
    new = [
        (config, us * best_us / reference)
        for config, us in zip(others, times, strict=True)
        if us < float("inf")
    ]
    # The record's winner stays: it was measured against more.
    return replace(record, times=[record.times[0], *sorted(record.times[1:] + new, key=_us)])


def _us(item: tuple[Config, float]) -> float:
    return item[1]


def provenance(op: Op, device: Device) -> dict[str, Any]:
    """Of a measurement: where, with what, of which kernel."""
    source = inspect.getsource(inspect.getmodule(op.kernel) or op.kernel)
    return {
        "gpu": device.gpu,
        **device.environment,
        "kernel": hashlib.sha256(source.encode()).hexdigest()[:12],
    }


def _line(case: Case, record: Record) -> str:
    looked = f"{record.tried} of {record.space} configs"
    if not record.times:
        return f"{case}: nothing works ({looked})"
    us = record.times[0][1]
    stock = "" if record.stock_us is None else f", stock {record.stock_us:.2f}"
    return f"{case}: {us:.2f} us, {record.floor_us / us:.0%} of the floor{stock} ({looked})"
