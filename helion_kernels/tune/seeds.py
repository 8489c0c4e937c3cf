# SPDX-License-Identifier: Apache-2.0
"""Where a search starts: what is known of this case and of those near it."""

import math
from collections.abc import Sequence
from dataclasses import replace

from helion_kernels import select
from helion_kernels.op import Config
from helion_kernels.tune.cases import Case
from helion_kernels.tune.journal import Journal, Record

BUCKETS = 3
"""Nearest numbers of tokens whose configs are tried again: they are compiled already."""
PER_BUCKET = 4
LIKE = 3
"""Tuned sizes whose configs are tried."""


def seeds(case: Case, journal: Journal, gpu: str, libraries: bool = False) -> list[Config]:
    """Today's choices here and for like sizes, the best of neighbouring buckets, the op's rule, one
    for each other of its kernels, the best that this tuning found for like sizes."""
    op, dims, num_tokens = case.op, case.dims, case.num_tokens
    buckets = [r for r in journal.of(op.name, tuple(dims)) if r.num_tokens != num_tokens]
    buckets.sort(key=lambda record: abs(math.log(record.num_tokens / num_tokens)))
    found = today(case, gpu, libraries)
    for like in _like(case, gpu):
        found += today(like, gpu, libraries)
    found += [config for record in buckets[:BUCKETS] for config, _ in record.times[:PER_BUCKET]]
    found += _of_each_kernel(case)
    if near := nearest_dims(case, list(journal.records.values())):
        found += [config for config, _ in near.times[:PER_BUCKET]]
    return found


def _like(case: Case, gpu: str) -> list[Case]:
    """The case at the tuned sizes that are most like its own.

    2560 x 4096 at one token, after 4 s: 7.1 us, where a GEMV, as like sizes have, takes 3.9 (H200).
    """
    sizes = [dims for dims in select.tuned(case.op, gpu) if dims != tuple(case.dims)]
    sizes.sort(key=lambda dims: select.distance(case.dims, dims))
    near = [dims for dims in sizes[:LIKE] if select.distance(case.dims, dims) < math.inf]
    return [replace(case, dims=case.op.dims(*dims)) for dims in near]


def _of_each_kernel(case: Case) -> list[Config]:
    """The op's rule, and the first in its space of what its rule's kernel does not run."""
    op, dims, num_tokens = case.op, case.dims, case.num_tokens
    found = [op.default_config(dims, num_tokens)]
    for config in op.space(dims, num_tokens):
        if op.kernel_of(config) not in map(op.kernel_of, found):
            found.append(config)
    return found


def today(case: Case, gpu: str, libraries: bool = False) -> list[Config]:
    """What serves the case without this tuning; nothing if it is stock.

    libraries: whether their kernels compile here; first what serves with them, then without.
    """
    found: list[Config] = []
    for packed in (_in_a_pack, _in_no_pack) if libraries else (_in_no_pack,):
        choices = select.choose(case.op, case.dims, case.num_tokens, gpu, packed=packed)
        # Not the last: behind a config that splits stands one for larger batches.
        config = next(choice.config for choice in choices if choice.upto >= case.num_tokens)
        if config is not None and config not in found:
            found.append(config)
    return found


def _in_a_pack(key: str) -> bool:
    return True


def _in_no_pack(key: str) -> bool:
    return False


def nearest_dims(case: Case, records: Sequence[Record]) -> Record | None:
    """The record of other sizes, at the same num_tokens, that are most like the case's."""
    others = [
        (distance, record)
        for record in records
        if (record.op, record.num_tokens) == (case.op.name, case.num_tokens)
        and 0 < (distance := select.distance(case.dims, tuple(record.dims.values()))) < math.inf
    ]
    return min(others, key=lambda item: item[0])[1] if others else None
