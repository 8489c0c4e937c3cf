# SPDX-License-Identifier: Apache-2.0
"""Whole engines under VLLM_BATCH_INVARIANT=1: are a prompt's bits the same in any batch?

    python -m benchmarks.invariance --out invariance.json --control --jobs 4    # the tiny model
    python -m benchmarks.invariance --out invariance-8b.json --model /tmp/qwen3-8b-block
    VLLM_HELION=0 python -m benchmarks.invariance --out stock.json              # upstream's layers
    python -m benchmarks.invariance --out again.json --seed 1234                # that of a failure

Engines, each a process of its own, differ in how they batch: whole prompts or chunks of 96 tokens,
256 sequences at a time or 4, CUDA graphs or not. Each runs every prompt alone, then in mixes: all
of them shuffled, then random ones, some twice, of random lengths, so that sequences come and go and
one's decode step meets another's prompt. A prompt's own log-probabilities, the tokens that follow
it, greedily, and theirs must have the very bits that the first engine gives it alone. Exit status 1
if one differs, or an engine fails.

--control runs the same without the switch. Nothing judges it, but where it finds no difference
either, the check could not have failed: take more --mixes. A CPU has no such switch in vLLM; there
the control is all that runs.

What invariance costs: `python -m benchmarks.engine --arm on:VLLM_BATCH_INVARIANT=1 --arm
off:VLLM_BATCH_INVARIANT=0 ...`.
"""

import argparse
import itertools
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import processes, record, small_engines, texts
from benchmarks.processes import Process
from benchmarks.quality import FORMATS, export
from benchmarks.small_engines import SHAPES
from helion_kernels.environment import describe

SWITCH = "VLLM_BATCH_INVARIANT"
Result = dict[str, list[Any]]
"""Of a prompt: its own log-probabilities ("prompt"), the "tokens" after it and their "logprobs"."""


FEW = {"max_num_seqs": 4}
"""Of engines that chunk: sequences wait, and another one's chunk runs beside the last of them."""


class Size(NamedTuple):
    prompts: int
    longest: int
    """Of the prompts, in tokens."""
    tokens: int
    """How many follow a prompt alone; in a mix, up to so many."""
    largest: int
    """Of the mixes, in prompts."""


FULL, SAMPLE = Size(24, 900, 64, 64), Size(5, 120, 6, 8)


class Engine(NamedTuple):
    model: str
    shape: str
    switch: str
    """1: batch invariant. 0: the control."""

    @property
    def name(self) -> str:
        return "-".join([self.model, self.shape] + ["control"] * (self.switch == "0"))


Mix = list[tuple[int, int]]
"""A prompt's number and how many tokens are to follow it, for each in a batch."""


def make_prompts(chance: random.Random, size: Size) -> list[list[int]]:
    """Pieces of held-out text of every length: half as many of 200 tokens and more as of 20."""
    text = [token for row in texts.read().rows for token in row]
    lengths = [round(size.longest ** chance.random()) for _ in range(size.prompts - 1)]
    starts = [chance.randrange(len(text) - size.longest) for _ in range(size.prompts)]
    return [text[a : a + n] for a, n in zip(starts, [size.longest, *lengths], strict=True)]


def make_mixes(chance: random.Random, size: Size, count: int) -> Iterator[Mix]:
    """Batches: every prompt once, shuffled, then of any number, in which some come up again."""
    for number in range(count):
        everyone = range(size.prompts)
        if number == 0:
            members = chance.sample(everyone, size.prompts)
        else:
            members = chance.choices(everyone, k=max(2, round(size.largest ** chance.random())))
        yield [(member, chance.randint(1, size.tokens)) for member in members]


def make_task(seed: int, shape: str, size: Size, mixes: int) -> dict[str, Any]:
    """What engines of a shape compute: the same prompts in all, mixes of the shape's own."""
    return {
        "prompts": make_prompts(random.Random(f"{seed} prompts"), size),
        "tokens": size.tokens,
        "mixes": list(make_mixes(random.Random(f"{seed} {shape}"), size, mixes)),
    }


