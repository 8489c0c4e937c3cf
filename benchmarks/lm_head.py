# SPDX-License-Identifier: Apache-2.0
"""What an lm_head in FP8 costs (VLLM_HELION_FP8_LM_HEAD=1), in float64; on CPUs too.

    python -m benchmarks.lm_head --out lm-head.json

For both FP8 formats: the distance of held-out tokens' log-probabilities from the bf16 model with
the lm_head in bf16, as checkpoints have it, and in FP8; "further" is what the second adds, with its
standard error over rows of text. "same" is the share of tokens whose best successor stays.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import texts
from benchmarks.quality import FORMATS, export, make_task
from benchmarks.reference import Linear, Qwen3
from benchmarks.scales import line, records
from benchmarks.verdicts import logprobs, of_row, perplexity
from helion_kernels.environment import describe


def predictions(
    model: Qwen3, heads: list[Linear], rows: list[list[int]]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """By lm_head: log-probabilities of the rows' tokens but the first, and the best tokens, both
    [rows, tokens - 1]. The layers before it run once for all."""
    found: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in heads]
    for row in rows:
        hidden = model.hidden(row)
        for head, of_head in zip(heads, found, strict=True):
            logits = head(hidden)
            of_head.append((of_row(logits, row), logits[:-1].argmax(-1).cpu()))
    return [(torch.stack([p for p, _ in of]), torch.stack([b for _, b in of])) for of in found]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lm_head",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    parser.add_argument("--sample", action="store_true", help="a few rows")
    parser.add_argument("--work", type=Path, help="for checkpoints; default: temporary")
    options = parser.parse_args(arguments)
    work = (options.work or Path(tempfile.mkdtemp(prefix="lm-head-"))).resolve()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = make_task(texts.read().rows, options.sample).rows
    target = logprobs(Qwen3(export(work, "bf16"), exact=True, device=device), rows)
    document: dict[str, Any] = {"environment": describe(), "sample": options.sample}
    document |= {"rows": len(rows), "tokens": target.numel(), "ppl_bf16": perplexity(target)}
    document["records"] = []
    print(f"bf16 in float64 {perplexity(target):7.4f}", flush=True)
    for form in FORMATS:
        folder = export(work, form)
        model = Qwen3(folder, exact=True, device=device)
        fp8 = Qwen3(folder, exact=True, device=device, fp8_lm_head=True)
        (kept, best), (quantised, best_too) = predictions(model, [model.head, fp8.head], rows)
        same = float((best == best_too).double().mean())
        for record in records(target, {"float64": kept, "float64-fp8-lm-head": quantised}):
            document["records"].append({"format": form, **record})
            print(f"{form:<10} {line(record)}", flush=True)
        document["records"][-1]["same"] = same
        print(f"{form:<10} the best token stays in {same:.2%}", flush=True)
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
