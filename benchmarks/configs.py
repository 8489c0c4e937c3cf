# SPDX-License-Identifier: Apache-2.0
"""Files of tuned configs, in the format that `helion_kernels.select` reads."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from helion_kernels.op import Op

STOCK_MARGIN = 0.98
"""Stock is chosen where it needs less than this share of our time: less is noise."""


@dataclass(frozen=True)
class Found:
    """The best of a bucket."""

    upto: int
    config: dict[str, Any] | str
    us: float

    def or_stock(self, arms: dict[str, float]) -> "Found":
        """Stock in this one's place where it is faster by more than noise."""
        fastest = min(arms.values(), default=float("inf"))
        if fastest < STOCK_MARGIN * self.us:
            return Found(self.upto, "stock", fastest)
        return self


def merge(found: Sequence[Found]) -> list[Found]:
    """One entry for neighbouring buckets of the same config, ascending."""
    merged: list[Found] = []
    for item in sorted(found, key=lambda item: item.upto):
        if merged and merged[-1].config == item.config:
            merged[-1] = replace(item)
        else:
            merged.append(item)
    return merged


def save(
    path: Path, op: Op, dims: tuple[Any, ...], found: Sequence[Found], provenance: dict[str, Any]
) -> None:
    """Put the entries of (op, dims) into the file, in place of those that it has for dims."""
    named = dict(zip(op.dims._fields, dims, strict=True))  # type: ignore[attr-defined]
    document = json.loads(path.read_text()) if path.exists() else {"entries": []}
    kept = [entry for entry in document["entries"] if entry["dims"] != named]
    new = [
        {"dims": named, "upto": item.upto, "config": item.config, "us": round(item.us, 2)}
        for item in found
    ]
    entries = sorted(kept + new, key=lambda entry: (list(entry["dims"].values()), entry["upto"]))
    lines = ",\n  ".join(json.dumps(entry) for entry in entries)
    text = f'{{"provenance": {json.dumps(provenance)},\n "entries": [\n  {lines}\n ]}}\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)
