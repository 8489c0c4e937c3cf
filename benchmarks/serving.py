# SPDX-License-Identifier: Apache-2.0
"""`vllm serve` on this machine's loopback, for the time of a `with` block.

It has a session of its own, whose every process is ended with the block, however that is left; if
this process is killed outright, the kernel asks the server to end.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import IO, Any

from benchmarks.arms import Environment, die_with_parent, tail

# -P: the folder that this runs in must not shadow an arm's vllm.
VLLM = [sys.executable, "-P", "-m", "vllm.entrypoints.cli.main"]
"""What the script `vllm` runs, of the vllm that the environment makes importable."""
LOCAL = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "VLLM_NO_USAGE_STATS": "1"}
"""For the server and its client."""
STOP_SECONDS = 30


class ServerError(RuntimeError):
    """The server did not start. The message ends with the log's end."""


class Server:
    """`vllm serve arguments`; `ready_s` is the time until /health answered."""

    def __init__(
        self, arguments: list[str], environment: Environment, log: Path, start_limit_s: float
    ) -> None:
        self.arguments, self.environment, self.log = arguments, environment, log
        self.start_limit_s = start_limit_s
        self.port = free_port()
        self.ready_s = 0.0

    def run(self, command: list[str], log: Path, limit_s: float) -> int | str:
        """A client in the server's environment. Its exit status, or that it did not end."""
        with log.open("w") as stream:
            try:
                return subprocess.run(
                    command,
                    **self._surroundings(stream),
                    timeout=limit_s,
                    preexec_fn=die_with_parent,
                ).returncode
            except subprocess.TimeoutExpired:
                return f"no end after {limit_s:.0f} s"

    def _surroundings(self, stream: IO[str]) -> dict[str, Any]:
        return {
            "env": {**os.environ, **LOCAL, **self.environment},
            "stdin": subprocess.DEVNULL,
            "stdout": stream,
            "stderr": subprocess.STDOUT,
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Server":
        """Raises ServerError if it ends, or does not answer within its limit."""
        command = [*VLLM, "serve", *self.arguments, "--host", "127.0.0.1", "--port", str(self.port)]
        start = time.monotonic()
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(
                command,
                **self._surroundings(stream),
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        try:
            while not self.healthy():
                if self.process.poll() is not None:
                    raise self._error(f"ended with {self.process.returncode} while it started")
                if time.monotonic() - start > self.start_limit_s:
                    raise self._error(f"not ready after {self.start_limit_s:.0f} s")
                time.sleep(0.2)
        except BaseException:
            self.stop()
            raise
        self.ready_s = time.monotonic() - start
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def healthy(self) -> bool:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            direct.open(f"{self.url}/health", timeout=5).close()
        except OSError:  # refused, timed out, or an answer other than 200
            return False
        return True

    def stop(self) -> None:
        """End it and its children, first politely, then at once, and wait: they hold memory."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        deadline = time.monotonic() + STOP_SECONDS
        while _runs(self.process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)

    def _error(self, what: str) -> ServerError:
        return ServerError(f"vllm serve: {what}; {tail(self.log)}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _runs(group: int) -> bool:
    """Whether a process of the group is more than a zombie, which holds nothing."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):  # it ended meanwhile
            state, _, its_group = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                return True
    return False
