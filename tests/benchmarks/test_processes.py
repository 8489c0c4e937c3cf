# SPDX-License-Identifier: Apache-2.0
"""Processes of arms: how many at a time, what becomes of those that fail or are given up."""

import argparse
import json
import os
import time
from pathlib import Path

import pytest

from benchmarks import processes
from benchmarks.processes import Process

SCRIPT = """
import json, sys, time
code, seconds, pid_file, out = sys.argv[1], float(sys.argv[2]), sys.argv[3], sys.argv[5]
import os
open(pid_file, "w").write(str(os.getpid()))
started = time.monotonic()
time.sleep(seconds)
print("what it says")
if code != "0":
    sys.exit(int(code))
json.dump([started, time.monotonic()], open(out, "w"))
"""


@pytest.fixture
def process(tmp_path: Path):
    script = tmp_path / "arm.py"
    script.write_text(SCRIPT)

    def make(name: str, seconds: float = 0.0, code: int = 0) -> Process:
        arguments = [str(code), str(seconds), str(tmp_path / f"{name}.pid")]
        return Process(tmp_path / f"{name}.log", str(script), arguments, {})

    return make


def at_once(spans: list[list[float]]) -> int:
    return max(sum(a <= start < b for a, b in spans) for start, _ in spans)


@pytest.mark.parametrize("jobs", [1, 2])
def test_as_many_at_a_time_as_asked_for(process, jobs):
    wanted = {name: process(name, 0.4) for name in "abcd"}
    found = dict(processes.run(wanted, jobs))
    assert found.keys() == wanted.keys()
    assert at_once([ended.result for ended in found.values()]) == jobs


def test_the_first_to_end_is_the_first_to_come(process):
    wanted = {"slow": process("slow", 1.0), "quick": process("quick")}
    assert [name for name, _ in processes.run(wanted, 2)] == ["quick", "slow"]


def test_a_failed_one_names_its_log_and_the_others_go_on(process, tmp_path, capsys):
    found = dict(processes.run({"bad": process("bad", code=3), "good": process("good")}))
    assert found["bad"].result is None
    assert str(tmp_path / "bad.log") in str(found["bad"])
    assert found["good"].result is not None
    assert "FAILED" not in str(found["good"])
    error = capsys.readouterr().err
    assert "bad failed (3)" in error
    assert "what it says" in error


def test_an_older_result_is_not_taken_for_that_of_one_that_fails(process, tmp_path):
    (tmp_path / "bad.json").write_text(json.dumps("old"))
    ((_, ended),) = processes.run({"bad": process("bad", code=1)})
    assert ended.result is None


def test_whoever_stops_ends_those_that_run(process, tmp_path):
    results = processes.run({"quick": process("quick", 1.0), "slow": process("slow", 60.0)}, 2)
    assert next(results)[0] == "quick"
    pid = int((tmp_path / "slow.pid").read_text())
    os.kill(pid, 0)
    start = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - start < 30
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_jobs():
    parser = argparse.ArgumentParser(exit_on_error=False)
    processes.add_jobs(parser)
    assert parser.parse_args([]).jobs == 1
    assert parser.parse_args(["--jobs", "4"]).jobs == 4
    for wrong in ("0", "-1", "two"):
        with pytest.raises(argparse.ArgumentError, match="positive integer"):
            parser.parse_args([f"--jobs={wrong}"])
