# SPDX-License-Identifier: Apache-2.0
"""How near does the tuner come, in its time, to what ten times that time would find?

    python -m benchmarks.tuning --model 8b --gpu-minutes 15 --sample 6 --tokens 1 16 64 256 512 \\
        --out tuning.json

Tunes a random sample of a checkpoint's ops twice, from nothing, as on a GPU that nobody has tuned:
with what the sample would get of --gpu-minutes beside all the others, and with --times as much.
Then the winners of each case are timed side by side. More than 1: the longer search found better.
The GPU is busy for (1 + --times) times the sample's share, which --dry-run tells.
"""

import argparse
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from benchmarks import record
from helion_kernels import environment, qwen3, select
from helion_kernels.op import Config
from helion_kernels.tune.cases import TOKENS, Case, cases
from helion_kernels.tune.device import Device, DeviceLostError, key
from helion_kernels.tune.journal import Record, id_of
from helion_kernels.tune.run import BASE_S, Tuning

TARGET = 1.03
"""Asked of the geometric mean."""
Say = Callable[[str], None]


def draw(everything: Sequence[Case], count: int, tokens: Sequence[int], seed: int) -> list[Case]:
    """The cases at tokens of count (op, dims), drawn at random, in the tuner's order."""
    groups = list(dict.fromkeys((case.op.name, case.dims) for case in everything))
    chosen = random.Random(seed).sample(groups, min(count, len(groups)))
    return [c for c in everything if (c.op.name, c.dims) in chosen and c.num_tokens in tokens]


def share(sample: Sequence[Case], everything: Sequence[Case], minutes: float) -> float:
    """Of minutes for everything, those that sample gets: as `tune.run` divides them."""
    base = min(BASE_S / 60, minutes / len(everything))
    weight = sum(case.weight for case in sample) / sum(case.weight for case in everything)
    return base * len(sample) + (minutes - base * len(everything)) * weight


@contextmanager
def untuned() -> Iterator[Path]:
    """No config but the rules', nothing compiled yet; a folder for what is tuned."""
    before, shipped = dict(os.environ), select.SHIPPED
    with tempfile.TemporaryDirectory() as folder:
        os.environ.pop("HELION_KERNELS_CONFIG_DIR", None)
        os.environ["TRITON_CACHE_DIR"] = f"{folder}/triton"
        select.SHIPPED = Path(folder) / "none"
        try:
            yield Path(folder)
        finally:
            select.SHIPPED = shipped
            os.environ.clear()
            os.environ.update(before)


def tune(sample: Sequence[Case], device: Device, minutes: float, say: Say) -> dict[str, Record]:
    """What is found of each case, by its name. Raises KeyboardInterrupt and DeviceLostError."""

    def report(done: int, total: int, left_s: float, note: str) -> None:
        if note:
            say(f"{done}/{total}, {left_s / 60:.1f} minutes left: {note}")

    with untuned() as folder:
        tuning = Tuning(sample, device, folder, minutes, report=report)
        if tuning.run().interrupted:
            raise KeyboardInterrupt
    found = tuning.journal.records
    return {str(case): found[id_of(case)] for case in sample if id_of(case) in found}


def compare(
    sample: Sequence[Case], device: Device, short: dict[str, Record], long: dict[str, Record]
) -> list[dict[str, Any]]:
    """A row for each case of which both found something that works, timed side by side."""
    rows = []
    for case in sample:
        records = [found.get(str(case)) for found in (short, long)]
        winners = [record.times[0][0] for record in records if record and record.times]
        if len(winners) == 2:
            tried = [record.tried for record in records if record]
            rows.append(_row(case, device, winners, tried))
    return rows


def _row(case: Case, device: Device, winners: list[Config], tried: Sequence[int]) -> dict[str, Any]:
    same = key(winners[0]) == key(winners[1])
    with device.bench(case) as bench:
        us = bench.compare(winners[:1] if same else winners)
    return {
        "case": str(case),
        "short_us": us[0],
        "long_us": us[-1],
        "ratio": us[0] / us[-1],
        "tried": tried,
        "configs": winners,
    }


def summary(rows: Sequence[dict[str, Any]], total: int) -> list[str]:
    """The table, and whether the target is reached."""
    if not rows:
        return ["no case has a config that works in both"]
    lines = [
        f"{row['ratio']:6.3f}x {row['short_us']:9.2f} {row['long_us']:9.2f} us  {row['case']} "
        f"({row['tried'][0]} and {row['tried'][1]} configs tried)"
        for row in sorted(rows, key=lambda row: -row["ratio"])
    ]
    mean = geometric_mean(row["ratio"] for row in rows)
    reached = "reaches" if mean <= TARGET else "misses"
    lines.append(f"{mean:6.3f}x geometric mean of {len(rows)} cases, {reached} {TARGET}")
    if len(rows) < total:
        lines.append(f"{total - len(rows)} cases left out: the time ended before them")
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tuning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", choices=qwen3.MODELS, default="8b")
    add("--format", choices=("per-token", "block"), default="per-token")
    add("--gpu-minutes", type=float, default=15.0, help="for the whole checkpoint; 15")
    add("--times", type=float, default=10.0, help="how much longer the long search is; 10")
    add("--sample", type=int, default=6, metavar="N", help="ops with their sizes; 6")
    add("--tokens", nargs="+", type=int, default=list(TOKENS), metavar="N", help="of those; all")
    add("--seed", type=int, default=0, help="of the sample")
    add("--workers", type=int, default=len(os.sched_getaffinity(0)), help="compiler processes")
    add("--out", type=Path, help="JSON")
    add("--dry-run", action="store_true", help="tell the sample and its time; needs no GPU")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    model = qwen3.MODELS[options.model], options.format == "block"
    everything = cases(qwen3.calls(*model), replaced=qwen3.replaced(*model))
    sample = draw(everything, options.sample, options.tokens, options.seed)
    if not sample:
        print(f"--tokens {options.tokens}: none of {', '.join(map(str, TOKENS))}")
        return 2
    minutes = share(sample, everything, options.gpu_minutes)
    longer = options.times * minutes
    print(f"{len(sample)} of {len(everything)} cases; {minutes:.2f} and {longer:.2f} minutes")
    if options.dry_run:
        print("\n".join(map(str, sample)))
        return 0
    from helion_kernels.tune.gpu import Gpu

    def say(line: str) -> None:
        print(line, flush=True)

    found = []
    try:
        # A device each: what one has compiled the other has not.
        for allowed in (minutes, longer):
            with Gpu({}, options.workers) as device:
                found.append(tune(sample, device, allowed, say))
        with Gpu({}, options.workers) as device:
            rows = compare(sample, device, *found)
    except KeyboardInterrupt:
        return 130
    except DeviceLostError as error:
        print(error)
        return 1
    say("\n".join(summary(rows, len(sample))))
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    record.write(
        options.out,
        {"environment": environment.describe(), "settings": settings, "minutes": [minutes, longer]}
        | {"rows": rows},
    )
    return 0 if rows else 1


if __name__ == "__main__":
    raise SystemExit(main())