def values(result: Result, count: int) -> Iterator[tuple[str, int, Any]]:
    """In the order in which an engine makes them: what, where, and the value."""
    for at, logprob in enumerate(result["prompt"], start=1):
        yield "log-probability of prompt token", at, logprob
    generated = zip(result["tokens"], result["logprobs"], strict=True)
    for at, (token, logprob) in enumerate(itertools.islice(generated, count)):
        yield "generated token", at, token
        yield "log-probability of generated token", at, logprob


def bits(value: float) -> Any:
    """Equal for equal bits alone: 0.0 is not -0.0 here, and NaN is NaN."""
    return value.hex() if isinstance(value, float) else value


def difference(alone: Result, found: Result) -> dict[str, Any] | None:
    """The first one, as far as found goes on."""
    count = len(found["tokens"])
    pairs = zip(values(alone, count), values(found, count), strict=True)
    for (what, at, expected), (_, _, value) in pairs:
        if bits(expected) != bits(value):
            return {"what": what, "at": at, "alone": expected, "found": value}
    return None


def compare(
    engine: Engine, task: dict[str, Any], result: dict[str, Any], reference: list[Result]
) -> list[dict[str, Any]]:
    """A row for the prompts alone and for each mix; reference: the first engine's, alone."""
    everyone = list(range(len(task["prompts"])))
    batches = [("alone", everyone, result["alone"])]
    for number, mix in enumerate(task["mixes"]):
        batches.append((f"mix {number}", [i for i, _ in mix], result["mixes"][number]))
    rows = []
    for batch, members, results in batches:
        differences = [
            {"prompt": member, "length": len(task["prompts"][member]), **found}
            for member, each in zip(members, results, strict=True)
            if (found := difference(reference[member], each)) is not None
        ]
        row: dict[str, Any] = {"engine": engine.name, "switch": engine.switch, "batch": batch}
        row |= {"prompts": len(results), "different": len(differences)}
        row["first"] = differences[0] if differences else None
        rows.append(row)
    return rows


HEAD = f"{'engine':<32} {'batch':<8} {'prompts':>7} {'different':>9}  the first difference"


def line(row: dict[str, Any]) -> str:
    text = f"{row['engine']:<32} {row['batch']:<8} {row['prompts']:7} {row['different']:9}"
    if (first := row["first"]) is None:
        return text
    return (
        f"{text}  prompt {first['prompt']} of {first['length']} tokens: {first['what']} "
        f"{first['at']} is {first['found']!r}, alone {first['alone']!r}"
    )


class Check:
    """Runs the engines, one process each."""

    def __init__(self, options: argparse.Namespace, work: Path, gpu: bool) -> None:
        self.options, self.work, self.gpu = options, work, gpu
        self.failed: list[Path] = []
        """Logs of engines."""
        size = SAMPLE if options.sample else FULL
        self.tasks = {
            shape: make_task(options.seed, shape, size, options.mixes)
            for shape in options.shape or small_engines.shapes(gpu)
        }
        for shape, task in self.tasks.items():
            (work / f"task-{shape}.json").write_text(json.dumps(task))

    def process(self, engine: Engine, folder: Path) -> Process:
        options = small_engines.options(engine.shape, self.gpu)
        options |= FEW if "chunked" in engine.shape else {}
        options |= self.options.engine_args
        arguments = ["--model", str(folder), "--engine-args", json.dumps(options)]
        arguments += ["--task", str(self.work / f"task-{engine.shape}.json")]
        environment = {} if self.gpu else small_engines.CPU_ENVIRONMENT
        log = self.work / f"{engine.name}.log"
        return Process(log, "invariance_arm.py", arguments, {**environment, SWITCH: engine.switch})

    def results(self, models: dict[str, Path], switches: list[str]) -> dict[Engine, Any]:
        """Of every engine that does not fail; the first of a model and switch first."""
        wanted = {
            (engine := Engine(model, shape, switch)): self.process(engine, folder)
            for switch in switches
            for model, folder in models.items()
            for shape in self.tasks
        }
        found = {}
        for engine, ended in processes.run(wanted, self.options.jobs):
            print(ended, flush=True)
            if ended.result is None:
                self.failed.append(ended.process.log)
            else:
                found[engine] = ended.result
        return {engine: found[engine] for engine in wanted if engine in found}

    def rows(self, results: dict[Engine, Any]) -> list[dict[str, Any]]:
        rows = []
        reference: dict[tuple[str, str], list[Result]] = {}
        for engine, result in results.items():
            alone = reference.setdefault((engine.model, engine.switch), result["alone"])
            found = compare(engine, self.tasks[engine.shape], result, alone)
            rows += found[1:] if alone is result["alone"] else found
        return rows


