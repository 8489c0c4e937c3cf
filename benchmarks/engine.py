# SPDX-License-Identifier: Apache-2.0
"""Compare engines: each arm a vllm installation or setting, in fresh processes, interleaved.

    python -m benchmarks.engine --model /tmp/qwen3-8b-token --out results.json \\
        --arm ours:PYTHONPATH=/tmp/ours --arm stock:PYTHONPATH=/tmp/stock --rounds 3

Measures start-up, prefill and time per output token at several batch sizes (512 in, prefix caching
off), greedy continuations, and logits under forced tokens. The first arm's continuations are the
forced ones. Prints a table with each arm's ratio to the last arm, the baseline.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def parse_arm(text: str) -> tuple[str, dict[str, str]]:
    """`name:KEY=VALUE,KEY=VALUE` -> (name, environment)."""
    name, _, settings = text.partition(":")
    pairs = [setting.partition("=") for setting in settings.split(",") if setting]
    return name, {key: value for key, _, value in pairs}


def run_arm(
    environment: dict[str, str], arguments: list[str], log: Path, script: str = "engine_arm.py"
) -> dict[str, Any] | None:
    """One process of an arm; None if it failed, with the log's end on stderr."""
    out = log.with_suffix(".json")
    # -P: this folder's own modules must not shadow an arm's.
    command = [sys.executable, "-P", str(Path(__file__).with_name(script)), *arguments]
    with log.open("w") as stream:
        code = subprocess.run(
            [*command, "--out", str(out)],
            env={**os.environ, **environment},
            stdout=stream,
            stderr=subprocess.STDOUT,
        ).returncode
    if code:
        print(f"{log.stem} failed ({code}):\n{log.read_text()[-3000:]}", file=sys.stderr)
        return None
    return json.loads(out.read_text())


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Per arm: medians over its processes."""
    table: dict[str, dict[str, float]] = {}
    for name, results in runs.items():
        cells = {"startup_s": statistics.median(r["startup_s"] for r in results)}
        for i, row in enumerate(results[0]["rows"]):
            for key in ("tpot_ms", "prefill_ms"):
                cells[f"{key}@{row['batch']}"] = statistics.median(
                    r["rows"][i][key] for r in results
                )
        table[name] = cells
    return table


def cells(run: dict[str, Any]) -> dict[str, float]:
    """A process's figures, by name and batch."""
    found = {"startup_s": run["startup_s"]}
    for key in ("tpot_ms", "prefill_ms"):
        found |= {f"{key}@{row['batch']}": row[key] for row in run["rows"]}
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


def render(table: dict[str, dict[str, float]]) -> str:
    names = list(table)
    base = table[names[-1]]
    lines = ["  ".join(["cell".ljust(16), *(name.rjust(22) for name in names)])]
    for key in base:
        cells = [f"{table[n][key]:.3f} ({base[key] / table[n][key]:.3f}x)" for n in names]
        lines.append("  ".join([key.ljust(16), *(cell.rjust(22) for cell in cells)]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--arm", action="append", required=True, metavar="NAME:KEY=VALUE,...")
    parser.add_argument("--rounds", type=int, default=1, help="processes an arm")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--logs", type=Path, default=None)
    args, passed_on = parser.parse_known_args()
    arms = dict(parse_arm(text) for text in args.arm)
    logs = args.logs or Path(tempfile.mkdtemp(prefix="engine-"))
    logs.mkdir(parents=True, exist_ok=True)
    forced = logs / "forced-tokens.json"
    common = ["--model", args.model, "--forced", str(forced), *passed_on]
    runs: dict[str, list[dict[str, Any]]] = {}
    for round_number in range(args.rounds):
        for name, environment in arms.items():
            start = time.time()
            result = run_arm(environment, common, logs / f"{name}-{round_number}.log")
            print(f"{name} {round_number}: {time.time() - start:.0f} s", flush=True)
            if result is not None:
                runs.setdefault(name, []).append(result)
    baseline = list(runs)[-1]
    document = {
        "model": args.model,
        "arms": arms,
        "summary": summary(runs),
        "agreement_with": baseline,
        "agreement": {
            name: agreement(results[0], runs[baseline][0])
            for name, results in runs.items()
            if name != baseline
        },
        "runs": runs,
    }
    args.out.write_text(json.dumps(document, indent=1))
    print(render(document["summary"]))
    print(json.dumps(document["agreement"], indent=1))


if __name__ == "__main__":
    main()
