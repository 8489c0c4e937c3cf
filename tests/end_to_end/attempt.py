# SPDX-License-Identifier: Apache-2.0
"""Start an engine per attempt, each in a fork of a process that has imported vLLM once.

stdin: {name: {"model": folder, "options": {…}}}; stdout: {name: what became of it}, where that is
{"error": the exception or null, "output": all that was logged, "text": an answer or null}.
"""

import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

SECONDS = 90
MEMORY = 24 << 30
"""Of addresses: what is absurd shall fail here, and not take the machine with it."""
DEFAULTS = {
    "enforce_eager": True,
    "max_model_len": 128,
    "max_num_seqs": 4,
    "max_num_batched_tokens": 128,
    "distributed_executor_backend": "uni",
}


def attempt(model: str, options: dict[str, Any], folder: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    output = os.open(f"{folder}/output", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from vllm import LLM, SamplingParams

    try:
        engine = LLM(model, **DEFAULTS | options)
        answer = engine.generate(["The sea is"], SamplingParams(temperature=0, max_tokens=4))
        Path(folder, "text").write_text(answer[0].outputs[0].text)
    except BaseException as error:
        Path(folder, "error").write_text("".join(traceback.format_exception_only(error)).strip())
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(0)


def main() -> None:
    import vllm.entrypoints.llm  # noqa: F401

    results = {}
    for name, given in json.load(sys.stdin).items():
        with tempfile.TemporaryDirectory() as folder:
            arguments = (given["model"], given["options"], folder)
            start = time.monotonic()
            child = multiprocessing.get_context("fork").Process(target=attempt, args=arguments)
            child.start()
            child.join(SECONDS)
            hung = child.is_alive()
            child.kill()
            child.join()

            def read(file: str, folder: str = folder) -> str | None:
                path = Path(folder, file)
                return path.read_text("utf-8", "replace") if path.exists() else None

            results[name] = {
                "seconds": round(time.monotonic() - start, 1),
                "error": f"hung for {SECONDS} s" if hung else read("error"),
                "output": read("output"),
                "text": read("text"),
            }
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
