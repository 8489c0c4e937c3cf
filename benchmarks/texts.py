# SPDX-License-Identifier: Apache-2.0
"""Held-out text for the trained tiny model, and what tells one text from another."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

EXAMPLE = Path(__file__).resolve().parents[1] / "examples/tiny_qwen3"
HELD_OUT = EXAMPLE / "model/heldout.safetensors"
LENGTH = 512


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Text(NamedTuple):
    rows: list[list[int]]
    name: str
    sha256: str
    """Of the whole file, of which these may be the first rows."""

    @property
    def record(self) -> dict[str, Any]:
        """For result files: numbers of other text are not to be mixed with these."""
        return {"name": self.name, "rows": len(self.rows), "sha256": self.sha256}


def read(path: Path = HELD_OUT, count: int | None = None) -> Text:
    """The first ``count`` rows of a file, or all.

    Raises ValueError, in a line, for a file that is not one of tokens of the model's tokenizer: of
    any other, perplexities would mean nothing.
    """
    try:
        with safe_open(path, "pt") as file:
            made_with = (file.metadata() or {}).get("tokenizer")
            tokens = file.get_tensor("tokens")
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: {error}") from None
    if tokens.dim() != 2 or tokens.shape[1] != LENGTH or tokens.is_floating_point():
        raise ValueError(f"{path}: tokens must be integers [rows, {LENGTH}]")
    if made_with != digest(EXAMPLE / "model/tokenizer.json"):
        raise ValueError(f"{path}: its tokens are not of model/tokenizer.json; more_text.py's are")
    rows = tokens[:count].tolist()
    if len(rows) < 2:
        raise ValueError(f"{path}: {len(rows)} rows, of which no doubt can be told")
    return Text(rows, path.name, digest(path))
