# SPDX-License-Identifier: Apache-2.0
"""Which config serves an (op, static dims) at which num_tokens, and why.

Tuned configs are data (`config_file.py`): `configs/<gpu>/<op>.json`, shipped, or the user's under
`$HELION_KERNELS_CONFIG_DIR`. Order of preference: the user's for these dims, the shipped ones, the
same of the nearest GPUs, those of the nearest dims, the op's own rule (`Op.default_config`). Each
serves what the ones before it end below.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from helion_kernels import config_file, deep_gemm
from helion_kernels.config_file import ConfigError as ConfigError
from helion_kernels.op import Config, Op

SHIPPED = Path(__file__).parent / "configs"
SATURATED = 2048
"""A config tuned for so many tokens serves any number beyond: the GPU is full."""
UNBOUNDED = 1 << 20
"""More tokens than a step has."""
DECODING = 64
"""Most steps of a server decode for no more sequences than this."""
RELATIVES = (
    ("h100", "h800", "h20", "h200", "gh200", "b100", "b200", "gb200", "b300", "gb300"),
    ("l4", "l20", "l40", "l40s"),
)
"""GPUs in the order of their architectures, by shared memory (227 and 99 KiB for a block), which
decides whether a config fits at all."""


@dataclass(frozen=True)
class Choice:
    source: str
    """exact (tuned for these dims here), related (for them on a GPU like this), nearest (for dims
    like these), default (a rule), interpreter."""
    config: Config | None
    """None: stock, or an interpreter that needs none."""
    upto: int
    reason: str

    @property
    def key(self) -> str:
        """Equal for choices that can share a launcher."""
        return key_of(self.config)


def key_of(config: Config | None) -> str:
    """Equal for equal configs; None is stock."""
    return "stock" if config is None else json.dumps(config, sort_keys=True)


@dataclass(frozen=True)
class _Layer:
    """Entries of one (op, dims), and where they come from."""

    source: str
    reason: str
    entries: list[dict[str, Any]]


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
    invariant: bool = False,
    packed: Callable[[str], bool] = lambda key: False,
) -> list[Choice]:
    """One choice per bucket of num_tokens, ascending; the last serves max_num_tokens and beyond.

    packed: whether a pack has the config of that `Choice.key`. invariant: one for all, so that a
    token's bits do not depend on how many share its step. Raises ConfigError for a file that is
    damaged or names a config that the op cannot have.
    """
    if invariant:
        return [_one_for_all(op, dims, max_num_tokens, gpu)]
    choices = _choose(op, dims, max_num_tokens, gpu, stock, packed)
    last = choices[-1]
    if last.config is not None and not op.serves(dims, last.config, UNBOUNDED):
        # The last bucket serves every number beyond, and this config must not meet them.
        why = f"{last.reason}: for {last.upto} tokens at most"
        rule = op.default_config(dims, UNBOUNDED)
        choices.append(Choice("default", rule, last.upto + 1, why))
    return choices


def _one_for_all(op: Op, dims: tuple[Any, ...], max_num_tokens: int, gpu: str) -> Choice:
    """Of the configs that may serve any num_tokens, the one that most decode steps would have.

    A config fixes the order of every sum. None is stock: CUTLASS chooses by num_tokens, and what
    upstream puts in its place for batch invariance is not the kernel that was timed.
    """
    found: list[tuple[int, int, Choice]] = []
    lower = 1
    for choice in choose(op, dims, UNBOUNDED, gpu):
        if choice.config is not None and op.serves(dims, choice.config, UNBOUNDED):
            found.append((min(choice.upto, DECODING) - lower + 1, lower, choice))
        lower = choice.upto + 1
    _, lower, best = max(found, key=lambda item: item[0])
    bucket = f"{lower}+" if best.upto >= UNBOUNDED else f"{lower}-{best.upto}"
    why = f"batch invariance: one config for all, that of {bucket} tokens; {best.reason}"
    return Choice(best.source, best.config, max_num_tokens, why)


def _choose(
    op: Op,
    dims: tuple[Any, ...],
    max_num_tokens: int,
    gpu: str,
    stock: frozenset[str],
    packed: Callable[[str], bool],
) -> list[Choice]:
    choices: list[Choice] = []
    served = 0
    for place, layer in enumerate(_layers(op, tuple(dims), slug(gpu))):
        for entry in _ascending(layer):
            if entry["upto"] > served:
                if _first(entry) > served:
                    others = islice(_layers(op, tuple(dims), slug(gpu)), place + 1, None)
                    choices += _below(op, dims, served, _first(entry), others, stock, packed)
                choices += _tuned(op, dims, served, entry, layer, stock, packed)
                served = entry["upto"]
        if served >= min(max_num_tokens, SATURATED):
            return _merge(choices, max_num_tokens)
    why = "nothing tuned for such sizes" if not served else f"tuned for up to {served} tokens only"
    choices += _by_rule(op, dims, served, max_num_tokens, f"{why} on {slug(gpu)}", packed)
    return _merge(choices, max_num_tokens)


def _ascending(layer: _Layer) -> list[dict[str, Any]]:
    return sorted(layer.entries, key=lambda entry: entry["upto"])


def _first(entry: dict[str, Any]) -> int:
    """An entry knows nothing of so many tokens, or fewer; 0 where it does not say."""
    return min(entry.get("tokens", [0])) // 2


def _below(
    op: Op,
    dims: tuple[Any, ...],
    served: int,
    upto: int,
    layers: Iterable[_Layer],
    stock: frozenset[str],
    packed: Callable[[str], bool],
) -> list[Choice]:
    """What layers have for more than `served` tokens and up to `upto`; all of it, or its beginning.

    An entry measured for more tokens serves the rest.
    """
    found: list[Choice] = []
    for layer in layers:
        for entry in _ascending(layer):
            if _first(entry) <= served < min(entry["upto"], upto):
                bounded = {**entry, "upto": min(entry["upto"], upto)}
                found += _tuned(op, dims, served, bounded, layer, stock, packed)
                served = bounded["upto"]
    return found


def _by_rule(
    op: Op,
    dims: tuple[Any, ...],
    served: int,
    upto: int,
    why: str,
    packed: Callable[[str], bool],
) -> list[Choice]:
    """The op's own rule, for more than `served` tokens; all above its buckets are one."""

    def config(bound: int) -> Config:
        library = op.library(dims, bound)
        return library if library and packed(key_of(library)) else op.default_config(dims, bound)

    bounds = [bound for bound in (*op.buckets, upto) if served < bound <= upto]
    return [Choice("default", config(bound), bound, why) for bound in bounds]


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


