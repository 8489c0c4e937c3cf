# SPDX-License-Identifier: Apache-2.0
"""benchmarks.server with a fake vllm, whose processes are real."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import arms, server, tokenizer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def vllm(tmp_path, monkeypatch):
    """A folder with the fake, and with what it notes."""
    package = tmp_path / "installed/vllm/entrypoints/cli"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    shutil.copy(Path(__file__).with_name("fake_vllm.py"), package / "main.py")
    notes = tmp_path / "notes"
    notes.mkdir()
    monkeypatch.setenv("FAKE_NOTES", str(notes))
    monkeypatch.setattr(arms, "describe_apart", lambda: {"gpu": "NVIDIA H100"})
    monkeypatch.setattr(arms, "exit_on_signals", lambda: None)
    yield tmp_path
    assert not [pid for each in noted(tmp_path, "serve") for pid in each["pids"] if alive(pid)]


def noted(folder, kind):
    path = folder / "notes" / kind
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def alive(pid):
    """Whether pid runs: no zombie, which only waits for whoever started it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def arguments(folder, *more, stock=""):
    path = f"PYTHONPATH={folder / 'installed'}"
    return [
        *("--arm", f"ours:{path},FAKE_TPOT=4"),
        *("--arm", f"stock:{path},FAKE_TPOT=5,FAKE={stock}"),
        *(
            "--model",
            "Qwen/Qwen3-8B-FP8",
            "--concurrency",
            "1,8",
            "--out",
            str(folder / "out.json"),
        ),
        *("--logs", str(folder / "logs"), *more),
    ]


def test_arms_take_turns_over_concurrencies(vllm, capsys):
    assert server.main(arguments(vllm, "--rounds", "2", "--max-num-seqs", "64")) == 0
    document = json.loads((vllm / "out.json").read_text())
    for tpot, name in ((4, "ours"), (5, "stock")):
        for run in document["runs"][name]:
            assert len(run["ready_s"]) == 1
            assert [row["concurrency"] for row in run["rows"]] == [1, 8]
        found = document["summary"][name]["tpot_ms_p50@8"]
        assert (found["median"], found["processes"]) == (tpot * 1.08, 2)
    assert document["baseline"] == "stock"
    printed = capsys.readouterr().out
    assert "4.320 (4.320..4.320) 1.25x" in printed
    (rate,) = (line for line in printed.splitlines() if line.startswith("output_tokens_per_s@8"))
    assert "1.25x" in rate
    assert len(noted(vllm, "serve")) == 4


def test_what_is_asked_of_vllm(vllm):
    assert server.main(arguments(vllm, "--max-num-seqs", "64", "--waves", "3")) == 0
    asked = noted(vllm, "serve")[0]["arguments"]
    assert asked[0] == "Qwen/Qwen3-8B-FP8"
    assert "--no-enable-prefix-caching" in asked
    assert "--tokenizer" not in asked
    last = len(asked) - 1 - asked[::-1].index("--max-num-seqs")
    assert asked[last + 1] == "64"  # ours comes first: argparse takes the last
    of_arm = len(noted(vllm, "bench")) // 2
    first, second = noted(vllm, "bench")[:of_arm]
    assert noted(vllm, "bench")[of_arm][2:] != first[2:]  # another port and file
    for words, concurrency, count in ((first, 1, 16), (second, 8, 24)):
        pairs = dict(itertools.pairwise(words))
        assert "--ignore-eos" in words
        assert pairs["--dataset-name"] == "random"
        assert (pairs["--random-input-len"], pairs["--random-output-len"]) == ("512", "128")
        assert (pairs["--max-concurrency"], pairs["--num-prompts"]) == (
            str(concurrency),
            str(count),
        )


def test_a_run_cut_off_is_continued_at_its_concurrency(vllm, capsys):
    assert server.main(arguments(vllm, stock="fails@8")) == 1
    printed = capsys.readouterr().out
    assert "stock 0: vllm bench serve: 1; the end of" in printed
    assert "connection refused" in printed
    assert "1 processes failed; --resume" in printed
    rows = json.loads((vllm / "out.json").read_text())["runs"]["stock"][0]["rows"]
    assert [row["concurrency"] for row in rows] == [1]

    path = vllm / "out.json"  # the fault is gone, and with it from the arm
    path.write_text(path.read_text().replace("fails@8", ""))
    before = len(noted(vllm, "bench"))
    assert server.main(arguments(vllm, "--resume")) == 0
    assert "ours 0: is in" in capsys.readouterr().out
    assert len(noted(vllm, "bench")) == before + 1
    run = json.loads(path.read_text())["runs"]["stock"][0]
    assert [row["concurrency"] for row in run["rows"]] == [1, 8]
    assert len(run["ready_s"]) == 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [("dies", "ended with 1 while it started; the end of"), ("hangs", "not ready after 2 s")],
)
def test_a_server_that_does_not_start_shows_the_end_of_its_log(vllm, capsys, fault, message):
    assert server.main(arguments(vllm, "--start-limit", "2", stock=fault)) == 1
    printed = capsys.readouterr().out
    assert f"stock 0: vllm serve: {message}" in printed
    assert "serving" in printed
    assert ("no such model" in printed) == (fault == "dies")
    assert len(json.loads((vllm / "out.json").read_text())["runs"]["ours"]) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_server_ends_with_the_benchmark(vllm, number):
    """Of SIGKILL only the server itself hears: vLLM's ends its engine then, the fake does not."""
    command = [sys.executable, "-m", "benchmarks.server"]
    process = subprocess.Popen(
        [*command, *arguments(vllm), "--arm", f"x:PYTHONPATH={vllm / 'installed'},FAKE=hangs"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while len(noted(vllm, "serve")) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    main, engine = noted(vllm, "serve")[2]["pids"]
    assert alive(main) and alive(engine)
    process.send_signal(number)
    assert process.wait(60) != 0
    deadline = time.monotonic() + 10
    while alive(main) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(main)
    if number == signal.SIGKILL:
        os.kill(engine, signal.SIGKILL)
        while alive(engine):
            time.sleep(0.1)
    assert not alive(engine)


def test_a_checkpoint_without_a_tokenizer_gets_one(vllm):
    model = vllm / "model"
    model.mkdir()
    (model / "config.json").write_text('{"vocab_size": 50, "eos_token_id": 9}')
    assert tokenizer.missing(str(model))
    assert not tokenizer.missing("Qwen/Qwen3-8B-FP8")
    assert server.main([*arguments(vllm), "--model", str(model)]) == 0
    folder = vllm / "logs/tokenizer"
    for kind in ("serve", "bench"):
        words = noted(vllm, kind)[0]
        words = words["arguments"] if kind == "serve" else words
        assert words[words.index("--tokenizer") + 1] == str(folder)
    written = json.loads((folder / "tokenizer.json").read_text())
    assert written["model"]["vocab"] == {f"t{i}": i for i in range(50)}
    assert not tokenizer.missing(str(folder))


def test_random_ids_survive_the_tokenizer(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    (tmp_path / "config.json").write_text('{"vocab_size": 50, "eos_token_id": 9}')
    tokenizer.write(str(tmp_path), tmp_path / "out")
    made = tokenizers.Tokenizer.from_file(str(tmp_path / "out/tokenizer.json"))
    ids = [7, 7, 0, 49, 12, 1]
    assert made.encode(made.decode(ids)).ids == ids
