# SPDX-License-Identifier: Apache-2.0
"""From measurements to the config files that `helion_kernels.select` reads."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helion_kernels import deep_gemm
from helion_kernels.op import Config, Op
from helion_kernels.tune.device import STOCK, key
from helion_kernels.tune.journal import Record
from helion_kernels.tune.merge import segments

STOCK_MARGIN = 0.98
"""Stock is chosen where it needs less than this share of our time: less is noise."""

METHOD = (
    "helion_kernels.tune: seeds, random samples and a local polish over Op.space; outputs checked "
    "against the float64 reference; CUDA graph over buffers that rotate through L2; medians of "
    "interleaved replays"
)


def entries(records: Sequence[Record], method: str = METHOD) -> list[dict[str, Any]]:
    """Entries for one (op, dims), neighbours merged; records ascending in num_tokens.

    `tokens`: the numbers that an entry was measured at. method: how, for its provenance.
    """
    times: dict[int, dict[str, float]] = {}
    configs = {key(STOCK): STOCK}
    for record in records:
        us = record.by_key()
        if record.stock_us is not None:
            us[key(STOCK)] = record.stock_us / STOCK_MARGIN
        if us:
            times[record.num_tokens] = us
        configs |= {key(config): config for config, _ in record.times}
    by_tokens = {record.num_tokens: record for record in records}
    found = []
    below = 0
    for segment in segments(times):
        tokens = [n for n in sorted(times) if below < n <= segment.upto]
        below = segment.upto
        record = by_tokens[segment.upto]
        stock = segment.key == key(STOCK)
        took = times[segment.upto][segment.key] * (STOCK_MARGIN if stock else 1.0)
        config = "stock" if stock else configs[segment.key]
        found.append(
            {
                "dims": record.dims,
                "upto": segment.upto,
                "tokens": tokens,
                "config": config,
                **_instead(config, times[segment.upto], configs),
                "us": round(took, 2),
                "floor_us": round(record.floor_us, 2),
                "share_of_floor": round(record.floor_us / took, 3),
                **({} if record.stock_us is None else {"stock_us": round(record.stock_us, 2)}),
                "provenance": {
                    **record.provenance,
                    "tried": f"{record.tried} of {record.space}",
                    "method": method,
                },
            }
        )
    return found


def _instead(
    config: Config | str, us: dict[str, float], configs: dict[str, Config]
) -> dict[str, Any]:
    """The fastest of ours and stock, for where no pack has the library's."""
    others = {k: t for k, t in us.items() if not deep_gemm.names(configs[k])}
    if not deep_gemm.names(config) or not others:
        return {}
    best = min(sorted(others), key=others.__getitem__)
    return {"instead": "stock" if best == key(STOCK) else configs[best]}


def save(path: Path, op: Op, records: Sequence[Record], method: str = METHOD) -> None:
    """Put the entries of one (op, dims) into the file, atomically.

    They replace what the file has for these dims between the smallest and the largest num_tokens
    measured; beyond, what was there stays, and what served half the smallest still does. Raises
    ValueError for a file that is no table.
    """
    new = entries(records, method)
    if not new:
        return
    low, high = records[0].num_tokens, new[-1]["upto"]
    try:
        document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        old = list(document.get("entries", []))
        # By what they mean: an older file may lack a dimension that has a default.
        dims = op.dims(**records[0].dims)
        mine = [e for e in old if op.dims(**e["dims"]) == dims]
        kept = [e for e in old if e not in mine or not low <= int(e["upto"]) <= high]
        kept += _below(low, mine)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not a table of configs ({error!r}); mend or remove the file"
        ) from None
    if shared := document.get("provenance"):  # files of before 0.2 have one for all entries
        kept = [{**entry, "provenance": entry.get("provenance", shared)} for entry in kept]
    ordered = sorted(kept + new, key=lambda entry: (list(entry["dims"].values()), entry["upto"]))
    write(path, ordered)


def _below(low: int, old: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What served low // 2 tokens, if it served low, too; cut off there.

    Not what this tuning has written itself, which was measured from low on.
    """
    half = low // 2
    serving = min((e for e in old if e["upto"] >= half), key=lambda e: e["upto"], default=None)
    if serving is None or serving["upto"] < low or min(serving.get("tokens", [1])) > half:
        return []
    return [{**serving, "upto": half}] if half else []


def write(path: Path, found: Sequence[dict[str, Any]]) -> None:
    """A line for each entry, so that a diff names what changed."""
    lines = ",\n  ".join(json.dumps(entry) for entry in found)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(f'{{"entries": [\n  {lines}\n ]}}\n', encoding="utf-8")
    partial.replace(path)
