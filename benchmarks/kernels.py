# SPDX-License-Identifier: Apache-2.0
"""Times every op against stock on a GPU.

    python -m benchmarks.kernels --models 8b --inductor --out out.json

Each arm is timed in one CUDA graph over rotating buffers (`timing`), arms interleaved. "floor" is
the time that the op's bytes or operations need at the rates measured in the same run, "share" the
floor over the measured time. L2 is "warm" where the op's buffers are too small to leave it.

The file is written after every case. --resume measures only what it lacks. After an arm of
upstream's or Inductor's with which a process loses its GPU (an illegal access) the file says so
under "broken", and the run goes on without it, in a process of its own. Exit status 1: a case
failed, or ours is wrong somewhere.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import inductor, ratios, record, stock
from helion_kernels import OPS, environment, plan, select, timing
from helion_kernels.accuracy import expect, fresh_outputs, problems
from helion_kernels.op import Op
from helion_kernels.qwen3 import MODELS, dims_of

TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 2048, 8192)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--ops", type=_names(OPS), default=list(OPS), help="comma-separated; all")
    p.add_argument("--models", type=_names(MODELS), default=["8b"], help="comma-separated; 8b")
    p.add_argument("--tokens", type=_counts, default=list(TOKENS), help="comma-separated")
    p.add_argument("--out", type=Path, help="JSON file for everything measured")
    p.add_argument("--rounds", type=int, default=15, help="replays of each arm; 15")
    p.add_argument(
        "--inductor", action="store_true", help="time torch.compile too: seconds more an (op, dims)"
    )
    p.add_argument("--resume", action="store_true", help="continue --out where it was cut off")
    return p


def _names(known: Any) -> Any:
    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown) or 'nothing'}: choose from {', '.join(known)}"
            )
        return names

    return parse


def _counts(text: str) -> list[int]:
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError:
        counts = [0]
    if counts[0] < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: positive integers, separated by commas")
    return counts


def cases(ops: list[str], models: list[str]) -> list[tuple[Op, tuple[Any, ...]]]:
    """Each (op, dims) of the models once."""
    found = {(name, dims) for m in models for name in ops for dims in dims_of(MODELS[m], name)}
    ordered = sorted(found, key=lambda case: (ops.index(case[0]), case[1]))
    return [(OPS[name], OPS[name].dims(*dims)) for name, dims in ordered]


class BrokenArmError(Exception):
    """An arm with which this process lost its GPU."""


def compare(
    op: Op,
    dims: tuple[Any, ...],
    num_tokens: int,
    plan_id: int,
    ceilings: timing.Ceilings,
    options: argparse.Namespace,
    with_stock: bool,
    without: frozenset[str] = frozenset(),
) -> Iterator[dict[str, Any]]:
    """A row per arm, but those named in without; ours first, checked against the reference.

    Raises BrokenArmError.
    """
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    sets, cold = timing.make_sets(op, dims, num_tokens, l2)
    call = getattr(torch.ops.helion_kernels, op.name)
    wrong = check(op, sets[0], lambda *args: call(*args, plan=plan_id))
    binds: dict[str, stock.Arm] = {"ours": lambda *args: lambda: call(*args, plan=plan_id)}
    if with_stock:
        binds |= stock.arms(op.name, dims)
    if options.inductor:
        binds |= inductor.arms(op.name, dims)

    bytes_moved, flops = op.bytes_moved(dims, num_tokens), op.flops(dims, num_tokens)
    floor = ceilings.floor_us(bytes_moved, flops)
    calls = timing.calls_per_graph(len(sets), floor)
    graphs: dict[str, timing.Graph] = {}
    notes: dict[str, str] = {}
    for name, bind in binds.items():
        if name in without:
            notes[name] = "lost the GPU"
            continue
        try:
            graphs[name] = timing.Graph([bind(*args) for args in sets], calls)
            graphs[name].replay()
            torch.cuda.synchronize()  # what fails here is this arm's
        except Exception as error:
            if name == "ours":
                raise
            if isinstance(error, torch.AcceleratorError) or timing.device_error():
                raise BrokenArmError(name) from error
            notes[name] = _line(error)
    measured = dict(zip(graphs, timing.measure(list(graphs.values()), options.rounds), strict=True))
    chosen = plan.PLANS[plan_id]
    choice = chosen.choices[chosen.bucket_of[min(num_tokens, len(chosen.bucket_of) - 1)]]
    common = {
        "op": op.name,
        "dims": dims._asdict(),  # type: ignore[attr-defined]
        "num_tokens": num_tokens,
        "bytes": bytes_moved,
        "flops": flops,
        "floor_us": round(floor, 3),
        "sets": len(sets),
        "l2": "cold" if cold else "warm",
    }
    for name, timed in measured.items():
        yield {
            **common,
            "arm": name,
            "us": round(timed.us, 3),
            "quartiles": [round(timed.low, 3), round(timed.high, 3)],
            **(
                {"config": choice.key, "source": choice.source, "problems": wrong}
                if name == "ours"
                else {}
            ),
        }
    for name, note in notes.items():
        yield {**common, "arm": name, "us": None, "note": note}


def check(op: Op, args: tuple[Any, ...], run: Any) -> list[str]:
    """What is wrong with run's outputs on a copy of args."""
    expected = expect(op, args)
    actual = fresh_outputs(op, args)
    run(*actual)
    return problems(op, expected, actual)


