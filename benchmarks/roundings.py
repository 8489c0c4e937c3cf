# SPDX-License-Identifier: Apache-2.0
"""What each rounding to bf16 costs the trained tiny Qwen3: one left out, or added, at a time.

    python -m benchmarks.roundings --out roundings.json --text FILE    # a GPU: 3 s for each of 20
    python -m benchmarks.roundings --out roundings.json --rows 16      # a CPU

The model in float32, rounded where the served one is (`reference.SERVED`), logits too; the mean
distance of a token's log-probability from float64, and how far that moves when a place is left out
("-rope") or one where upstream's kernels round is added ("+norm"), with its standard error over
rows of text. "none" is float32 without any: e4m3 turns the last bit of its input into another step.
"+groups" is what few tokens get (`reference.GROUPS`), "upstream" all of what upstream's kernels
round. The last column is the distance from the model that was not quantised.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import record, texts
from benchmarks.quality import FORMATS, export
from benchmarks.reference import EXACT, GROUPS, SERVED, UPSTREAM, Qwen3
from benchmarks.verdicts import estimate, logprobs
from helion_kernels.environment import describe

USUAL = SERVED | {"logits"}


def variants(form: str) -> dict[str, frozenset[str]]:
    """Name -> places that are rounded, of a model in one of FORMATS."""
    found = {"served": USUAL, "none": EXACT, "float32 logits": SERVED}
    found["upstream"] = USUAL | UPSTREAM
    if form == "fp8-token":
        found["+groups"] = USUAL | {GROUPS}
    found |= {f"-{place}": USUAL - {place} for place in sorted(SERVED)}
    return found | {f"+{place}": USUAL | {place} for place in sorted(UPSTREAM - USUAL)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.roundings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    parser.add_argument("--text", type=Path, default=texts.HELD_OUT, help="as benchmarks.quality's")
    parser.add_argument("--rows", type=int, metavar="N", help="only the first N rows of the text")
    parser.add_argument("--work", type=Path, help="for checkpoints; default: temporary")
    options = parser.parse_args(arguments)
    try:
        text = texts.read(options.text, options.rows)
    except ValueError as error:
        print(error)
        return 2
    work = (options.work or Path(tempfile.mkdtemp(prefix="roundings-"))).resolve()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    document: dict[str, Any] = {"environment": describe(), "text": text.record, "records": []}
    bf16 = logprobs(Qwen3(export(work, "bf16"), exact=True, device=device), text.rows)
    for form in FORMATS:
        folder = export(work, form)
        exact = logprobs(Qwen3(folder, exact=True, device=device), text.rows)
        usual = torch.tensor(0.0)
        for name, places in variants(form).items():
            model = Qwen3(folder, device=device, rounded=places)
            found = logprobs(model, text.rows)
            distance = (found - exact).abs()
            usual = distance if name == "served" else usual
            moved = estimate(distance - usual)._asdict()
            entry = {"format": form, "variant": name, "distance": float(distance.mean())}
            from_bf16 = float((found - bf16).abs().mean())
            document["records"].append({**entry, "moved": moved, "distance_bf16": from_bf16})
            print(
                f"{form:<10} {name:<20} {entry['distance']:.5f} {moved['mean']:+.5f} ± "
                f"{moved['error']:.5f} {from_bf16:.5f}",
                flush=True,
            )
    record.write(options.out, document)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
