# SPDX-License-Identifier: Apache-2.0
"""Compare servers: `vllm serve` and `vllm bench serve` of each arm, in turns, over concurrencies.

    python -m benchmarks.server --model /tmp/qwen3-8b-token --out server-8b-token.json \\
        --arm ours:PYTHONPATH=/tmp/ours --arm stock:PYTHONPATH=/tmp/stock --rounds 2 --resume

Random prompts of 512 tokens, 128 answered greedily, the end-of-text token ignored, prefix caching
off; the same prompts for every arm. Each concurrency is warmed up with as many requests. Further
arguments go to `vllm serve`. Prints medians over processes of the time to the first token (ttft),
per output token (tpot) and of throughput, with their range and each arm's ratio to the last arm,
the baseline: more than 1 is better. The file is written after every concurrency; --resume starts
servers only for those that it lacks.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from benchmarks import arms, record, spread, tokenizer
from benchmarks.serving import VLLM, Server, ServerError

CONCURRENCY = "1,2,4,8,16,32,64,128,256"
PERCENTILES = (50, 90, 99)
SERVE = ["--no-enable-prefix-caching", "--max-model-len", "4096", "--max-num-seqs", "256"]
SERVE += ["--gpu-memory-utilization", "0.85", "--seed", "0"]


class BenchError(RuntimeError):
    """`vllm bench serve` failed, in a line and its log's end."""


def requests(concurrency: int, waves: int) -> int:
    """So many waves of concurrency, but 16 requests at least: percentiles are of something."""
    return max(16, waves * concurrency)


def bench(
    server: Server, options: argparse.Namespace, concurrency: int, number: int, log: Path
) -> dict[str, Any]:
    """A concurrency's figures from `vllm bench serve`. Raises BenchError."""
    result = log.with_suffix(".json")
    result.unlink(missing_ok=True)
    count = requests(concurrency, options.waves)
    flags = {
        "--backend": "openai",
        "--base-url": server.url,
        "--endpoint": "/v1/completions",
        "--model": options.model,
        "--dataset-name": "random",
        "--random-input-len": options.input_len,
        "--random-output-len": options.output_len,
        "--num-prompts": count,
        "--max-concurrency": concurrency,
        "--num-warmups": concurrency,
        "--request-rate": "inf",
        "--temperature": 0,
        # Of the round and the concurrency: every arm gets the same prompts.
        "--seed": 1000 * number + concurrency,
        "--percentile-metrics": "ttft,tpot,itl,e2el",
        "--metric-percentiles": ",".join(map(str, PERCENTILES)),
        "--result-dir": result.parent,
        "--result-filename": result.name,
    }
    if options.tokenizer:
        flags["--tokenizer"] = options.tokenizer
    command = [*VLLM, "bench", "serve", "--ignore-eos", "--save-result", "--disable-tqdm"]
    command += [str(word) for pair in flags.items() for word in pair]
    outcome = server.run(command, log, options.level_limit)
    if outcome or not result.exists():
        raise BenchError(f"vllm bench serve: {outcome}; {arms.tail(log)}\n{arms.tail(server.log)}")
    figures = json.loads(result.read_text())
    if figures["completed"] != count:
        raise BenchError(f"{figures['completed']} of {count} requests; {arms.tail(server.log)}")
    if figures["total_output_tokens"] != count * options.output_len:
        raise BenchError(f"{figures['total_output_tokens']} tokens, not {options.output_len} each")
    return {"concurrency": concurrency, **figures}


def cells(run: dict[str, Any]) -> dict[str, float]:
    """A process's figures, by name and concurrency."""
    found = {"ready_s": run["ready_s"][0]}
    for row in run["rows"]:
        at = row["concurrency"]
        for metric in ("ttft", "tpot"):
            for p in PERCENTILES:
                found[f"{metric}_ms_p{p}@{at}"] = row[f"p{p}_{metric}_ms"]
        found[f"output_tokens_per_s@{at}"] = row["output_throughput"]
    return found