def go_on(arguments: list[str]) -> int:
    """In a process that has a GPU, in this one's place."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks.kernels", *arguments])


HEADER = (
    f"{'op':37} {'dims':22} {'tokens':>6} {'arm':9} {'us':>9} {'rate':>12} {'share':>6} "
    f"{'ours/it':>8}"
)


def line(row: dict[str, Any], ours_us: float | None) -> str:
    """A row of the table; ours/it below 1 means that ours is faster."""
    dims = ratios.dims_text(row["dims"].values())
    head = f"{row['op']:37} {dims:22} {row['num_tokens']:6} {row['arm']:9}"
    us = row["us"]
    if us is None:
        return f"{head} {'-':>9} {row['note'][:60]}"
    arithmetic = row["flops"] / us / 1e6
    rate = (
        f"{arithmetic:7.0f} TF/s"
        if row["flops"] and row["num_tokens"] >= 256
        else f"{row['bytes'] / us / 1e3:7.0f} GB/s"
    )
    ratio = "" if ours_us is None or row["arm"] == "ours" else f"{ours_us / us:8.2f}"
    tail = "".join(f"  {note}" for note in (row["l2"],) if note == "warm")
    wrong = "  WRONG: " + row["problems"][0] if row.get("problems") else ""
    return f"{head} {us:9.2f} {rate:>12} {row['floor_us'] / us:6.2f} {ratio:>8}{tail}{wrong}"


Pending = dict[tuple[Op, tuple[Any, ...]], list[int]]
"""(op, dims) -> numbers of tokens to measure."""


def pending(options: argparse.Namespace, rows: list[dict[str, Any]]) -> Pending:
    """What is asked for and not in rows."""
    done = {(case.op, case.dims, case.num_tokens) for case in ratios.cases(rows)}
    found: Pending = {}
    for op, dims in cases(options.ops, options.models):
        text = ratios.dims_text(dims)
        tokens = [m for m in options.tokens if m <= (op.most_tokens or m)]
        left = [m for m in tokens if (op.name, text, m) not in done]
        if left:
            found[op, dims] = left
    return found


def run_comparison(options: argparse.Namespace, document: dict[str, Any]) -> int:
    """Measure what document lacks and add it. Returns how many cases failed.

    Raises BrokenArmError, having noted the arm under "broken".
    """
    rows, broken = document.setdefault("rows", []), document.setdefault("broken", [])
    wanted = pending(options, rows)
    if not wanted:
        print("nothing left to measure")
        return 0
    note = stock.load()
    for each in (note, stock.register()):
        if each:
            print(each)
    ids = plan.prepare(
        wanted, max(options.tokens), torch.device("cuda", 0), progress=_progress, workers=16
    )
    ceilings = timing.measure_ceilings()
    document["ceilings"] = vars(ceilings)
    print(
        f"copy {ceilings.copy_bytes_per_us / 1e6:.2f} TB/s, read "
        f"{ceilings.read_bytes_per_us / 1e6:.2f} TB/s, "
        f"FP8 {ceilings.flops_per_us / 1e6:.0f} TFLOP/s"
    )
    print(HEADER)
    failed = 0
    for ((op, dims), tokens), plan_id in zip(wanted.items(), ids, strict=True):
        without = frozenset(arm for name, arm in broken if name == op.name)
        for m in tokens:
            try:
                fresh = list(
                    compare(op, dims, m, plan_id, ceilings, options, note is None, without)
                )
            except BrokenArmError as error:
                print(f"{op.name} {ratios.dims_text(dims)} {m}: {error} lost the GPU", flush=True)
                broken.append([op.name, str(error)])
                raise
            except Exception as error:
                failed += 1
                print(f"{op.name} {ratios.dims_text(dims)} {m}: failed: {_line(error)}", flush=True)
                if isinstance(error, torch.AcceleratorError) or timing.device_error():
                    return failed  # nothing runs in this process now
                continue
            rows += fresh
            record.write(options.out, document)
            for row in fresh:
                print(line(row, fresh[0]["us"]), flush=True)
            torch.cuda.empty_cache()  # of the graphs' private pools
    return failed


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [repr(error)])[0]


def _progress(done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(f"\rlaunchers ready: {done} of {total}", end=end, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.resume and options.out is None:
        print("--resume needs --out, the file to continue")
        return 2
    if not torch.cuda.is_available():
        print("benchmarks.kernels needs a GPU, and PyTorch sees none")
        return 2
    settings = {"gpu": torch.cuda.get_device_name(), "rounds": options.rounds}
    settings["inductor"] = options.inductor
    document: dict[str, Any] = {"environment": environment.describe(), **settings}
    start = time.monotonic()
    try:
        if options.resume:
            document = record.resume(options.out, settings) or document
        failed = run_comparison(options, document)
    except (ValueError, select.ConfigError) as error:
        print(_line(error))
        return 2
    except BrokenArmError as error:
        if options.out is None:
            print(f"lost the GPU with {error}; with --out the run goes on without it")
            return 1
        record.write(options.out, document)
        again = sys.argv[1:] if arguments is None else arguments
        return go_on([*(each for each in again if each != "--resume"), "--resume"])
    record.write(options.out, document)
    found = ratios.cases(document["rows"])
    print(ratios.text(found))
    wrong = sum(bool(case.problems) for case in found)
    print(f"{time.monotonic() - start:.0f} s; {failed} cases failed, ours is wrong in {wrong}")
    return 1 if failed or wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
