# SPDX-License-Identifier: Apache-2.0
"""The quality gate: a trained model, served by ours and by stock, against float64.

    python -m benchmarks.quality --out quality.json            # a GPU: the whole held-out text
    python -m benchmarks.quality --out quality.json --sample   # a CPU: a few rows of it

Log-probabilities of text that the model was not trained on, computed in every shape of batch:
prefill, whole and in chunks; decode, token by token, forced; as CUDA graphs and eagerly. Each
engine is a process of its own. Exit status 1 if, in any shape, where a row of text is one
observation and Z standard errors are the doubt:

- perplexity: ours differs from stock's by more than 0.1 %, or by an amount that is not known to
  that precision (`unclear`: more text is needed; passes with --sample). Where stock cannot run,
  the float64 reference takes its place;
- distance: ours is further from the float64 reference than stock is (mean |difference| of a
  token's log-probability), beyond doubt;
- greedy: continuations part where the reference does not see a near tie.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from benchmarks.engine import run_arm
from benchmarks.reference import Qwen3
from helion_kernels.environment import describe

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples/tiny_qwen3"))
from export import MODEL, export  # type: ignore[import-not-found]  # noqa: E402

FORMATS = ("fp8-token", "fp8-block")
MARGIN = 1e-3
Z = 2.5
TAIL = 0.999
"""Greedy: two tokens are nearly tied when their gap is within twice the error of this quantile."""
COMMON = {"max_model_len": 1024}
GPU = {"gpu_memory_utilization": 0.5}
CPU_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1"}
SHAPES: dict[str, dict[str, Any]] = {
    "whole": {"max_num_batched_tokens": 8192, "max_num_seqs": 64},
    "chunked": {"max_num_batched_tokens": 96, "max_num_seqs": 4},
    "whole-eager": {"max_num_batched_tokens": 8192, "max_num_seqs": 64, "enforce_eager": True},
    "chunked-eager": {"max_num_batched_tokens": 96, "max_num_seqs": 4, "enforce_eager": True},
}


class Task(NamedTuple):
    """What every engine computes, in tokens."""

    rows: list[list[int]]
    start: int
    """Where decoding starts in a row."""
    prompts: list[list[int]]
    tokens: int
    """How many follow each prompt, greedily."""


class Estimate(NamedTuple):
    mean: float
    error: float
    """The standard error of the mean."""


def make_task(sample: bool) -> Task:
    held_out = load_file(MODEL / "heldout.safetensors")["tokens"].tolist()
    if sample:
        return Task([row[:32] for row in held_out[:12]], 24, [row[:24] for row in held_out[:4]], 8)
    return Task(held_out, 128, [row[:64] for row in held_out[:32]], 64)


def estimate(values: torch.Tensor) -> Estimate:
    """Of the mean of values [rows, tokens]. Tokens of a row depend on each other, rows do not."""
    means = values.double().mean(1)
    return Estimate(float(means.mean()), float(means.std() / math.sqrt(len(means))))


def perplexity(logprobs: torch.Tensor) -> float:
    return math.exp(-float(logprobs.double().mean()))


def same_perplexity(ours: torch.Tensor, other: torch.Tensor) -> tuple[str, Estimate]:
    """pass, fail or unclear: whether log perplexities are within MARGIN of each other."""
    difference = estimate(other.double() - ours.double())
    doubt = Z * difference.error
    if abs(difference.mean) + doubt <= MARGIN:
        return "pass", difference
    return ("fail" if abs(difference.mean) - doubt > MARGIN else "unclear"), difference


def no_further(
    ours: torch.Tensor, stock: torch.Tensor, exact: torch.Tensor
) -> tuple[str, Estimate]:
    """pass or fail: whether ours is as near to exact as stock is."""
    further = estimate((ours - exact).abs() - (stock - exact).abs())
    return ("fail" if further.mean - Z * further.error > 0 else "pass"), further


def partings(
    ours: list[list[int]], other: list[list[int]], prompts: list[list[int]], reference: Qwen3
) -> Iterator[dict[str, Any]]:
    """The first difference of each pair of continuations, with the reference's gap there."""
    for index, (a, b, prompt) in enumerate(zip(ours, other, prompts, strict=True)):
        at = next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), None)
        if at is not None:
            logits = reference.logits(prompt + a[:at])[-1]
            gap = abs(float(logits[a[at]] - logits[b[at]]))
            yield {"prompt": index, "at": at, "ours": a[at], "other": b[at], "gap": gap}


