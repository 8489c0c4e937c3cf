# SPDX-License-Identifier: Apache-2.0
"""Times every op against stock on a GPU.

    python -m benchmarks.kernels --models 8b --tokens 1,16,64,512 --out out.json

Each arm is timed in one CUDA graph over rotating buffers (`timing`), arms interleaved. "floor" is
the time that the op's bytes or operations need at the rates measured in the same run, "share" the
floor over the measured time. L2 is "warm" where the op's buffers are too small to leave it.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import inductor, stock
from helion_kernels import OPS, environment, plan, timing
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
    p.add_argument("--inductor", action="store_true", help="time torch.compile's arms too (slow)")
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


def compare(
    op: Op,
    dims: tuple[Any, ...],
    num_tokens: int,
    plan_id: int,
    ceilings: timing.Ceilings,
    options: argparse.Namespace,
    with_stock: bool,
) -> Iterator[dict[str, Any]]:
    """A row per arm; ours first, checked against the reference."""
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
        try:
            graphs[name] = timing.Graph([bind(*args) for args in sets], calls)
        except Exception as error:
            if name == "ours":
                raise
            notes[name] = (str(error).splitlines() or [repr(error)])[0]
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
    for name, time in measured.items():
        yield {
            **common,
            "arm": name,
            "us": round(time.us, 3),
            "quartiles": [round(time.low, 3), round(time.high, 3)],
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


HEADER = (
    f"{'op':37} {'dims':22} {'tokens':>6} {'arm':9} {'us':>9} {'rate':>12} {'share':>6} "
    f"{'ours/it':>8}"
)


def line(row: dict[str, Any], ours_us: float | None) -> str:
    """A row of the table; ours/it below 1 means that ours is faster."""
    dims = "x".join(str(int(v)) for v in row["dims"].values())
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


def run_comparison(options: argparse.Namespace, document: dict[str, Any]) -> None:
    note = stock.load()
    if note:
        print(note)
    wanted = cases(options.ops, options.models)
    ids = plan.prepare(wanted, max(options.tokens), torch.device("cuda", 0), workers=16)
    ceilings = timing.measure_ceilings()
    document["ceilings"] = vars(ceilings)
    print(
        f"copy {ceilings.copy_bytes_per_us / 1e6:.2f} TB/s, read "
        f"{ceilings.read_bytes_per_us / 1e6:.2f} TB/s, "
        f"FP8 {ceilings.flops_per_us / 1e6:.0f} TFLOP/s"
    )
    print(HEADER)
    rows = document["rows"] = []
    for (op, dims), plan_id in zip(wanted, ids, strict=True):
        for num_tokens in options.tokens:
            ours_us = None
            for row in compare(op, dims, num_tokens, plan_id, ceilings, options, note is None):
                ours_us = row["us"] if row["arm"] == "ours" else ours_us
                rows.append(row)
                print(line(row, ours_us), flush=True)
            write(options.out, document)


def write(path: Path | None, document: dict[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if not torch.cuda.is_available():
        print("benchmarks.kernels needs a GPU, and PyTorch sees none")
        return 2
    document: dict[str, Any] = {"environment": environment.describe()}
    run_comparison(options, document)
    write(options.out, document)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
