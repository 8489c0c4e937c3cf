# SPDX-License-Identifier: Apache-2.0
"""The quality gate: a trained model, served by ours and by stock, against float64.

    python -m benchmarks.quality --out quality.json            # a GPU: the whole held-out text
    python -m benchmarks.quality --out quality.json --jobs 4   # ... four engines at a time
    python -m benchmarks.quality --out quality.json --resume   # what is not in the file yet
    python -m benchmarks.quality --out quality.json --sample   # a CPU: a few rows of the text
    python -m benchmarks.quality --out more.json --text FILE   # more text, for less doubt

Log-probabilities of text that the model was not trained on, computed in every shape of batch:
prefill, whole and in chunks; decode, token by token, forced; as CUDA graphs and eagerly; and of
an engine's own greedy continuations. Engines are processes of their own; on a GPU each side has two
for a shape, as forcing tokens takes vLLM's older model runner. A format and shape is compared, and
the file written, as soon as its engines have ended. Exit status 1 if an engine fails or if, in any
shape, where a row of text is one observation and Z standard errors are the doubt:

- perplexity: ours differs from stock's and from the float64 reference's by more than 0.1 %, or by
  an amount that is not known to that precision (`unclear`: more text is needed, which
  examples/tiny_qwen3/more_text.py makes; passes with --sample);
- distance: ours is further from the float64 reference than stock is (mean |difference| of a
  token's log-probability), beyond doubt;
- greedy: continuations part where the reference does not see a near tie, or ours is further from
  what the reference makes of its own than stock is of its own.
"""

import argparse
import json
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks import processes, record, small_engines, texts
from benchmarks.processes import Key, Process
from benchmarks.reference import Qwen3
from benchmarks.small_engines import SHAPES
from benchmarks.verdicts import MARGIN, Task, Z, compare, logprobs, perplexity
from helion_kernels.environment import describe

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples/tiny_qwen3"))
from export import export  # type: ignore[import-not-found]  # noqa: E402

FORMATS = ("fp8-token", "fp8-block")
SAME_MODEL = {"VLLM_USE_DEEP_GEMM_E8M0": "0"}
"""Stock keeps the scales of block FP8, as ours does: what its rounding of them costs, and that ours
is nearer to bf16 without, is `benchmarks.scales`' question."""
Pair = tuple[str, str]
"""Format, shape."""


def make_task(rows: list[list[int]], sample: bool) -> Task:
    if sample:
        return Task([row[:32] for row in rows[:48]], 24, [row[:24] for row in rows[:4]], 8)
    return Task(rows, 128, [row[:64] for row in rows[:32]], 64)


