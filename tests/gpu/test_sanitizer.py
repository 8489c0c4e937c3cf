# SPDX-License-Identifier: Apache-2.0
"""compute-sanitizer over launches of every op: no access out of bounds, no shared memory race."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from helion_kernels import OPS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TOOLS = {
    # What lies beside a tensor belongs to no other. Libraries probe the driver: calls may fail.
    "memcheck": ["--padding", "1024", "--report-api-errors", "no"],
    "racecheck": [],
}
FOUND = 9
"""Exit status for a finding."""
AT_ONCE = max(4, (os.cpu_count() or 4) // 2)
"""Each takes a core and a few hundred megabytes of the GPU; most of its time is the watching."""
Result = subprocess.CompletedProcess[str]


def sanitizer() -> str | None:
    usual = "/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer"
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=usual)


def watch(program: str, tool: str, name: str) -> Result:
    command = [program, "--tool", tool, *TOOLS[tool], "--error-exitcode", str(FOUND)]
    # In a virtual environment Python may start another Python, which alone would not be watched.
    command += ["--target-processes", "all"]
    ours = [str(ROOT), str(HERE), str(HERE.with_name("helion_kernels"))]
    path = os.pathsep.join([*ours, os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [*command, sys.executable, str(HERE / "one_launch.py"), name],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": path, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
    )


@pytest.fixture(scope="module")
def results() -> Iterator[dict[tuple[str, str], "Future[Result]"]]:
    """Of every tool and op; started at once."""
    if (program := sanitizer()) is None:
        pytest.skip("compute-sanitizer is not installed: it comes with CUDA's toolkit")
    pool = ThreadPoolExecutor(AT_ONCE)
    yield {(tool, name): pool.submit(watch, program, tool, name) for tool in TOOLS for name in OPS}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("tool", TOOLS)
def test_nothing_is_found(tool: str, name: str, results) -> None:
    done = results[tool, name].result()
    if "Device not supported" in done.stdout:
        pytest.skip("compute-sanitizer does not support this device")
    found = "\n".join(line for line in done.stdout.splitlines() if line.startswith("========="))
    assert done.returncode != FOUND, found[:5000]
    # A kernel that is stopped for what it did stops the program too.
    assert done.returncode == 0, found[:5000] + done.stdout[-2000:]
    assert f"launched {name}" in done.stdout
