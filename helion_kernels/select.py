# SPDX-License-Identifier: Apache-2.0
"""Which config serves an (op, static dims) at which num_tokens, and why.

Tuned configs are data: `configs/<gpu>/<op>.json`, shipped, or the user's under
`$HELION_KERNELS_CONFIG_DIR` (which come first). A file holds `provenance` and `entries`, each:

    {"dims": {"n": 6144, "k": 4096}, "upto": 16, "config": {...} or "stock", "us": 11.4}

`upto` is the largest num_tokens that the entry serves. Order of preference: tuned for these dims,
tuned for the nearest dims, the op's own rule (`Op.default_config`).
"""

import json
import math
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from helion_kernels.op import CONFIG_KEYS, Config, Op

SHIPPED = Path(__file__).parent / "configs"
DEFAULT_BUCKETS = (16, 32, 64, 256)
"""Bounds at which the ops' own rules may change; everything above the last is one bucket."""


class ConfigError(ValueError):
    """A config file cannot be used. The message names the file and the mend."""


@dataclass(frozen=True)
class Choice:
    source: str
    """exact (tuned for these dims), nearest (for similar ones), default (a rule), interpreter."""
    config: Config | None
    """None: stock, or an interpreter that needs none."""
    upto: int
    reason: str

    @property
    def key(self) -> str:
        """Equal for choices that can share a launcher."""
        return "stock" if self.config is None else json.dumps(self.config, sort_keys=True)


def slug(gpu: str) -> str:
    """`NVIDIA H100 80GB HBM3` -> `nvidia_h100`: kernels do not depend on memory or form factor."""
    words = gpu.lower().replace("-", " ").split()
    return "_".join(words[:2])


def choose(
    op: Op,
    dims: tuple[Any, ...],
    max_num_tokens: int,
    gpu: str,
    stock: frozenset[str] = frozenset(),
) -> list[Choice]:
    """One choice per bucket of num_tokens, ascending; the last serves max_num_tokens and beyond.

    Raises ConfigError for a file that is damaged or names a config that the op cannot have.
    """
    entries, source, reason = _tuned(op, dims, slug(gpu))
    if entries:
        choices = [_tuned_choice(op, dims, entry, source, reason, stock) for entry in entries]
    else:
        bounds = (*DEFAULT_BUCKETS, max_num_tokens)
        choices = [
            Choice("default", op.default_config(dims, bound), bound, reason) for bound in bounds
        ]
    return _merge(choices, max_num_tokens)


def _merge(choices: list[Choice], max_num_tokens: int) -> list[Choice]:
    """Join neighbours of one config; end at max_num_tokens."""
    merged: list[Choice] = []
    for choice in sorted(choices, key=lambda choice: choice.upto):
        if merged and merged[-1].key == choice.key:
            merged.pop()
        elif merged and merged[-1].upto >= max_num_tokens:
            break
        merged.append(choice)
    last = merged.pop()
    return [*merged, Choice(last.source, last.config, max(last.upto, max_num_tokens), last.reason)]


def _tuned_choice(
    op: Op,
    dims: tuple[Any, ...],
    entry: dict[str, Any],
    source: str,
    reason: str,
    stock: frozenset[str],
) -> Choice:
    if entry["config"] != "stock":
        return Choice(source, entry["config"], entry["upto"], reason)
    if op.name in stock:
        return Choice(source, None, entry["upto"], f"{reason}: stock is faster here")
    config = op.default_config(dims, entry["upto"])
    return Choice("default", config, entry["upto"], "stock is faster, but there is none here")


def _tuned(op: Op, dims: tuple[Any, ...], gpu: str) -> tuple[list[dict[str, Any]], str, str]:
    """(entries, source, reason): the entries tuned for dims, or for the nearest dims."""
    by_dims: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for directory in (os.environ.get("HELION_KERNELS_CONFIG_DIR"), SHIPPED):
        if directory is None:
            continue
        for key, entries in _load(Path(directory) / gpu / f"{op.name}.json", op).items():
            by_dims.setdefault(key, entries)
    if not by_dims:
        return [], "default", f"no tuned configs for {gpu}"
    if tuple(dims) in by_dims:
        return by_dims[tuple(dims)], "exact", f"tuned on {gpu}"
    nearest = min(by_dims, key=lambda other: _distance(tuple(dims), other))
    if _distance(tuple(dims), nearest) > math.log(2.0):
        return [], "default", f"nothing tuned near {tuple(dims)} on {gpu}"
    return by_dims[nearest], "nearest", f"tuned for {nearest} on {gpu}"


def _distance(a: tuple[Any, ...], b: tuple[Any, ...]) -> float:
    """Largest ratio of two sizes, as a logarithm; a differing flag makes dims incomparable."""
    worst = 0.0
    for x, y in zip(a, b, strict=True):
        if isinstance(x, bool):
            worst = worst if x == y else math.inf
        else:
            worst = max(worst, abs(math.log(x / y)))
    return worst


@cache
def _load(path: Path, op: Op) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    mend = "mend the file, or remove it to run the default configs"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; make it readable, or remove it") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error}); {mend}") from None
    by_dims: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    try:
        for entry in document["entries"]:
            dims, upto = _checked(op, entry)
            by_dims.setdefault(dims, []).append({**entry, "upto": upto})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: not a table of configs for {op.name} ({error!r}); {mend}"
        ) from None
    return by_dims


def _checked(op: Op, entry: dict[str, Any]) -> tuple[tuple[Any, ...], int]:
    """An entry's dims and upto. Raises ValueError and its like if op cannot have its config."""
    dims = op.dims(**entry["dims"])
    upto = int(entry["upto"])
    if upto < 1 or not all(isinstance(x, bool) or (isinstance(x, int) and x > 0) for x in dims):
        raise ValueError(f"dims and upto are positive integers, not {entry['dims']}, {upto}")
    config = entry["config"]
    if config != "stock":
        unknown = sorted(set(config) - CONFIG_KEYS)
        if unknown:
            raise ValueError(f"no such config keys: {', '.join(unknown)}")
        for key, usual in op.default_config(dims, upto).items():
            value = config.get(key, usual)
            if isinstance(usual, list) and len(value) != len(usual):
                raise ValueError(f"{key} has {len(usual)} values here, not {value}")
    return tuple(dims), upto
