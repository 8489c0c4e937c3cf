# SPDX-License-Identifier: Apache-2.0
"""What was measured: a line of JSON for each finished case. Config files are derived from it.

A line is appended in one write, so that a run killed at any moment leaves whole lines and at most
one broken one, which reading skips. A later line for a case replaces the earlier one.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from helion_kernels.op import Config, Op
from helion_kernels.tune.cases import Case
from helion_kernels.tune.device import key

Id = tuple[str, tuple[Any, ...], int]


@dataclass(frozen=True)
class Record:
    """A finished case."""

    op: str
    dims: dict[str, Any]
    num_tokens: int
    times: list[tuple[Config, float]]
    """Configs compared with one another, microseconds, fastest first; empty if none works."""
    stock_us: float | None
    """Where the op has a stock function."""
    floor_us: float
    tried: int
    """Configs of the space that were looked at,"""
    space: int
    """of so many."""
    provenance: dict[str, Any]

    @property
    def id(self) -> Id:
        return self.op, tuple(self.dims.values()), self.num_tokens

    def by_key(self) -> dict[str, float]:
        return {key(config): us for config, us in self.times}


def id_of(case: Case) -> Id:
    return case.op.name, tuple(case.dims), case.num_tokens


class Journal:
    """The records of a folder, by case."""

    def __init__(self, path: Path, valid: Callable[[Record], bool], resume: bool) -> None:
        """Reads the records for which valid holds if resume; otherwise starts anew."""
        self.path = path
        self.records: dict[Id, Record] = {}
        self.broken: set[tuple[str, tuple[Any, ...], str]] = set()
        self.stale: set[Id] = set()
        """Measured with other versions of kernels or tools: they are measured again."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if resume and path.exists():
            self._read(valid)
        else:
            path.unlink(missing_ok=True)

    def add(self, record: Record) -> None:
        self._append(asdict(record))
        self.records[record.id] = record

    def add_broken(self, op: Op, dims: tuple[Any, ...], config: Config) -> None:
        """config leaves the GPU unusable: never run it again."""
        self._append({"broken": config, "op": op.name, "dims": list(dims)})
        self.broken.add((op.name, tuple(dims), key(config)))

    def of(self, op: str, dims: tuple[Any, ...]) -> list[Record]:
        """Ascending in num_tokens."""
        found = [r for r in self.records.values() if (r.op, tuple(r.dims.values())) == (op, dims)]
        return sorted(found, key=lambda record: record.num_tokens)

    def _append(self, document: dict[str, Any]) -> None:
        line = json.dumps(document) + "\n"
        with self.path.open("ab+") as file:
            # A run that was killed may have left a line without its end.
            if file.tell() and not self._ends_line():
                line = "\n" + line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def _ends_line(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"

    def _read(self, valid: Callable[[Record], bool]) -> None:
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                document = json.loads(line)
                if "broken" in document:
                    dims = tuple(document["dims"])
                    self.broken.add((document["op"], dims, key(document["broken"])))
                    continue
                times = [(dict(config), float(us)) for config, us in document.pop("times")]
                record = Record(**document, times=times)
            except (AttributeError, KeyError, TypeError, ValueError):
                continue  # cut off, or damaged: measured again
            if valid(record):
                self.records[record.id] = record
                self.stale.discard(record.id)
            else:
                self.stale.add(record.id)
