# SPDX-License-Identifier: Apache-2.0
"""Files of tuned configs, `configs/<gpu>/<op>.json`: what they may hold.

    {"entries": [{"dims": {"n": 6144, "k": 4096}, "upto": 16, "config": {...}, "us": 11.4, ...}]}

`upto` is the largest num_tokens that the entry serves, and half the least of `tokens`, where it
was measured, the largest that others serve better. `config` is Helion's, "stock", or a library's
(`deep_gemm.py`), which serves where a pack has it, elsewhere `instead` does. What else an entry
holds is its provenance (`tune.entries`).
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from helion_kernels import deep_gemm
from helion_kernels.op import CONFIG_KEYS, Config, Op


class ConfigError(ValueError):
    """A config file cannot be used. The message names the file and the mend."""


@cache
def load(path: Path, op: Op) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Entries of op's file by dims; none if there is no file. Raises ConfigError."""
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
            dims, upto = checked(op, entry)
            by_dims.setdefault(dims, []).append({**entry, "upto": upto})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: not a table of configs for {op.name} ({error!r}); {mend}"
        ) from None
    return by_dims


def checked(op: Op, entry: dict[str, Any]) -> tuple[tuple[Any, ...], int]:
    """An entry's dims and upto. Raises ValueError and its like if op cannot have its config."""
    dims = op.dims(**entry["dims"])
    upto = int(entry["upto"])
    if upto < 1 or not all(isinstance(x, bool) or (isinstance(x, int) and x > 0) for x in dims):
        raise ValueError(f"dims and upto are positive integers, not {entry['dims']}, {upto}")
    tokens = entry.get("tokens", [1])
    if not tokens or not all(type(n) is int and n > 0 for n in tokens):
        raise ValueError(f"tokens are positive integers, not {tokens}")
    _check(op, dims, upto, entry["config"])
    if deep_gemm.names(instead := entry.get("instead", "stock")):
        raise ValueError("a library's config instead of a library's")
    _check(op, dims, upto, instead)
    return tuple(dims), upto


def _check(op: Op, dims: Any, upto: int, config: Config | str) -> None:
    if not isinstance(config, dict):
        if config != "stock":
            raise ValueError(f"a config or stock, not {config!r}")
        return
    if deep_gemm.names(config):
        deep_gemm.tile_of(config)
        if op.name != deep_gemm.OP:
            raise ValueError(f"{deep_gemm.KEY} is for {deep_gemm.OP}")
    else:
        unknown = sorted(set(config) - CONFIG_KEYS)
        if unknown:
            raise ValueError(f"no such config keys: {', '.join(unknown)}")
        for key, usual in _like(op, dims, upto, config).items():
            value: Any = config.get(key, usual)
            if isinstance(usual, list) and len(value) != len(usual):
                raise ValueError(f"{key} has {len(usual)} values here, not {value}")
    if not op.serves(dims, config, upto):
        raise ValueError(f"a config that cannot serve {upto} tokens: {config}")


_SOUND: dict[Any, Config] = {}
"""A config of each kernel that no rule gives: spaces take half a millisecond to list."""


def _like(op: Op, dims: Any, upto: int, config: Config) -> Config:
    """A config that is sound, of the same of op's kernels if there is one."""
    rule = op.default_config(dims, upto)
    kernel = op.kernel_of(config)
    if op.kernel_of(rule) is kernel:
        return rule
    if kernel not in _SOUND:
        space = (c for num_tokens in (upto, 1) for c in op.space(dims, num_tokens))
        found = next((c for c in space if op.kernel_of(c) is kernel), None)
        if found is None:
            return rule
        _SOUND[kernel] = found
    return _SOUND[kernel]
