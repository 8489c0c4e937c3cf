# SPDX-License-Identifier: Apache-2.0
"""Write the trained tiny Qwen3 as checkpoints that vLLM serves: nothing is downloaded."""

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path

from checkpoint import FORMATS, write
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer

MODEL = Path(__file__).resolve().parent / "model"

EPILOG = """\
formats, each a folder of its own below --out:
  bf16       tiny-qwen3              as trained
  fp8-token  tiny-qwen3-FP8-dynamic  compressed-tensors: a scale per weight row, and per token
  fp8-block  tiny-qwen3-FP8          Qwen's own: a scale per 128 x 128 weights, per 128 of a token

The repository holds the bf16 weights (model/); the others are made from them, the same bytes on
every machine, checked against model/sha256.json.

examples:
  python examples/tiny_qwen3/export.py
  vllm serve tiny-qwen3/tiny-qwen3-FP8 --max-model-len 512
  vllm chat --model-name tiny-qwen3/tiny-qwen3-FP8
  python examples/tiny_qwen3/export.py --install run   # put what train.py wrote into model/
"""


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def quantised(out: Path, form: str) -> Path:
    """Write the checkpoint of one format below ``out``; its folder."""
    weights = MODEL / "model.safetensors"
    with safe_open(weights, "pt") as file:
        if file.metadata()["tokenizer"] != digest(MODEL / "tokenizer.json"):
            sys.exit(f"export.py: {weights} was trained with another tokenizer; train it again")
    folder = out / FORMATS[form][0]
    write(folder, form, load_file(weights), Tokenizer.from_file(str(MODEL / "tokenizer.json")))
    return folder


def export(out: Path, form: str) -> Path:
    """As ``quantised``, and the weights' hash must be the recorded one; SystemExit if not."""
    folder = quantised(out, form)
    found = digest(folder / "model.safetensors")
    expected = json.loads((MODEL / "sha256.json").read_text("utf-8"))[form]
    if found != expected:
        sys.exit(
            f"export.py: {form} weights have sha256 {found}, model/sha256.json says {expected}: "
            "git checkout examples/tiny_qwen3/model brings back the published ones"
        )
    return folder


def install(run: Path, out: Path) -> None:
    """Make the weights that train.py wrote to ``run`` the published ones."""
    shutil.copy(run / "model.safetensors", MODEL)
    shutil.copy(run / "loss.json", MODEL)
    if (run / "loss.png").exists():
        shutil.copy(run / "loss.png", MODEL)
    hashes = {form: digest(quantised(out, form) / "model.safetensors") for form in FORMATS}
    (MODEL / "sha256.json").write_text(json.dumps(hashes, indent=2) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("tiny-qwen3"), metavar="DIR", help="default: tiny-qwen3"
    )
    parser.add_argument(
        "--format", choices=FORMATS, action="append", help="may be repeated; default: all"
    )
    parser.add_argument("--install", type=Path, metavar="RUN", help="what train.py wrote to --out")
    options = parser.parse_args()
    if options.install:
        install(options.install, options.out)
    for form in options.format or FORMATS:
        print(export(options.out, form))


if __name__ == "__main__":
    main()