def total(rows: list[dict[str, Any]], switch: str) -> dict[str, int]:
    """How many results were compared with and without the switch, and how many differ."""
    of_switch = [row for row in rows if row["switch"] == switch]
    return {key: sum(row[key] for row in of_switch) for key in ("prompts", "different")}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.invariance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="JSON")
    what = parser.add_mutually_exclusive_group().add_argument
    what("--model", type=Path, help="a checkpoint's folder; default: the trained tiny model")
    what("--format", choices=FORMATS, action="append", help="of the tiny model; default: both")
    add(
        "--shape",
        choices=SHAPES,
        action="append",
        help="default: all but alone; the first is the reference",
    )
    add("--mixes", type=processes.positive, default=8, help="batches of every engine; 8")
    add("--seed", type=int, help="of prompts and mixes; default: a fresh one, which is printed")
    add("--control", action="store_true", help="also without the switch: shows what can differ")
    add("--sample", action="store_true", help="a few short prompts")
    add("--engine-args", type=json.loads, default={}, help="JSON, more arguments of `LLM`")
    processes.add_jobs(parser)
    add("--work", type=Path, help="for checkpoints and logs; default: temporary")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(2**32)
    gpu = torch.cuda.is_available()
    work = (options.work or Path(tempfile.mkdtemp(prefix="invariance-"))).resolve()
    work.mkdir(parents=True, exist_ok=True)
    print(f"seed {options.seed}; logs and checkpoints: {work}", flush=True)
    if not gpu:
        print(f"a CPU, where vLLM has no {SWITCH}: the control is all that runs")
    if options.model is not None:
        models = {options.model.resolve().name: options.model.resolve()}
    else:
        models = {form: export(work, form) for form in options.format or FORMATS}
    check = Check(options, work, gpu)
    switches = ["1"] * gpu + ["0"] * (options.control or not gpu)
    rows = check.rows(check.results(models, switches))
    document: dict[str, Any] = {"environment": describe()}
    document |= {"seed": options.seed, "sample": options.sample}
    document |= {"models": list(models), "mixes": options.mixes, "rows": rows}
    document["engine_args"] = options.engine_args
    document["failed_engines"] = [log.stem for log in check.failed]
    record.write(options.out, document)
    print(HEAD, *map(line, rows), sep="\n")
    return conclude(rows, switches, check.failed)


def conclude(rows: list[dict[str, Any]], switches: list[str], failed: list[Path]) -> int:
    """Say what the rows mean; the exit status."""
    for switch in switches:
        found = total(rows, switch)
        print(f"{SWITCH}={switch}: {found['different']} of {found['prompts']} results differ")
    if "0" in switches and not total(rows, "0")["different"]:
        print("the control differs nowhere either: this check could not have failed")
    for log in failed:
        print(f"failed: the engine of {log}")
    return 1 if total(rows, "1")["different"] or failed else 0


if __name__ == "__main__":
    sys.exit(main())
