# SPDX-License-Identifier: Apache-2.0
"""`vllm serve` and `vllm bench serve` without vLLM, for tests of benchmarks.server.

The tests copy this file to vllm/entrypoints/cli/main.py of a folder on PYTHONPATH. FAKE_NOTES is a
folder where it notes what it was asked and which processes it started. FAKE says what goes wrong:
`dies`, `hangs` (at the start) or `fails@N` (the client, at concurrency N).
"""

import http.server
import json
import os
import subprocess
import sys
import time
from pathlib import Path

NOTES, FAULT = Path(os.environ["FAKE_NOTES"]), os.environ.get("FAKE", "")


def note(kind, value):
    with (NOTES / kind).open("a") as file:
        file.write(json.dumps(value) + "\n")


def serve(arguments):
    print("serving", flush=True)
    if FAULT == "dies":
        sys.exit("no such model")
    engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    note("serve", {"arguments": arguments, "pids": [os.getpid(), engine.pid]})
    if FAULT == "hangs":
        time.sleep(600)
    refusals = iter([503, 503])

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(next(refusals, 200))
            self.end_headers()

    port = int(arguments[arguments.index("--port") + 1])
    http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()


def bench(arguments):
    def value(flag):
        return arguments[arguments.index(flag) + 1]

    note("bench", arguments)
    concurrency, count = int(value("--max-concurrency")), int(value("--num-prompts"))
    if f"fails@{concurrency}" == FAULT:
        sys.exit("connection refused")
    tpot = float(os.environ["FAKE_TPOT"]) * (1 + concurrency / 100)
    figures = {f"p{p}_{m}_ms": tpot * p / 50 for p in (50, 90, 99) for m in ("ttft", "tpot")}
    figures |= {"completed": count, "output_throughput": 1000 * concurrency / tpot}
    figures["total_output_tokens"] = count * int(value("--random-output-len"))
    Path(value("--result-dir"), value("--result-filename")).write_text(json.dumps(figures))


if __name__ == "__main__":
    serve(sys.argv[2:]) if sys.argv[1] == "serve" else bench(sys.argv[3:])
