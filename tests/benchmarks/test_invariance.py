# SPDX-License-Identifier: Apache-2.0
"""The check of batch invariance with engines whose results are made up."""

import argparse
import json
import math
import random
from pathlib import Path

import pytest
import torch

from benchmarks import invariance, processes, small_engines
from benchmarks.invariance import FULL, SAMPLE, difference


def result(tokens=3, prompt=4):
    return {
        "prompt": [-0.5 * i for i in range(1, prompt)],
        "tokens": list(range(10, 10 + tokens)),
        "logprobs": [-0.25 * i for i in range(tokens)],
    }


def test_equal_bits_are_no_difference():
    assert difference(result(), result()) is None
    short = {**result(2), "prompt": result()["prompt"]}
    assert difference(result(3), short) is None  # as far as it goes on
    nan = {**result(), "logprobs": [math.nan] * 3}
    assert difference(nan, json.loads(json.dumps(nan))) is None


@pytest.mark.parametrize(
    ("part", "at", "value", "what", "position"),
    [
        ("prompt", 2, math.nextafter(-1.5, 0), "log-probability of prompt token", 3),
        ("tokens", 1, 99, "generated token", 1),
        ("logprobs", 2, math.nextafter(-0.5, 0), "log-probability of generated token", 2),
        ("logprobs", 0, 0.0, "log-probability of generated token", 0),  # alone it is -0.0
        ("logprobs", 1, math.nan, "log-probability of generated token", 1),
    ],
)
def test_one_bit_is_a_difference(part, at, value, what, position):
    found = result()
    alone = found[part][at]
    found[part][at] = value
    expected = {
        "what": what,
        "at": position,
        "alone": alone,
        "found": pytest.approx(value, nan_ok=True),
    }
    assert difference(result(), found) == expected


def test_the_first_difference_is_the_one_that_is_made_first():
    found = result()
    found["tokens"][2] = 99
    found["logprobs"][1] = -7.0  # a token earlier
    assert difference(result(), found)["at"] == 1
    found["prompt"][0] = -7.0
    assert difference(result(), found)["what"] == "log-probability of prompt token"


def test_a_result_that_lacks_something_is_no_pass():
    assert difference(result(), {**result(), "prompt": []}) is not None
    with pytest.raises(ValueError, match=r"longer|shorter"):
        difference(result(2), result(3))


@pytest.mark.parametrize("size", [FULL, SAMPLE])
def test_mixes_are_of_every_kind(size):
    seed = random.SystemRandom().randrange(2**32)
    task = invariance.make_task(seed, "whole", size, 12)
    assert task == invariance.make_task(seed, "whole", size, 12), seed
    lengths = [len(prompt) for prompt in task["prompts"]]
    assert len(lengths) == size.prompts
    assert max(lengths) == size.longest > min(lengths) >= 1
    everyone, *others = task["mixes"]
    assert sorted(i for i, _ in everyone) == list(range(size.prompts))
    assert all(2 <= len(mix) <= size.largest for mix in others), seed
    assert len({len(mix) for mix in others}) > 1, seed
    assert all(1 <= count <= size.tokens for mix in task["mixes"] for _, count in mix)
    another = invariance.make_task(seed, "chunked", size, 12)
    assert another["prompts"] == task["prompts"]
    assert another["mixes"] != task["mixes"]


def test_prompts_fit_into_the_engines():
    assert FULL.longest + FULL.tokens <= invariance.small_engines.COMMON["max_model_len"]
    # Several chunks, or "chunked or not" is not asked.
    chunk = invariance.SHAPES["chunked"]["max_num_batched_tokens"]
    assert FULL.longest > 2 * chunk
    assert SAMPLE.longest > chunk


@pytest.fixture
def engines(monkeypatch, tmp_path):
    """Engines whose results depend on nothing but the prompt, but those that `touch` changes."""
    seen = argparse.Namespace(made={}, gpu=True, failing=set(), touch=lambda name, batches: None)
    seen.out = tmp_path / "invariance.json"

    def run(wanted, jobs):
        seen.jobs = jobs
        for key, process in wanted.items():
            of = dict(zip(*[iter(process.arguments)] * 2, strict=True))
            task = json.loads(Path(of["--task"]).read_text())
            name = process.log.stem
            seen.made[name] = process.environment[invariance.SWITCH]
            seen.options = json.loads(of["--engine-args"])

            def made(i, count, task=task):
                length = len(task["prompts"][i])
                return {**result(count, length), "prompt": [-0.1 * i] * (length - 1)}

            alone = [made(i, task["tokens"]) for i in range(len(task["prompts"]))]
            batches = [alone, *([made(*each) for each in mix] for mix in task["mixes"])]
            seen.touch(name, batches)
            found = {"alone": batches[0], "mixes": batches[1:]}
            failed = name in seen.failing
            yield key, processes.Ended(process, None if failed else found, 1.0)

    monkeypatch.setattr(processes, "run", run)
    monkeypatch.setattr(invariance, "describe", lambda: {"gpu": None})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen.gpu)
    return seen


