# SPDX-License-Identifier: Apache-2.0
"""Progress on stderr: one line per step, with what it handled and how long it took."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(step: str, detail: str) -> None:
    """Print one line of progress."""
    print(f"vllm-helion: {step:<8} {detail}", file=sys.stderr, flush=True)


def megabytes(size: int) -> str:
    """A size as people read it; 1 MB is 10^6 bytes, as pip counts."""
    return f"{size / 1e6:.1f} MB"


@contextmanager
def step(name: str) -> Iterator[list[str]]:
    """Time a step; what the caller appends to the list yielded becomes the line's detail."""
    start = time.monotonic()
    details: list[str] = []
    yield details
    say(name, f"{', '.join(details)}  [{time.monotonic() - start:.1f} s]")
