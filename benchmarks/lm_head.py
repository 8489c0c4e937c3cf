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
from benchmarks.reference import Qwen3
from benchmarks.scales import line, records
from benchmarks.verdicts import perplexity
from helion_kernels.environment import describe


def predictions(model: Qwen3, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the rows' tokens but the first, and the best tokens: [rows, tokens]."""
    found, best = [], []
    for row in rows:
        logits = model.logits(row)[:-1]
        follow = torch.tensor(row[1:], device=logits.device).unsqueeze(1)
        found.append(logits.log_softmax(-1).gather(1, follow).squeeze(1).cpu())
        best.append(logits.argmax(-1).cpu())
    return torch.stack(found), torch.stack(best)


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
    target, _ = predictions(Qwen3(export(work, "bf16"), exact=True, device=device), rows)
    document: dict[str, Any] = {"environment": describe(), "sample": options.sample}
    document |= {"rows": len(rows), "tokens": target.numel(), "ppl_bf16": perplexity(target)}
    document["records"] = []
    print(f"bf16 in float64 {perplexity(target):7.4f}", flush=True)
    for form in FORMATS:
        folder = export(work, form)
        kept, best = predictions(Qwen3(folder, exact=True, device=device), rows)
        quantised, best_too = predictions(
            Qwen3(folder, exact=True, device=device, fp8_lm_head=True), rows
        )
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