def lacks(run: dict[str, Any], levels: list[int]) -> list[int]:
    """Concurrencies that a process has not measured yet."""
    done = {row["concurrency"] for row in run["rows"]}
    return [level for level in levels if level not in done]


class Comparison:
    """Runs servers and keeps the file."""

    def __init__(self, options: argparse.Namespace, serve: list[str]) -> None:
        """Raises ValueError, in a line, for a file that cannot be continued."""
        self.options = options
        keep = ("input_len", "output_len", "waves")
        settings = {name: getattr(options, name) for name in keep}
        self.document = arms.begin(options, arguments=serve, **settings)
        if Path(options.model).is_dir():
            os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is to be looked up
        if not options.tokenizer and tokenizer.missing(options.model):
            folder = options.logs / "tokenizer"
            tokenizer.write(options.model, folder)
            options.tokenizer = str(folder)
        self.arguments = [options.model, *SERVE, *serve]
        if options.tokenizer:
            self.arguments += ["--tokenizer", options.tokenizer]

    def save(self) -> None:
        document = self.document
        document["baseline"] = arms.baseline(document)
        document["summary"] = spread.plain(spread.summary(document["runs"], cells))
        record.write(self.options.out, document)

    def process(self, number: int, name: str, environment: arms.Environment) -> None:
        """The number-th process of an arm; a server for what it lacks. Raises on failure."""
        options, runs = self.options, self.document["runs"][name]
        fresh = number >= len(runs)
        run = {"ready_s": [], "rows": []} if fresh else runs[number]
        levels = lacks(run, options.concurrency)
        if not levels:
            print(f"{name} {number}: is in {options.out}", flush=True)
            return
        log = options.logs / f"{name}-{number}-server.log"
        print(f"{name} {number}: starting, log {log}", flush=True)
        with Server(self.arguments, environment, log, options.start_limit) as server:
            run["ready_s"].append(round(server.ready_s, 1))
            print(f"{name} {number}: ready after {server.ready_s:.0f} s", flush=True)
            for level in levels:
                start = time.monotonic()
                log = options.logs / f"{name}-{number}-{level}.log"
                row = bench(server, options, level, number, log)
                run["rows"] = sorted([*run["rows"], row], key=lambda each: each["concurrency"])
                if fresh:
                    runs.append(run)
                    fresh = False
                self.save()
                print(
                    f"{name} {number}: concurrency {level:3} "
                    f"ttft {row['p50_ttft_ms']:8.1f} ms, tpot {row['p50_tpot_ms']:7.2f} ms, "
                    f"{row['output_throughput']:8.0f} tokens/s  ({time.monotonic() - start:.0f} s)",
                    flush=True,
                )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arms.add_arguments(parser)
    add = parser.add_argument
    add("--concurrency", type=arms.counts, default=CONCURRENCY, help=CONCURRENCY)
    add("--input-len", type=int, default=512, help="512")
    add("--output-len", type=int, default=128, help="128")
    add("--waves", type=int, default=4, help="requests over concurrency; 4, and 16 at least")
    add("--tokenizer", help="default: the model's, or made up if it has none")
    add("--start-limit", type=float, default=900, help="seconds until /health answers; 900")
    add("--level-limit", type=float, default=600, help="seconds for a concurrency; 600")
    options, serve = parser.parse_known_args(arguments)
    arms.exit_on_signals()
    try:
        comparison = Comparison(options, serve)
    except (OSError, ValueError) as error:
        print(error)
        return 2
    failed = 0
    for number, name, environment in arms.turns(options):
        try:
            comparison.process(number, name, environment)
        except (BenchError, ServerError) as error:
            failed += 1
            print(f"{name} {number}: {error}", flush=True)
    base = arms.baseline(comparison.document)
    if base is not None:
        print(spread.text(spread.summary(comparison.document["runs"], cells), base))
    if failed:
        print(f"{failed} processes failed; --resume goes on where they ended")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