def _tuned(
    op: Op,
    dims: tuple[Any, ...],
    served: int,
    entry: dict[str, Any],
    layer: _Layer,
    stock: frozenset[str],
    packed: Callable[[str], bool],
) -> list[Choice]:
    config, upto = entry["config"], entry["upto"]
    if deep_gemm.names(config) and layer.source == "nearest":
        config = op.library(dims, upto) or config  # Other sizes fill the GPU with another tile.
    if deep_gemm.names(config) and not packed(key_of(config)):
        config = entry.get("instead", "stock")
    if config != "stock":
        if op.serves(dims, config, upto):
            return [Choice(layer.source, config, upto, layer.reason)]
        # Of other dims, whose sizes it was checked for.
        return _by_rule(op, dims, served, upto, f"{layer.reason}: no room for these sizes", packed)
    if op.name in stock:
        return [Choice(layer.source, None, upto, f"{layer.reason}: stock is faster here")]
    return _by_rule(op, dims, served, upto, "stock is faster, but not to be had", packed)


def _layers(op: Op, dims: tuple[Any, ...], gpu: str) -> Iterator[_Layer]:
    """The best source first: these sizes on this GPU, on related ones, then sizes like these.

    Sizes decide more than bandwidth does, for they say how many programs fill the GPU. H200, what
    sizes of H100 most like these cost over a search of their own: 14 % for Qwen3-14B's GEMMs, up to
    twofold, as 5120 / 64 tiles no longer fit 132 multiprocessors (docs/performance-log.md).
    """
    roots = _roots()
    related = _related_gpus(gpu, roots)
    notes = {gpu: "", **dict.fromkeys(related, ", the nearest GPU with configs")}

    def tables(name: str) -> list[dict[tuple[Any, ...], list[dict[str, Any]]]]:
        # When a layer is asked for: most models need no other GPU's files.
        return [config_file.load(root / name / f"{op.name}.json", op) for root in roots]

    for name, note in notes.items():
        for table in tables(name):
            if dims in table:
                yield _Layer("related" if note else "exact", f"tuned on {name}{note}", table[dims])
    for name, note in notes.items():
        near = sorted({other for table in tables(name) for other in table if other != dims})
        nearest = min(near, key=lambda other: distance(dims, other), default=None)
        if nearest is not None and distance(dims, nearest) <= math.log(2.0):
            reason = f"tuned for {nearest} on {name}{note}"
            for table in tables(name):
                if nearest in table:
                    yield _Layer("nearest", reason, table[nearest])


def tuned(op: Op, gpu: str) -> list[tuple[Any, ...]]:
    """Sizes of op that something is tuned for, on gpu or on one like it."""
    name, roots = slug(gpu), _roots()
    files = [
        root / each / f"{op.name}.json"
        for each in (name, *_related_gpus(name, roots))
        for root in roots
    ]
    return list(dict.fromkeys(dims for path in files for dims in config_file.load(path, op)))


def _roots() -> list[Path]:
    """Folders of configs, the user's first."""
    mine = os.environ.get("HELION_KERNELS_CONFIG_DIR")
    return [Path(root) for root in (mine, SHIPPED) if root]


def _related_gpus(gpu: str, roots: Iterable[Path]) -> list[str]:
    """GPUs with folders of configs that fit gpu, the nearest architecture first."""
    have = {path.name for root in roots for path in root.glob("*")}
    for family in ([f"nvidia_{name}" for name in names] for names in RELATIVES):
        if gpu in family:
            place = family.index(gpu)
            others = [name for name in family if name in have and name != gpu]
            return sorted(others, key=lambda name: abs(family.index(name) - place))
    return []


def distance(a: tuple[Any, ...], b: tuple[Any, ...]) -> float:
    """Largest ratio of two sizes, as a logarithm; a differing flag makes dims incomparable."""
    worst = 0.0
    for x, y in zip(a, b, strict=True):
        if isinstance(x, bool):
            worst = worst if x == y else math.inf
        else:
            worst = max(worst, abs(math.log(x / y)))
    return worst
