# SPDX-License-Identifier: Apache-2.0
"""benchmarks.in_step on a step whose time is a sum over its calls; no GPU."""

import json
from concurrent.futures import Future
from functools import partial
from types import SimpleNamespace

import pytest

from benchmarks import in_step
from helion_kernels import OPS
from helion_kernels.qwen3 import MODELS
from helion_kernels.timing import Timing
from helion_kernels.tune.cases import Case
from helion_kernels.tune.device import Trial, key
from helion_kernels.tune.seeds import today

GPU = "NVIDIA H100 80GB HBM3"
SHIPPED_US = 10.0
"""Of each call, with what serves it at first; of those, too, that this step does not make."""
STEP_US = SHIPPED_US * len(in_step.step.names(MODELS["8b"], block=False))


class Device:
    gpu, environment = GPU, {"date": "2026-11-28"}

    def __init__(self, us):
        self.us = us  # (call, config) -> its time in the step

    def compile(self, case, config):
        done = Future()
        done.set_result(config)
        return done


class Bench:
    """Alone every config takes 5 us; those of four stages are wrong."""

    floor_us = 4.0

    def __init__(self, device, case):
        self.device, self.case = device, case

    def look(self, configs):
        for config in configs:
            wrong = "outputs differ" if config["num_stages"] == 4 else ""
            yield Trial(config, float("inf") if wrong else 5.0, wrong)

    def launcher(self, config):
        return SimpleNamespace(config=config)


class Model:
    def __init__(self, sizes, layers, block, num_tokens, entries, context, spread):
        assert spread == in_step.SPREAD
        self.block, self.entries, self.context = block, entries, context
        self.few = in_step.step.is_few(sizes, block, num_tokens)

    def step(self):
        raise AssertionError("there is no GPU")


@pytest.fixture
def world(monkeypatch, tmp_path):
    """(what a config costs in the step; a run of in_step; the entries it wrote, by op)"""
    us = {}

    def graph(arm, calls):
        (step,) = arm
        model, total = step.__self__, 0.0
        for call, (function, _) in model.entries.items():
            searched = (call, key(function.args[0].config)) if isinstance(function, partial) else ()
            total += us.get((*searched, model.context), us.get(searched, SHIPPED_US))
        return total

    monkeypatch.setattr(in_step, "GpuBench", Bench)
    monkeypatch.setattr(in_step.step, "Model", Model)
    monkeypatch.setattr(in_step.timing, "Graph", graph)
    monkeypatch.setattr(
        in_step.timing, "measure", lambda graphs, rounds: [Timing(t, t, t) for t in graphs]
    )

    def run(*calls, block=False, num_tokens=8, contexts=(512,)):
        entries = {
            call: (lambda *args: None, 0) for call in in_step.step.names(MODELS["8b"], block)
        }
        search = in_step.Search(Device(us), "8b", block, num_tokens, entries, contexts)
        in_step.choose(search, calls, 1000, tmp_path)
        return search

    def written():
        return {
            path.stem: json.loads(path.read_text())["entries"]
            for path in tmp_path.glob("nvidia_h100/*.json")
        }

    return SimpleNamespace(us=us, run=run, written=written)


def space(call, block=False, num_tokens=8):
    wanted = in_step.step.wanted(MODELS["8b"], block)
    name, dims = dict(zip(in_step.step.names(MODELS["8b"], block), wanted, strict=True))[call]
    op = OPS[name]
    now = today(Case(op, op.dims(*dims), num_tokens, 1.0), GPU)
    found = [c for c in op.space(op.dims(*dims), num_tokens) if c["num_stages"] != 4]
    return op, [c for c in found if c not in now]


