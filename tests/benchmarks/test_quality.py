# SPDX-License-Identifier: Apache-2.0
"""The quality gate with engines whose results are made up: what it runs, keeps and judges."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import processes, quality, texts, verdicts
from benchmarks.reference import Qwen3

ROWS = [[5, 17, 33, 2, 9, 41, 8, 7], [6, 3, 3, 90, 12, 4, 71, 20]]
NAMED = ("--model", "--engine-args")
TASK = verdicts.Task(ROWS, 5, [row[:4] for row in ROWS], 2)


@pytest.fixture
def engines(monkeypatch, tmp_path):
    """Engines that compute in float64; those named in `failing` fail, in `wrong` are off."""
    seen = argparse.Namespace(made=[], options={}, environment={}, failing=set())
    seen.wrong, seen.wrong_decoding, seen.passes = set(), set(), {}
    seen.out = tmp_path / "quality.json"
    exact = {}

    def result(name: str, folder: Path):
        if folder not in exact:
            reference = Qwen3(folder, exact=True)
            greedy = [reference.greedy(prompt, TASK.tokens) for prompt in TASK.prompts]
            rows = [prompt + tokens for prompt, tokens in zip(TASK.prompts, greedy, strict=True)]
            own = verdicts.logprobs(reference, rows)[:, -TASK.tokens :]
            exact[folder] = verdicts.logprobs(reference, ROWS), greedy, own
        prefill, greedy, own = exact[folder]
        prefill = prefill - 0.1 * (name in seen.wrong)
        own = own - 0.1 * (name in seen.wrong_decoding)
        found = {"prefill": prefill, "decode": prefill[:, TASK.start - 1 :], "greedy_logprobs": own}
        return {"greedy": greedy, **{key: each.tolist() for key, each in found.items()}}

    def run(wanted, jobs):
        seen.jobs = jobs
        for key, process in reversed(wanted.items()):
            name = process.log.stem
            seen.made.append(name)
            at = process.arguments.index("--passes") + 1
            ends = process.arguments.index("--engine-args")
            seen.passes[name] = process.arguments[at:ends]
            of = {key: process.arguments[process.arguments.index(key) + 1] for key in NAMED}
            seen.options[name] = json.loads(of["--engine-args"])
            seen.environment[name] = process.environment
            failed = name in seen.failing
            found = None if failed else result(name, Path(of["--model"]))
            if found is not None:
                keep = [each for each in found if each.split("_")[0] in seen.passes[name]]
                found = {each: found[each] for each in keep}
            yield key, processes.Ended(process, found, 1.0)
            seen.written = json.loads(seen.out.read_text()) if seen.out.exists() else None

    monkeypatch.setattr(processes, "run", run)

    def make_task(rows, sample):
        seen.rows = len(rows)
        return TASK

    monkeypatch.setattr(quality, "make_task", make_task)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return seen


def gate(engines, tmp_path: Path, *more: str) -> int:
    arguments = ["--out", str(engines.out), "--work", str(tmp_path / "work"), *more]
    return quality.main(["--format", "fp8-token", *arguments])


def measured(document) -> set[tuple[str, str]]:
    return {(record["shape"], record["pass"]) for record in document["records"]}


def test_pairs_are_compared_as_they_end_and_not_run_again(engines, tmp_path, capsys):
    assert gate(engines, tmp_path, "--shape", "whole", "--no-bf16", "--jobs", "3") == 0
    assert engines.jobs == 3
    assert sorted(engines.made) == ["fp8-token-whole-ours", "fp8-token-whole-stock"]
    assert engines.environment["fp8-token-whole-ours"]["VLLM_HELION"] == "1"
    assert engines.environment["fp8-token-whole-stock"]["VLLM_HELION"] == "0"
    passes = {("whole", name) for name in ("prefill", "decode", "greedy")}
    assert measured(engines.written) == passes  # before the generator had ended
    first = capsys.readouterr().out

    engines.made.clear()
    assert gate(engines, tmp_path, "--shape", "whole", "--shape", "chunked", "--resume") == 0
    chunked = ["fp8-token-chunked-ours", "fp8-token-chunked-stock"]
    assert sorted(engines.made) == ["bf16-whole-stock", *chunked]
    document = json.loads(engines.out.read_text())
    assert measured(document) == passes | {("chunked", name) for _, name in passes}
    assert document["ppl_bf16"]["vllm"] == pytest.approx(document["ppl_bf16"]["float64"])
    assert len(document["resumed"]) == 1
    whole = [line for line in first.splitlines() if " whole " in line]
    assert len(whole) == 3
    assert set(whole) <= set(capsys.readouterr().out.splitlines())

    engines.made.clear()
    assert gate(engines, tmp_path, "--shape", "whole", "--resume") == 0
    assert engines.made == []


def test_without_resume_the_file_is_made_anew(engines, tmp_path):
    for _ in range(2):
        assert gate(engines, tmp_path, "--shape", "whole", "--no-bf16") == 0
    assert len(engines.made) == 4
    assert len(json.loads(engines.out.read_text())["records"]) == 3


def test_another_run_is_not_continued(engines, tmp_path, capsys):
    arguments = ("--shape", "whole", "--no-bf16", "--resume")
    assert gate(engines, tmp_path, *arguments) == 0
    assert gate(engines, tmp_path, *arguments, "--sample") == 2
    assert "whose sample is False" in capsys.readouterr().out


def make_text(path: Path, tokenizer: str | None = None) -> Path:
    """The published rows twice."""
    tokens = load_file(texts.HELD_OUT)["tokens"].repeat(2, 1)
    digest = texts.digest(texts.EXAMPLE / "model/tokenizer.json")
    save_file({"tokens": tokens}, path, {"tokenizer": tokenizer or digest})
    return path


def test_a_document_says_of_which_text_it_is_and_is_not_continued_with_another(
    engines, tmp_path, capsys
):
    arguments = ("--shape", "whole", "--no-bf16")
    assert gate(engines, tmp_path, *arguments) == 0
    text = json.loads(engines.out.read_text())["text"]
    assert text == {"name": "heldout.safetensors", "rows": 128, "sha256": text["sha256"]}
    assert engines.rows == 128

    more = ("--text", str(make_text(tmp_path / "more.safetensors")))
    engines.made.clear()
    assert gate(engines, tmp_path, *arguments, *more, "--resume") == 2
    assert "whose text is" in capsys.readouterr().out
    assert engines.made == []

    assert gate(engines, tmp_path, *arguments, *more) == 0
    other = json.loads(engines.out.read_text())["text"]
    assert (other["name"], other["rows"], engines.rows) == ("more.safetensors", 256, 256)
    assert other["sha256"] == texts.digest(tmp_path / "more.safetensors") != text["sha256"]
    assert gate(engines, tmp_path, *arguments, *more, "--resume") == 0
    assert gate(engines, tmp_path, *arguments, *more, "--rows", "200", "--resume") == 2
    assert gate(engines, tmp_path, *arguments, *more, "--rows", "200") == 0
    assert json.loads(engines.out.read_text())["text"] == other | {"rows": 200}


def test_text_of_another_tokenizer_starts_no_engine(engines, tmp_path, capsys):
    text = make_text(tmp_path / "more.safetensors", tokenizer="another")
    assert gate(engines, tmp_path, "--text", str(text)) == 2
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert engines.made == []
    assert not engines.out.exists()


def test_a_failed_engine_names_its_log_and_is_tried_again(engines, tmp_path, capsys):
    engines.failing.add("fp8-token-chunked-stock")
    shapes = ("--shape", "whole", "--shape", "chunked", "--no-bf16")
    assert gate(engines, tmp_path, *shapes) == 1
    out = capsys.readouterr().out
    log = tmp_path / "work/fp8-token-chunked-stock.log"
    assert f"fp8-token-chunked-stock: FAILED, log {log}" in out
    document = json.loads(engines.out.read_text())
    assert document["failed_engines"] == ["fp8-token-chunked-stock"]
    assert {shape for shape, _ in measured(document)} == {"whole"}

    engines.failing.clear()
    engines.made.clear()
    assert gate(engines, tmp_path, *shapes, "--resume") == 0
    assert sorted(engines.made) == ["fp8-token-chunked-ours", "fp8-token-chunked-stock"]
    assert json.loads(engines.out.read_text())["failed_engines"] == []


def test_what_is_worse_fails_in_the_run_and_when_it_is_resumed(engines, tmp_path, capsys):
    engines.wrong.add("fp8-token-whole-ours")
    arguments = ("--shape", "whole", "--no-bf16")
    assert gate(engines, tmp_path, *arguments) == 1
    assert "fail: fp8-token whole prefill" in capsys.readouterr().out
    engines.made.clear()
    assert gate(engines, tmp_path, *arguments, "--resume") == 1
    assert engines.made == []


def test_a_cpu_has_eager_engines_and_no_stock_for_block_fp8(engines, tmp_path):
    assert gate(engines, tmp_path, "--format", "fp8-block", "--no-bf16") == 0
    forms = [name for name in engines.made if name.startswith("fp8-block")]
    assert sorted(forms) == ["fp8-block-chunked-ours", "fp8-block-whole-ours"]
    assert all(each["enforce_eager"] for each in engines.options.values())
    assert not any("kv_cache_memory_bytes" in each for each in engines.options.values())


def test_engines_that_share_a_gpu_do_not_measure_its_memory():
    options = quality.small_engines.options("whole", gpu=True)
    assert options["kv_cache_memory_bytes"] > 0
    assert options["gpu_memory_utilization"] < 0.1
    assert "enforce_eager" not in options


def test_decoding_further_from_float64_than_stock_fails(engines, tmp_path, capsys):
    engines.wrong_decoding.add("fp8-token-whole-ours")
    assert gate(engines, tmp_path, "--shape", "whole", "--no-bf16") == 1
    out = capsys.readouterr().out
    assert "fail: fp8-token whole greedy" in out
    assert "fail: fp8-token whole prefill" not in out


def test_on_a_gpu_the_engine_that_forces_tokens_does_nothing_else(engines, tmp_path):
    sides = quality.Gate(TASK, tmp_path)
    sides.gpu = True
    found = {}
    for entries in sides.run([("fp8-token", "whole")], 1):
        found |= entries
    assert len(engines.made) == 4
    passes = sorted(tuple(each) for each in engines.passes.values())
    assert passes == [("decode",), ("decode",), ("prefill", "greedy"), ("prefill", "greedy")]
    assert {each["verdict"] for each in found["records"]} <= {"pass", "unclear"}
