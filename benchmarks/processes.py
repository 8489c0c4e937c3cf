# SPDX-License-Identifier: Apache-2.0
"""Arms' processes, one or several at a time, whose results come as they end."""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from benchmarks import arms

POLL_SECONDS = 0.1
Key = TypeVar("Key")


class Process(NamedTuple):
    log: Path
    """Its stem is the process's name; what the script writes to --out is beside it."""
    script: str
    """A file of this folder, or a path."""
    arguments: list[str]
    environment: arms.Environment
    """What it sets besides this process's."""


class Ended(NamedTuple):
    process: Process
    result: Any
    """None: it failed."""
    seconds: float

    def __str__(self) -> str:
        log = self.process.log
        how = f"FAILED, log {log}, " if self.result is None else ""
        return f"{log.stem}: {how}{self.seconds:.0f} s"


def add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs",
        type=positive,
        default=1,
        metavar="N",
        help="engines at a time, on one GPU; 1. Each wants a CPU core or two and some 5 GiB of it",
    )


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a positive integer")
    return int(text)


def run(processes: Mapping[Key, Process], jobs: int = 1) -> Iterator[tuple[Key, Ended]]:
    """As they end, ``jobs`` at a time. A failed one's end of log goes to stderr.

    Whoever stops iterating ends those that run.
    """
    # No threads: a child that is to die with its parent dies with the thread that started it.
    waiting = iter(processes.items())
    running: list[tuple[Key, subprocess.Popen[bytes], float]] = []
    try:
        while True:
            now = time.monotonic()
            ended = [each for each in running if each[1].poll() is not None]
            running = [each for each in running if each not in ended]
            # The next ones start before anyone looks at these results, which may take a while.
            for key, process in itertools.islice(waiting, jobs - len(running)):
                running.append((key, _start(process), time.monotonic()))
            for key, child, start in ended:
                result = _result(processes[key], child.returncode)
                yield key, Ended(processes[key], result, now - start)
            if not running:
                return
            time.sleep(POLL_SECONDS)
    finally:
        for _, child, _ in running:
            child.kill()
            child.wait()


def _out(process: Process) -> Path:
    return process.log.with_suffix(".json")


def _start(process: Process) -> subprocess.Popen[bytes]:
    # -P: this folder's own modules must not shadow an arm's.
    script = str(Path(__file__).parent / process.script)
    command = [sys.executable, "-P", script, *process.arguments, "--out", str(_out(process))]
    with process.log.open("w") as stream:
        return subprocess.Popen(
            command,
            env={**os.environ, **process.environment},
            stdout=stream,
            stderr=subprocess.STDOUT,
            preexec_fn=arms.die_with_parent,
        )


def _result(process: Process, code: int) -> Any:
    if code:
        print(f"{process.log.stem} failed ({code}); {arms.tail(process.log)}", file=sys.stderr)
        return None
    return json.loads(_out(process).read_text())