def check(engines, tmp_path, *more):
    arguments = ["--out", str(engines.out), "--work", str(tmp_path / "work"), "--sample"]
    return invariance.main([*arguments, "--model", str(tmp_path / "model"), *more])


def off(batches, batch, member=0):
    batches[batch][member]["logprobs"][0] = -0.1


def test_invariant_engines_pass(engines, tmp_path, capsys):
    assert check(engines, tmp_path, "--jobs", "2") == 0
    assert engines.jobs == 2
    assert engines.made == {f"model-{shape}": "1" for shape in small_engines.shapes(gpu=True)}
    document = json.loads(engines.out.read_text())
    assert len(document["rows"]) == 4 * 9 - 1  # not the first engine, alone: the reference
    assert all(row["prompts"] for row in document["rows"])
    out = capsys.readouterr().out
    assert f"seed {document['seed']}" in out
    assert "VLLM_BATCH_INVARIANT=1: 0 of " in out
    assert "could not have failed" not in out


def test_each_run_has_a_seed_of_its_own_and_can_be_repeated(engines, tmp_path):
    seeds = []
    for _ in range(2):
        check(engines, tmp_path)
        seeds.append(json.loads(engines.out.read_text())["seed"])
    assert seeds[0] != seeds[1]
    check(engines, tmp_path, "--seed", str(seeds[0]))
    assert json.loads(engines.out.read_text())["seed"] == seeds[0]


@pytest.mark.parametrize(
    ("name", "batch", "place"),
    [
        ("model-whole", 3, "mix 2"),
        ("model-chunked", 0, "alone"),
        ("model-chunked-eager", 8, "mix 7"),
    ],
)
def test_a_difference_in_one_batch_of_one_engine_fails(
    engines, tmp_path, capsys, name, batch, place
):
    engines.touch = lambda engine, batches: engine == name and off(batches, batch)
    assert check(engines, tmp_path) == 1
    rows = [row for row in json.loads(engines.out.read_text())["rows"] if row["different"]]
    assert [(row["engine"], row["batch"], row["different"]) for row in rows] == [(name, place, 1)]
    (text,) = [line for line in capsys.readouterr().out.splitlines() if "-0.1, alone -0.0" in line]
    assert text.startswith(name)
    assert "log-probability of generated token 0" in text


def test_the_control_is_not_judged_but_must_differ(engines, tmp_path, capsys):
    engines.touch = lambda name, batches: name == "model-whole-control" and off(batches, 2, 1)
    assert check(engines, tmp_path, "--control") == 0
    assert engines.made["model-whole-control"] == "0"
    assert engines.made["model-whole"] == "1"
    out = capsys.readouterr().out
    assert "VLLM_BATCH_INVARIANT=0: 1 of " in out
    assert "could not have failed" not in out
    engines.touch = lambda name, batches: None
    assert check(engines, tmp_path, "--control") == 0
    assert "could not have failed" in capsys.readouterr().out


def test_the_control_is_compared_with_itself(engines, tmp_path, capsys):
    """Other kernels give other bits, alone too."""

    def touch(name, batches):
        if name.endswith("-control"):
            for batch in batches:
                for each in batch:
                    each["logprobs"] = [logprob - 1 for logprob in each["logprobs"]]

    engines.touch = touch
    assert check(engines, tmp_path, "--control") == 0
    assert "VLLM_BATCH_INVARIANT=0: 0 of " in capsys.readouterr().out


def test_a_failed_engine_fails_and_the_others_are_compared(engines, tmp_path, capsys):
    engines.failing.add("model-whole")
    engines.touch = lambda name, batches: name == "model-whole-eager" and off(batches, 1)
    assert check(engines, tmp_path) == 1
    assert f"failed: the engine of {tmp_path / 'work/model-whole.log'}" in capsys.readouterr().out
    rows = json.loads(engines.out.read_text())["rows"]
    assert sum(row["different"] for row in rows) == 1
    assert {row["engine"] for row in rows} == {
        f"model-{shape}" for shape in small_engines.shapes(gpu=True) if shape != "whole"
    }
    engines.touch = lambda name, batches: None
    assert check(engines, tmp_path) == 1


def test_a_cpu_runs_the_control_alone(engines, tmp_path, capsys):
    engines.gpu = False
    engines.touch = lambda name, batches: name == "model-chunked-control" and off(batches, 1)
    assert check(engines, tmp_path, "--engine-args", '{"max_num_seqs": 2}') == 0
    assert engines.made == {"model-whole-control": "0", "model-chunked-control": "0"}
    assert "control is all that runs" in capsys.readouterr().out
    assert engines.options["max_num_seqs"] == 2
    assert engines.options["enforce_eager"]