def line(record: dict[str, Any]) -> str:
    start = f"{record['format']:<10} {record['shape']:<13} {record['pass']:<8}"
    if record["pass"] == "greedy":
        gap = max((parting["gap"] for parting in record["parted"]), default=0.0)
        same = record["continuations"] - len(record["parted"])
        distances = [record.get("distance_stock", math.nan), record["distance_ours"]]
        return (
            f"{start} {same} of {record['continuations']} as {record['against']}; largest gap where"
            f" they part {gap:.3f}, near tie below {record['near_tie']:.3f};"
            f" {' '.join(f'{x:9.5f}' for x in distances)}  {record['verdict']}"
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
        self.device = "cuda" if self.gpu else "cpu"
        """Of the reference."""
        self.failed: list[Path] = []
        """Logs of engines."""
        self._exact: dict[Path, tuple[Qwen3, torch.Tensor]] = {}
        work.mkdir(parents=True, exist_ok=True)
        (work / "task.json").write_text(json.dumps(task._asdict()))

    def sides(self, form: str) -> tuple[str, ...]:
        if form == "bf16":
            return ("stock",)
        # Upstream has no block FP8 for CPUs without AMX.
        return ("ours", "stock") if self.gpu or form == "fp8-token" else ("ours",)

    def passes(self, form: str) -> list[str]:
        """Of each engine of a side."""
        if form == "bf16":
            return ["prefill"]
        return ["prefill greedy", "decode"] if self.gpu else ["prefill greedy decode"]

    def suffix(self, form: str, passes: str) -> list[str]:
        """What tells an engine from the others of its side."""
        return passes.split()[:1] if len(self.passes(form)) > 1 else []

    def process(
        self, name: str, folder: Path, shape: str, helion: bool, passes: str, **switches: str
    ) -> Process:
        arguments = ["--model", str(folder), "--task", str(self.work / "task.json")]
        arguments += ["--passes", *passes.split()]
        arguments += ["--engine-args", json.dumps(small_engines.options(shape, self.gpu))]
        environment = {"VLLM_HELION": str(int(helion)), **switches}
        environment |= {} if self.gpu else small_engines.CPU_ENVIRONMENT
        return Process(self.work / f"{name}.log", "quality_arm.py", arguments, environment)

    def results(self, wanted: Mapping[Key, Process], jobs: int = 1) -> Iterator[tuple[Key, Any]]:
        """As they come, of engines that do not fail."""
        for key, ended in processes.run(wanted, jobs):
            print(ended, flush=True)
            if ended.result is None:
                self.failed.append(ended.process.log)
            else:
                yield key, ended.result

    def run(self, pairs: list[Pair], jobs: int) -> Iterator[dict[str, Any]]:
        """A document's new entries, for each pair as soon as its engines have ended."""
        folders = {form: export(self.work, form) for form, _ in pairs}
        wanted = {
            (form, shape, side, passes): self.process(
                "-".join([form, shape, side, *self.suffix(form, passes)]),
                folders[form],
                shape,
                side == "ours",
                passes,
                **SAME_MODEL,
            )
            for form, shape in pairs
            for side in self.sides(form)
            for passes in self.passes(form)
        }
        left = Counter((form, shape) for form, shape, *_ in wanted)
        found: dict[Pair, dict[str, Any]] = {pair: {} for pair in left}
        for (form, shape, side, _), result in self.results(wanted, jobs):
            found[form, shape].setdefault(side, {}).update(result)
            left[form, shape] -= 1
            if not left[form, shape]:
                results = found.pop((form, shape))  # large, of much text
                yield self.entries(form, shape, results, folders[form])

    def entries(
        self, form: str, shape: str, results: dict[str, Any], folder: Path
    ) -> dict[str, Any]:
        reference, exact = self.exact(folder)
        if form == "bf16":  # what quantisation costs
            vllm = perplexity(torch.tensor(results["stock"]["prefill"]))
            return {"ppl_bf16": {"float64": perplexity(exact), "vllm": vllm}}
        records = compare(results["ours"], results.get("stock"), exact, reference, self.task)
        return {"records": [{"format": form, "shape": shape, **each} for each in records]}

    def exact(self, folder: Path) -> tuple[Qwen3, torch.Tensor]:
        """The float64 model and what it makes of the task's rows: once for all shapes."""
        if folder not in self._exact:
            reference = Qwen3(folder, exact=True, device=self.device)
            self._exact[folder] = reference, logprobs(reference, self.task.rows)
        return self._exact[folder]


def begin(options: argparse.Namespace, text: texts.Text) -> dict[str, Any]:
    """The document to fill: a new one, or that of `--out` to be continued. Raises ValueError."""
    environment = describe()
    settings = {"gpu": environment["gpu"], "text": text.record, "sample": options.sample}
    settings |= {"margin": MARGIN, "z": Z}
    document = record.resume(options.out, settings) if options.resume else None
    if document is None:
        return {"environment": environment, **settings, "records": []}
    document.setdefault("resumed", []).append(environment)
    return document


def pending(options: argparse.Namespace, gpu: bool, document: dict[str, Any]) -> list[Pair]:
    """What is asked for and not in the document."""
    shapes = options.shape or small_engines.shapes(gpu)
    pairs = [(form, shape) for form in options.format or FORMATS for shape in shapes]
    pairs += [] if options.no_bf16 or "ppl_bf16" in document else [("bf16", shapes[0])]
    done = {(each["format"], each["shape"]) for each in document["records"]}
    return [pair for pair in dict.fromkeys(pairs) if pair not in done]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON, written as it goes")
    parser.add_argument("--resume", action="store_true", help="run only what --out lacks")
    parser.add_argument("--format", choices=FORMATS, action="append", help="default: both")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="default: all but alone")
    parser.add_argument("--sample", action="store_true", help="a few rows: `unclear` passes")
    parser.add_argument("--no-bf16", action="store_true", help="leave out the bf16 model")
    parser.add_argument(
        "--text",
        type=Path,
        default=texts.HELD_OUT,
        metavar="FILE",
        help="safetensors with tokens [rows, 512]; default: the repository's, 128 rows",
    )
    parser.add_argument("--rows", type=int, metavar="N", help="only the first N rows of the text")
    processes.add_jobs(parser)
    parser.add_argument("--work", type=Path, help="for checkpoints and logs; default: temporary")
    options = parser.parse_args(arguments)
    try:
        text = texts.read(options.text, options.rows)
        document = begin(options, text)
    except ValueError as error:
        print(error)
        return 2
    work = (options.work or Path(tempfile.mkdtemp(prefix="quality-"))).resolve()
    gate = Gate(make_task(text.rows, options.sample), work)
    print(f"{len(gate.task.rows)} rows of {text.name}; logs and checkpoints: {work}", flush=True)
    print(HEAD, *map(line, document["records"]), sep="\n", flush=True)
    for entries in gate.run(pending(options, gate.gpu, document), options.jobs):
        found = entries.pop("records", [])
        document["records"] += found
        document |= entries
        record.write(options.out, document)
        for each in found:
            print(line(each), flush=True)
    document["failed_engines"] = [log.stem for log in gate.failed]
    record.write(options.out, document)
    if "ppl_bf16" in document:
        print("bf16 model, prefill:", document["ppl_bf16"])
    allowed = ("pass", "unclear") if options.sample else ("pass",)
    bad = [each for each in document["records"] if each["verdict"] not in allowed]
    for each in bad:
        print(f"{each['verdict']}: {each['format']} {each['shape']} {each['pass']}")
    for log in gate.failed:
        print(f"failed: the engine of {log}; --resume tries it again")
    return 1 if bad or gate.failed else 0


if __name__ == "__main__":
    sys.exit(main())