def compare(
    arm: dict[str, Any],
    stock: dict[str, Any] | None,
    exact: torch.Tensor,
    reference: Qwen3,
    task: Task,
) -> list[dict[str, Any]]:
    """One record for each of prefill, decode and greedy; "verdict" says how it went."""
    records: list[dict[str, Any]] = []
    errors = []
    for name, expected in (("prefill", exact), ("decode", exact[:, task.start - 1 :])):
        ours = torch.tensor(arm[name], dtype=torch.float64)
        errors.append((ours - expected).abs().flatten())
        record = {"pass": name, "tokens": ours.numel(), "ppl_float64": perplexity(expected)}
        record |= {"ppl_ours": perplexity(ours), "distance_ours": float(errors[-1].mean())}
        if stock is None:
            verdict, difference = same_perplexity(ours, expected)
        else:
            theirs = torch.tensor(stock[name], dtype=torch.float64)
            errors.append((theirs - expected).abs().flatten())
            record |= {"ppl_stock": perplexity(theirs), "distance_stock": float(errors[-1].mean())}
            verdict, difference = same_perplexity(ours, theirs)
            distance, further = no_further(ours, theirs, expected)
            record |= {"further": further._asdict(), "verdict_distance": distance}
        record |= {"log_ppl_difference": difference._asdict(), "verdict_perplexity": verdict}
        verdicts = [verdict, record.get("verdict_distance", "pass")]
        record["verdict"] = next((v for v in ("fail", "unclear") if v in verdicts), "pass")
        records.append(record)
    tie = 2 * float(torch.cat(errors).quantile(TAIL))
    other = stock["greedy"] if stock else [reference.greedy(p, task.tokens) for p in task.prompts]
    parted = list(partings(arm["greedy"], other, task.prompts, reference))
    verdict = "fail" if any(parting["gap"] > tie for parting in parted) else "pass"
    records.append(
        {
            "pass": "greedy",
            "against": "stock" if stock else "float64",
            "continuations": len(task.prompts),
            "parted": parted,
            "near_tie": tie,
            "verdict": verdict,
        }
    )
    return records


def logprobs(reference: Qwen3, rows: list[list[int]]) -> torch.Tensor:
    """[rows, tokens - 1], on the CPU: of each token of a row but the first."""
    found = []
    for row in rows:
        follow = torch.tensor(row[1:], device=reference.embedding.device).unsqueeze(1)
        found.append(reference.logits(row)[:-1].log_softmax(-1).gather(1, follow).squeeze(1).cpu())
    return torch.stack(found)


def line(record: dict[str, Any]) -> str:
    start = f"{record['format']:<10} {record['shape']:<13} {record['pass']:<8}"
    if record["pass"] == "greedy":
        gap = max((parting["gap"] for parting in record["parted"]), default=0.0)
        same = record["continuations"] - len(record["parted"])
        return (
            f"{start} {same} of {record['continuations']} as {record['against']}; largest gap where"
            f" they part {gap:.3f}, near tie below {record['near_tie']:.3f}  {record['verdict']}"
        )
    difference = record["log_ppl_difference"]
    numbers = [record["ppl_float64"], record.get("ppl_stock", math.nan), record["ppl_ours"]]
    distances = [record.get("distance_stock", math.nan), record["distance_ours"]]
    return (
        f"{start} {' '.join(f'{x:9.4f}' for x in numbers)} {100 * difference['mean']:+8.4f}"
        f" ± {100 * Z * difference['error']:.4f} {' '.join(f'{x:9.5f}' for x in distances)}"
        f"  {record['verdict']}"
    )