def test_sequences_of_a_step_differ():
    assert in_step.step.lengths_of(1, 512, 0.5) == [512]
    assert in_step.step.lengths_of(2, 512, 0.5) == [256, 768]
    lengths = in_step.step.lengths_of(32, 8192, 0.5)
    assert (min(lengths), max(lengths), sum(lengths) // 32) == (4096, 12288, 8192)
    assert in_step.step.lengths_of(32, 512, 0.0) == [512] * 32


def test_what_gains_is_kept_and_written(world, capsys):
    op, (first, second, *_) = space("qkv")
    world.us["qkv", key(first)] = 8.0
    world.us["qkv", key(second)] = 7.0
    search = world.run("qkv", "down")
    ((before, now),) = search.layer_us()
    assert (before - now) * search.layers == pytest.approx(3.0)
    (entry,) = world.written()[op.name]
    assert entry["config"] == second
    assert (entry["upto"], entry["tokens"], entry["us"]) == (8, [8], 5.0)
    assert entry["provenance"]["step"] == {"512": round((STEP_US - 3) / STEP_US, 4)}
    assert "in_step" in entry["provenance"]["method"]
    out = capsys.readouterr().out
    assert out.count("not taken") == 1  # down, of which no config gains anything
    assert "now" in out


def test_the_best_of_one_call_is_there_when_the_next_is_searched(world):
    _, (one, *_) = space("qkv")
    _, (other, *_) = space("gate_up")
    world.us |= {("qkv", key(one)): 5.0, ("gate_up", key(other)): 5.0}
    world.run("qkv", "gate_up")
    qkv, gate_up = sorted(world.written()["scaled_mm"], key=lambda e: e["dims"]["n"])
    assert qkv["provenance"]["step"] == {"512": round((STEP_US - 5) / STEP_US, 4)}
    expected = (STEP_US - 10) / (STEP_US - 5)
    assert gate_up["provenance"]["step"] == {"512": round(expected, 4)}


def test_few_tokens_have_calls_of_their_own(world, capsys):
    _, (config, *_) = space("few_o")
    world.us["few_o", key(config)] = 5.0
    world.run("o", "norm")
    assert set(world.written()) == {"scaled_mm_groupwise"}
    assert "few_o" in capsys.readouterr().out
    world.run("o", num_tokens=16)
    assert "few_o" not in capsys.readouterr().out


def test_a_config_may_lose_at_no_context(world):
    op, (long, short, both, *_) = space("few_attention")
    for config, *us in ((long, 12.0, 1.0), (short, 1.0, 12.0), (both, 10.0, 6.0)):
        for context, time in zip((512, 32768), us, strict=True):
            world.us["few_attention", key(config), context] = time
    search = world.run("attention", contexts=(512, 32768))
    (entry,) = world.written()[op.name]
    assert entry["config"] == both
    assert entry["provenance"]["step"] == {
        "512": 1.0,
        "32768": round((STEP_US - 4) / STEP_US, 4),
    }
    now = [now * search.layers for _, now in search.layer_us()]
    assert now == pytest.approx([STEP_US, STEP_US - 4])


def test_less_than_the_gain_is_noise(world):
    _, (config, *_) = space("gate_up")
    world.us["gate_up", key(config)] = SHIPPED_US - in_step.GAIN * STEP_US / 2
    world.run("gate_up")
    assert world.written() == {}


def test_a_wrong_config_is_not_taken(world):
    name, dims = in_step.step.wanted(MODELS["8b"], False)[1]
    wrong = [c for c in OPS[name].space(OPS[name].dims(*dims), 8) if c["num_stages"] == 4]
    assert wrong
    world.us |= {("qkv", key(config)): 1.0 for config in wrong}
    world.run("qkv")
    assert world.written() == {}


@pytest.mark.parametrize(
    ("block", "num_tokens", "made"), [(True, 8, False), (False, 8, False), (False, 16, True)]
)
def test_where_attention_quantises_there_is_no_call_for_it(block, num_tokens, made, world, capsys):
    world.run("quant", block=block, num_tokens=num_tokens)
    assert ("quant" in capsys.readouterr().out) is made


@pytest.mark.parametrize(
    "args",
    [["--calls", "qkv,rope_kv"], ["--tokens", "0"], ["--tokens", "8,65"], ["--context", "512,0"]],
)
def test_what_is_no_decode_step_is_refused(args, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["in_step", *args, "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        in_step.main()
    assert args[1].split(",")[-1] in capsys.readouterr().err
