# SPDX-License-Identifier: Apache-2.0
"""Errors on weights and activations with the tails, outliers and sizes of a trained model.

    python -m benchmarks.realistic --out realistic-8b.json     # a GPU: Qwen3-8B, both formats
    python -m benchmarks.realistic --model tiny                # a CPU: the same path, interpreted

Inputs are random and as `benchmarks/heavy_tails.py` says, which names what they are fit to. Two
tables, each against float64 on the same FP8 numbers:

ops     every op of a decoder layer: rms is the error's root mean square over that of the token,
        max its largest over the token's largest magnitude. float8 outputs count times their
        scales.
stack   the residual stream after each layer, of one sequence that passes in --chunks: the first
        prefills, the others decode. cosine is the least of a token.

Arms: "rounding" is float64 rounded where the type of an output (the served model) forces it: no
kernel can do better but by luck. "ours" are the plans that serve. Others are upstream's kernels,
where vLLM can be imported and a GPU is there. Exit status 1: ours breaks a bound of
`helion_kernels/accuracy.py`, or in some layer is further from float64 than rounding alone by more
than a factor of --limit.

Kernels that no pack has are compiled first.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import op_errors, record, stack_errors, step, stock
from benchmarks.checkpoint import LAYERS
from benchmarks.kernels import _counts
from helion_kernels import OPS, environment, plan
from helion_kernels.qwen3 import MODELS, Sizes, calls

TINY = Sizes(256, 512, 4, 2, 64)
SIZES = {"tiny": TINY, **MODELS}
FORMATS = ("token", "block")
PARTS = ("ops", "stack")
LIMIT = 1.25
"""Two roundings of one kind differ as independent draws do, and tokens are few."""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.realistic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--model", choices=SIZES, default="8b", help="default: 8b")
    p.add_argument("--format", choices=FORMATS, action="append", help="repeatable; both")
    p.add_argument("--part", choices=PARTS, action="append", help="repeatable; both")
    p.add_argument("--tokens", type=_counts, help="of the ops, comma-separated; 8,64,512 (tiny: 5)")
    p.add_argument("--layers", type=int, help="of the stack; the model's (tiny: 3)")
    p.add_argument("--chunks", type=_chunks, default=[64, 8], help="of the stack; 64,8")
    p.add_argument("--limit", type=float, default=LIMIT, help=f"of the stack; {LIMIT}")
    p.add_argument("--seed", type=int, default=0, help="of weights and inputs; 0")
    p.add_argument("--out", type=Path, help="JSON file for everything, written after each case")
    return p


def _chunks(text: str) -> list[int]:
    """In the order given."""
    _counts(text)
    return [int(part) for part in text.split(",")]


def run_ops(
    sizes: Sizes, form: str, options: argparse.Namespace, device: torch.device, with_stock: bool
) -> list[dict[str, Any]]:
    cases = list(dict.fromkeys(calls(sizes, form == "block")))
    wanted = [(OPS[name], dims) for name, dims in cases]
    ids = plan.prepare(wanted, max(options.tokens), device, _launchers, workers=16)
    print(f"{'op':37} {'dims':22} {'tokens':>6} {'arm':10} {'output':8} {'rms':>9} {'max':>9}")
    found = []
    for (op, dims), plan_id in zip(wanted, ids, strict=True):
        for m in options.tokens:
            rows = op_errors.rows(op, dims, plan_id, m, device, options.seed, with_stock)
            found += [{"format": form, **row} for row in rows]
            for row in rows:
                print(*op_lines(row), sep="\n", flush=True)
    return found


def op_lines(row: dict[str, Any]) -> list[str]:
    dims = "x".join(str(int(x)) for x in row["dims"])
    head = f"{row['op']:37} {dims:22} {row['num_tokens']:6} {row['arm']:10}"
    if "note" in row:
        return [f"{head} {row['note'][:60]}"]
    tail = f"  {row['launcher']}" if "launcher" in row else ""
    lines = [
        f"{head} {name:8} {error['rms']:9.2e} {error['max']:9.2e}{tail}"
        for name, error in row["errors"].items()
    ]
    return lines + [f"  WRONG: {problem}" for problem in row.get("problems", [])]


def run_stack(
    sizes: Sizes, form: str, options: argparse.Namespace, device: torch.device, with_stock: bool
) -> list[dict[str, Any]]:
    block = form == "block"
    entries = step.prepare(sizes, block, max(options.chunks), device)
    arms = {"ours": stack_errors.ours(entries)}
    if with_stock:
        arms["stock"] = stack_errors.upstreams(sizes, block)
    names = ("rounding", *arms)
    print(f"{'layer':>5} {'stream':>8}" + "".join(f" {name:>9} {'cosine':>10}" for name in names))
    found = []
    rows = stack_errors.rows(
        arms, sizes, options.layers, block, options.chunks, device, options.seed
    )
    for row in rows:
        found.append({"format": form, **row})
        errors = [row["errors"][name] for name in names]
        text = "".join(f" {error['rms']:9.2e} {error['cosine']:10.7f}" for error in errors)
        print(f"{row['layer']:5} {row['size']:8.3f}{text}", flush=True)
    return found


def verdicts(document: dict[str, Any], limit: float) -> list[str]:
    """What is wrong, a line each. NaN is."""
    found = [
        f"{row['format']} {row['num_tokens']} tokens: {problem}"
        for row in document.get("ops", [])
        for problem in row.get("problems", [])
    ]
    for row in document.get("stack", []):
        ours, least = row["errors"]["ours"]["rms"], row["errors"]["rounding"]["rms"]
        if not ours <= limit * least:
            found.append(
                f"{row['format']} layer {row['layer']}: the stream is off by {ours:.2e}, by "
                f"{least:.2e} through rounding alone"
            )
    return found


def _launchers(done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(f"\rlaunchers ready: {done} of {total}", end=end, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    tiny, gpu = options.model == "tiny", torch.cuda.is_available()
    if not (gpu or tiny):
        print(
            "benchmarks.realistic needs a GPU for real sizes, and PyTorch sees none: --model tiny"
        )
        return 2
    sizes = SIZES[options.model]
    options.tokens = options.tokens or ([5] if tiny else [8, 64, 512])
    options.layers = options.layers or (3 if tiny else LAYERS[options.model])
    device = torch.device("cuda", 0) if gpu else torch.device("cpu")
    notes = [stock.load(), stock.register()] if gpu else ["stock arms skipped: no GPU"]
    for note in filter(None, notes):
        print(note)
    start = time.monotonic()
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    document: dict[str, Any] = {"environment": environment.describe(), "settings": settings}
    run = {"ops": run_ops, "stack": run_stack}
    for form in options.format or FORMATS:
        for part in (x for x in PARTS if x in (options.part or PARTS)):
            print(f"{options.model}, {form}: {part}", flush=True)
            rows = run[part](sizes, form, options, device, notes[0] is None)
            document[part] = document.get(part, []) + rows
            record.write(options.out, document)
    wrong = verdicts(document, options.limit)
    document |= {"problems": wrong, "seconds": round(time.monotonic() - start, 1)}
    record.write(options.out, document)
    print(*wrong, f"{document['seconds']:.0f} s; {len(wrong)} problems", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
