# SPDX-License-Identifier: Apache-2.0
"""An installed `vllm serve` on this machine's loopback, for the time of a `with` block."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VLLM = Path(sys.executable).with_name("vllm")
START_SECONDS = 240
REQUEST_SECONDS = 120
STOP_SECONDS = 30

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "TORCHDYNAMO_DISABLE": "1",
}
# Steps of 64 tokens at most, so that a longer prompt is computed in pieces.
OPTIONS = ["--enforce-eager", "--max-model-len", "384", "--max-num-seqs", "8"]
OPTIONS += ["--max-num-batched-tokens", "64", "--served-model-name", "tiny"]


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what would make Python find the source tree."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, **ENVIRONMENT, **more}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`vllm serve MODEL`. Its output goes to a file, whose end is shown when something fails."""

    def __init__(self, model: Path, log: Path, *options: str, **env: str) -> None:
        self.port = free_port()
        self.log_path = log
        command = [str(VLLM), "serve", str(model), "--host", "127.0.0.1", "--port", str(self.port)]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [*command, *OPTIONS, *options],
                cwd=log.parent,
                env=environment(**env),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> "Server":
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self.process.poll() is not None:
                raise AssertionError(self.failure(f"exited with {self.process.returncode}"))
            with contextlib.suppress(OSError):
                urllib.request.urlopen(self.url("/health"), timeout=5).close()
                return self
            if time.monotonic() > deadline:
                self.__exit__()
                raise AssertionError(self.failure(f"not ready after {START_SECONDS} s"))
            time.sleep(0.5)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):  # the engine, should it have stayed behind
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def log(self) -> str:
        return self.log_path.read_text("utf-8", "replace")

    def failure(self, what: str) -> str:
        tail = "\n".join(self.log().splitlines()[-60:])
        return f"vllm serve: {what}; the end of {self.log_path}:\n{tail}"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url(path), timeout=REQUEST_SECONDS) as response:
            return json.load(response)

    def metric(self, name: str) -> float:
        """The sum of what /metrics says of that name, over engines."""
        with urllib.request.urlopen(self.url("/metrics"), timeout=REQUEST_SECONDS) as response:
            lines = response.read().decode().splitlines()
        values = [float(line.split()[-1]) for line in lines if line.startswith(name + "{")]
        assert values, f"no metric {name}"
        return sum(values)

    def open(self, path: str, body: dict[str, Any]) -> Any:
        data = json.dumps({"model": "tiny", **body}).encode()
        request = urllib.request.Request(
            self.url(path), data, headers={"Content-Type": "application/json"}
        )
        try:
            return urllib.request.urlopen(request, timeout=REQUEST_SECONDS)
        except urllib.error.HTTPError as error:
            if error.code >= 500:
                raise AssertionError(self.failure(f"{path} answered {error.code}")) from None
            raise

    def post(self, path: str, **body: Any) -> Any:
        with self.open(path, body) as response:
            return json.load(response)

    def stream(self, path: str, **body: Any) -> Iterator[Any]:
        """The chunks of a streamed answer, up to [DONE], which must come."""
        with self.open(path, {**body, "stream": True}) as response:
            for line in response:
                text = line.decode().strip()
                if text == "data: [DONE]":
                    return
                if text:
                    yield json.loads(text.removeprefix("data: "))
        raise AssertionError(self.failure(f"{path} ended its stream without [DONE]"))
