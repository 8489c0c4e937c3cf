# SPDX-License-Identifier: Apache-2.0
"""Arms of a comparison, each a vllm installation or setting, whose processes take turns.

Results are in a file that is written after every process and can be continued (`record`): machine
time comes in pieces.
"""

import argparse
import ctypes
import multiprocessing
import signal
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks import record
from helion_kernels.environment import describe

Environment = dict[str, str]
"""What an arm sets besides this process's environment."""
_PR_SET_PDEATHSIG = 1


def parse_arm(text: str) -> tuple[str, Environment]:
    """`name:KEY=VALUE,KEY=VALUE` -> (name, environment)."""
    name, _, settings = text.partition(":")
    pairs = [setting.partition("=") for setting in settings.split(",") if setting]
    if not name or not all(key and equals for key, equals, _ in pairs):
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME or NAME:KEY=VALUE,KEY=VALUE")
    return name, {key: value for key, _, value in pairs}


def counts(text: str) -> list[int]:
    """Positive integers, separated by commas."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: positive integers, separated by commas")
    return list(dict.fromkeys(found))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, help="a checkpoint: folder or name")
    add(
        "--arm",
        action="append",
        required=True,
        type=parse_arm,
        metavar="NAME:KEY=VALUE,...",
        help="a name and what it sets in the environment; the baseline last",
    )
    add("--rounds", type=int, default=1, help="processes of each arm; 1")
    add("--out", type=Path, required=True, help="JSON, written as it goes")
    add("--resume", action="store_true", help="continue --out: run only what it lacks")
    add("--logs", type=Path, help="folder of the processes' logs; default: a temporary one")


def begin(options: argparse.Namespace, **settings: Any) -> dict[str, Any]:
    """The document of a comparison: a new one, or that of `--out` to be continued.

    settings: what makes two runs incomparable, besides model, arms and GPU. Raises ValueError, in a
    line, for a file that cannot be continued.
    """
    arms = dict(options.arm)
    if len(arms) < len(options.arm):
        raise ValueError("--arm: two arms of one name")
    options.logs = Path(options.logs or tempfile.mkdtemp(prefix="benchmark-")).resolve()
    options.logs.mkdir(parents=True, exist_ok=True)
    environment = describe_apart()
    settings = {"model": options.model, "arms": arms, "gpu": environment["gpu"], **settings}
    document = record.resume(options.out, settings) if options.resume else None
    if document is None:
        return {"environment": environment, **settings, "runs": {name: [] for name in arms}}
    document.setdefault("resumed", []).append(environment)
    return document


def turns(options: argparse.Namespace) -> Iterator[tuple[int, str, Environment]]:
    """(process, arm, environment): a process of every arm, then the next of every arm."""
    for number in range(options.rounds):
        for name, environment in options.arm:
            yield number, name, environment


def baseline(document: dict[str, Any]) -> str | None:
    """The last arm that was measured."""
    measured = [name for name, runs in document["runs"].items() if runs]
    return measured[-1] if measured else None


def describe_apart() -> dict[str, Any]:
    """`describe` in a process that ends: asking for the GPU's name may keep memory on it."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(describe).result()


def exit_on_signals() -> None:
    """Let SIGTERM and SIGHUP unwind this process, so that what it started is ended too."""

    def leave(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # once: what is being ended is not to be interrupted
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


def die_with_parent() -> None:
    """For a child, before it runs: SIGTERM when its parent is gone, however it went."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def tail(log: Path, lines: int = 30) -> str:
    """The end of a log, or that there is none."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"{log}: {error.strerror}"
    return "\n".join([f"the end of {log}:", *text.splitlines()[-lines:]])