HEAD = (
    f"{'format':<10} {'shape':<13} {'pass':<8} {'float64':>9} {'stock':>9} {'ours':>9}"
    f" {'difference, %':>18} {'|Δ| stock':>9} {'|Δ| ours':>9}"
)


class Gate:
    """Runs the engines, one process each, and gathers the records."""

    def __init__(self, task: Task, work: Path) -> None:
        self.task, self.work = task, work
        self.gpu = torch.cuda.is_available()
        self.failed: list[str] = []
        work.mkdir(parents=True, exist_ok=True)
        (work / "task.json").write_text(json.dumps(task._asdict()))

    def arm(
        self, name: str, model: Path, shape: str, helion: bool, **switches: str
    ) -> dict[str, Any] | None:
        start = time.monotonic()
        options = COMMON | SHAPES[shape] | (GPU if self.gpu else {"enforce_eager": True})
        arguments = ["--model", str(model), "--task", str(self.work / "task.json")]
        arguments += ["--engine-args", json.dumps(options)]
        environment = {"VLLM_HELION": str(int(helion)), **switches}
        environment |= {} if self.gpu else CPU_ENVIRONMENT
        result = run_arm(environment, arguments, self.work / f"{name}.log", "quality_arm.py")
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
        if result is None:
            self.failed.append(name)
        return result

    def format(self, form: str, shapes: list[str]) -> list[dict[str, Any]]:
        folder = export(self.work, form)
        reference = Qwen3(folder, exact=True, device="cuda" if self.gpu else "cpu")
        exact = logprobs(reference, self.task.rows)
        records = []
        for shape in shapes:
            ours = self.arm(f"{form}-{shape}-ours", folder, shape, helion=True)
            # Upstream has no block FP8 for CPUs without AMX.
            able = self.gpu or form == "fp8-token"
            stock = self.arm(f"{form}-{shape}-stock", folder, shape, False) if able else None
            if ours is not None and (stock is not None or not able):
                found = compare(ours, stock, exact, reference, self.task)
                records += [{"format": form, "shape": shape, **record} for record in found]
        return records

    def bf16(self, shape: str) -> dict[str, float]:
        """Perplexities before quantisation: what it costs."""
        folder = export(self.work, "bf16")
        device = "cuda" if self.gpu else "cpu"
        exact = logprobs(Qwen3(folder, exact=True, device=device), self.task.rows)
        found = {"float64": perplexity(exact)}
        if (arm := self.arm(f"bf16-{shape}", folder, shape, helion=False)) is not None:
            found["vllm"] = perplexity(torch.tensor(arm["prefill"]))
        return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    parser.add_argument("--format", choices=FORMATS, action="append", help="default: both")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="default: all")
    parser.add_argument("--sample", action="store_true", help="a few rows: `unclear` passes")
    parser.add_argument("--no-bf16", action="store_true", help="leave out the bf16 model")
    parser.add_argument("--work", type=Path, help="for checkpoints and logs; default: temporary")
    options = parser.parse_args(arguments)
    work = options.work or Path(tempfile.mkdtemp(prefix="quality-"))
    gate = Gate(make_task(options.sample), work.resolve())
    shapes = options.shape or [s for s in SHAPES if gate.gpu or "eager" not in s]
    print(f"{len(gate.task.rows)} rows; logs and checkpoints: {work}", flush=True)
    records = [r for form in options.format or FORMATS for r in gate.format(form, shapes)]
    document: dict[str, Any] = {"environment": describe(), "sample": options.sample}
    document |= {"margin": MARGIN, "z": Z, "records": records, "failed_engines": gate.failed}
    if not options.no_bf16:
        document["ppl_bf16"] = gate.bf16(shapes[0])
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(HEAD, *map(line, records), sep="\n")
    if "ppl_bf16" in document:
        print("bf16 model, prefill:", document["ppl_bf16"])
    allowed = ("pass", "unclear") if options.sample else ("pass",)
    bad = [r for r in records if r["verdict"] not in allowed]
    for record in bad:
        print(f"{record['verdict']}: {record['format']} {record['shape']} {record['pass']}")
    return 1 if bad or gate.failed else 0


if __name__ == "__main__":
    sys.exit(main())
