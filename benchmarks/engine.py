# SPDX-License-Identifier: Apache-2.0
"""Compare engines: each arm a vllm installation or setting, in fresh processes, interleaved.

    python -m benchmarks.engine --model /tmp/qwen3-8b-token --out engine-8b-token.json \\
        --arm ours:PYTHONPATH=/tmp/ours --arm stock:PYTHONPATH=/tmp/stock --rounds 3 --resume \\
        --profile 1,32

Measures start-up, prefill and time per output token at several batch sizes (512 in, or as many as
`--batches 8,8x32768` says behind the x; prefix caching off), greedy continuations, logits under
forced tokens and, with --profile, the kernels of a decode step. The first process's continuations
are the forced ones. Further arguments are `engine_arm`'s. Prints medians over processes, their
range, and each arm's ratio to the last arm, the baseline: more than 1 is faster. The file is
written after each process; --resume skips those that it has.

Long prompts take so much longer than the tokens behind them that their difference is noise: with
`--engine-args '{"enable_prefix_caching": true, "max_model_len": 33280}'` prefill is timed with an
empty cache as ever, and tokens behind prompts that are cached.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks import arms, breakdown, processes, record, spread
from benchmarks.engine_arm import label


def run_arm(
    environment: dict[str, str], arguments: list[str], log: Path, script: str = "engine_arm.py"
) -> dict[str, Any] | None:
    """One process of an arm; None if it failed, with the log's end on stderr.

    What it had measured by then is beside its log, in the form of a run.
    """
    process = processes.Process(log, script, arguments, environment)
    ((_, ended),) = processes.run({log.stem: process})
    return ended.result


def cells(run: dict[str, Any]) -> dict[str, float]:
    """A process's figures, by name and batch; a published file may lack some, and says why."""
    found = {"startup_s": run["startup_s"]}
    for key in ("tpot_ms", "prefill_ms"):
        found |= {f"{key}@{label(row)}": row[key] for row in run["rows"] if key in row}
    return found


def agreement(a: dict[str, Any], b: dict[str, Any]) -> dict[str, float]:
    """How two arms' logits differ under the same forced tokens."""
    pairs = [
        (x, y)
        for row_a, row_b in zip(a["forced"], b["forced"], strict=True)
        for x, y in zip(row_a, row_b, strict=True)
    ]
    same_tokens = [
        next((i for i, (x, y) in enumerate(zip(p, q, strict=True)) if x != y), len(p))
        for p, q in zip(a["greedy"], b["greedy"], strict=True)
    ]
    difference = [abs(x[2] - y[2]) for x, y in pairs]
    gaps = [abs(x[1] - y[1]) for x, y in pairs if x[0] != y[0]]
    return {
        "positions": len(pairs),
        "top1_agreement": sum(x[0] == y[0] for x, y in pairs) / len(pairs),
        "max_logit_difference": max(difference),
        "mean_logit_difference": sum(difference) / len(difference),
        "max_top_logit_gap_where_top1_differs": max(gaps, default=0.0),
        "greedy_tokens_equal_before_first_divergence_mean": statistics.mean(same_tokens),
        "greedy_identical": sum(n == len(a["greedy"][0]) for n in same_tokens),
    }


def conclude(document: dict[str, Any]) -> None:
    """What follows from the runs so far."""
    runs = document["runs"]
    base = document["agreement_with"] = arms.baseline(document)
    document["summary"] = spread.plain(spread.summary(runs, cells))
    document["agreement"] = {
        name: agreement(results[0], runs[base][0])
        for name, results in runs.items()
        if name != base and results and {"forced"} <= results[0].keys() & runs[base][0].keys()
    }
    document["decode_step_us"] = spread.plain(spread.summary(runs, breakdown.cells))


def text(document: dict[str, Any]) -> str:
    """The tables: figures, agreement, kernels of a decode step."""
    runs, base = document["runs"], document["agreement_with"]
    parts = [spread.text(spread.summary(runs, cells), base)]
    if document["agreement"]:
        parts.append(json.dumps(document["agreement"], indent=1))
    steps = spread.summary(runs, breakdown.cells)
    if steps:
        parts += ["microseconds of a decode step, by kernel", spread.text(steps, base)]
    return "\n".join(parts)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arms.add_arguments(parser)
    options, passed_on = parser.parse_known_args(arguments)
    arms.exit_on_signals()
    try:
        document = arms.begin(options, arguments=passed_on)
    except ValueError as error:
        print(error)
        return 2
    runs, forced = document["runs"], options.logs / "forced-tokens.json"
    if "forced_tokens" in document:
        forced.write_text(json.dumps(document["forced_tokens"]))
    common = ["--model", options.model, "--forced", str(forced), *passed_on]
    failed = 0
    for number, name, environment in arms.turns(options):
        if len(runs[name]) > number:
            print(f"{name} {number}: is in {options.out}", flush=True)
            continue
        start, log = time.monotonic(), options.logs / f"{name}-{number}.log"
        print(f"{name} {number}: started, log {log}", flush=True)
        result = run_arm(environment, common, log)
        print(f"{name} {number}: {time.monotonic() - start:.0f} s", flush=True)
        if result is None:
            failed += 1
            continue
        runs[name].append(result)
        if forced.exists():
            document["forced_tokens"] = json.loads(forced.read_text())
        conclude(document)
        record.write(options.out, document)
    if arms.baseline(document) is not None:
        print(text(document))
    if failed:
        print(f"{failed} processes failed; --resume tries them again")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
