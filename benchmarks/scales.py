# SPDX-License-Identifier: Apache-2.0
"""Which block scales keep FP8 nearer to the bf16 model: the checkpoint's, or powers of two?

    python -m benchmarks.scales --out scales.json                 # a GPU: the whole held-out text
    python -m benchmarks.scales --out scales.json --no-engines    # float64 alone; on CPUs too

Upstream rounds the scales of block FP8 up to powers of two for DeepGEMM (UE8M0), those of weights
once and those of activations in every step; we keep the checkpoint's. Each is measured by its
distance to the bf16 model in float64, the mean |difference| of a held-out token's log-probability:

    float64         the quantised model itself, with the checkpoint's scales
    float64-ue8m0   ... with powers of two, weights and activations
    ours            an engine, prefill
    ours-ue8m0      ... with VLLM_HELION_UE8M0=1: weights alone
    stock           upstream's engine, with DeepGEMM where it is; not on CPUs

"further" is how much further than float64 or ours, with its standard error over rows of text.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import texts
from benchmarks.quality import Gate, export, make_task
from benchmarks.reference import Qwen3
from benchmarks.verdicts import estimate, logprobs, perplexity
from helion_kernels.environment import describe

FORM = "fp8-block"
SHAPE = "whole"


def exact_models(gate: Gate) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Log-probabilities [rows, tokens] of the bf16 model, and of the quantised ones, in float64."""
    device = "cuda" if gate.gpu else "cpu"
    rows = gate.task.rows
    target = logprobs(Qwen3(export(gate.work, "bf16"), exact=True, device=device), rows)
    folder = export(gate.work, FORM)
    return target, {
        name: logprobs(Qwen3(folder, exact=True, device=device, ue8m0=rounded), rows)
        for name, rounded in (("float64", False), ("float64-ue8m0", True))
    }


def engines(gate: Gate) -> dict[str, torch.Tensor]:
    """The same of engines, those that ran."""
    folder = export(gate.work, FORM)
    wanted = {
        "ours": gate.process("ours", folder, SHAPE, True, "prefill", VLLM_HELION_UE8M0="0"),
        "ours-ue8m0": gate.process(
            "ours-ue8m0", folder, SHAPE, True, "prefill", VLLM_HELION_UE8M0="1"
        ),
    }
    if gate.gpu:  # Upstream has no block FP8 for CPUs without AMX.
        wanted["stock"] = gate.process("stock", folder, SHAPE, False, "prefill")
    results = gate.results(wanted)
    return {name: torch.tensor(result["prefill"]).double() for name, result in results}


def records(target: torch.Tensor, found: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
    """One for each model: perplexity, distance, and how much further than its baseline it is."""
    distances = {name: (values - target).abs() for name, values in found.items()}
    table = []
    for name, distance in distances.items():
        baseline = "float64" if name.startswith("float64") else "ours"
        record = {"model": name, "ppl": perplexity(found[name]), "distance": float(distance.mean())}
        if name != baseline and baseline in distances:
            further = estimate(distance - distances[baseline])
            record |= {"baseline": baseline, "further": further._asdict()}
        table.append(record)
    return table


def line(record: dict[str, Any]) -> str:
    text = f"{record['model']:<14} {record['ppl']:9.4f} {record['distance']:9.5f}"
    if "further" not in record:
        return text
    mean, error = record["further"]["mean"], record["further"]["error"]
    return f"{text} {mean:+9.5f} ± {error:.5f} than {record['baseline']}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scales",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    parser.add_argument("--no-engines", action="store_true", help="the float64 models alone")
    parser.add_argument("--sample", action="store_true", help="a few rows")
    parser.add_argument("--work", type=Path, help="for checkpoints and logs; default: temporary")
    options = parser.parse_args(arguments)
    work = options.work or Path(tempfile.mkdtemp(prefix="scales-"))
    gate = Gate(make_task(texts.read().rows, options.sample), work.resolve())
    target, found = exact_models(gate)
    if not options.no_engines:
        found |= engines(gate)
    table = records(target, found)
    document: dict[str, Any] = {"environment": describe(), "sample": options.sample}
    document |= {"rows": len(target), "tokens": target.numel(), "ppl_bf16": perplexity(target)}
    document |= {"records": table, "failed_engines": [log.stem for log in gate.failed]}
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"bf16 in float64 {perplexity(target):7.4f}", f"{'model':<14} {'ppl':>9} {'distance':>9}"
          f" {'further':>9}", *map(line, table), sep="\n")  # fmt: skip
    return 1 if gate.failed else 0


if __name__ == "__main__":
    sys.exit(main())
