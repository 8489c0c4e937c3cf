# SPDX-License-Identifier: Apache-2.0
"""The parts of benchmarks.kernels that need no GPU."""

import json
from types import SimpleNamespace

import pytest

from benchmarks import kernels, stock
from helion_kernels import OPS, timing
from helion_kernels.qwen3 import MODELS, dims_of

L2 = 50 << 20


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(kernels.torch.cuda, "is_available", lambda: False)
    assert kernels.main(["--ops", "scaled_mm"]) == 2
    assert "needs a GPU" in capsys.readouterr().out


def test_arguments():
    options = kernels.parser().parse_args(["--models", "8b,32b", "--tokens", "64,1,1"])
    assert options.models == ["8b", "32b"]
    assert options.tokens == [1, 64]
    assert options.ops == list(OPS)


@pytest.mark.parametrize(
    "arguments", [["--models", "9b"], ["--ops", "mm"], ["--tokens", "0"], ["--tokens", "a"]]
)
def test_wrong_arguments_are_refused_in_a_line(arguments, capsys):
    with pytest.raises(SystemExit):
        kernels.parser().parse_args(arguments)
    assert arguments[1] in capsys.readouterr().err


def test_every_op_of_every_model_has_dims():
    for op in OPS.values():
        for model in MODELS.values():
            for dims in dims_of(model, op.name):
                assert op.bytes_moved(op.dims(*dims), 1) > 0
    with pytest.raises(KeyError, match="mm"):
        dims_of(MODELS["8b"], "mm")


def test_cases_are_met_once():
    found = kernels.cases(["scaled_mm"], ["8b", "8b", "32b"])
    assert len(found) == 10
    assert len(kernels.cases(list(OPS), ["8b"])) == 23


@pytest.mark.parametrize("size", [1, 12_000, 10 << 20, 49 << 20, 51 << 20, 1 << 30])
def test_sets_exceed_the_cache_or_are_called_warm(size):
    sets = timing.sets_needed(size, L2)
    assert 2 <= sets <= timing.MAX_SETS
    if timing.is_cold(size, sets, L2):
        assert size * (sets - 1) > L2  # what ran since the last use of a set fills the cache
    else:
        assert sets == timing.MAX_SETS


def test_graphs_hold_whole_rotations_of_some_length():
    for sets, us in ((2, 5000.0), (64, 2.0), (3, 40.0)):
        calls = timing.calls_per_graph(sets, us)
        assert calls % sets == 0
        assert calls * us >= timing.CALLS_US / 2


def test_median_and_quartiles():
    time = timing.summarise([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (time.low, time.us, time.high) == (2.0, 3.0, 4.0)
    assert timing.summarise([5.0]).us == 5.0


def test_the_floor_is_the_slower_of_memory_and_arithmetic():
    ceilings = timing.Ceilings(3e6, 3e6, 2.9e6, 1e9)
    assert ceilings.floor_us(3_000_000, 0) == 1.0
    assert ceilings.floor_us(3_000_000, 5_000_000_000) == 5.0
    assert timing.Ceilings(3e6, 3e6, 3e6, 0.0).floor_us(3_000_000, 10**12) == 1.0


def row(arm, us, **more):
    return {
        "op": "scaled_mm",
        "dims": {"n": 6144, "k": 4096},
        "num_tokens": 16,
        "arm": arm,
        "us": us,
        "bytes": 25_000_000,
        "flops": 10**9,
        "floor_us": 8.0,
        "l2": "cold",
        **more,
    }


def test_table():
    ours = kernels.line(row("ours", 10.0, problems=[]), 10.0)
    assert "2500 GB/s" in ours
    assert "0.80" in ours
    assert kernels.line(row("cutlass", 20.0), 10.0).rstrip().endswith("0.50")
    assert "WRONG: out" in kernels.line(row("ours", 10.0, problems=["out is wrong"]), 10.0)
    assert "no kernel" in kernels.line(row("cutlass", None, note="no kernel"), 10.0)
    assert "TF/s" in kernels.line(row("ours", 10.0, num_tokens=512), None)


def test_stock_is_skipped_with_a_note_where_there_is_none(monkeypatch):
    def refuse(name):
        raise ImportError(f"no {name}")

    monkeypatch.setattr(stock.importlib, "import_module", refuse)
    assert "skipped" in stock.load()
    assert "deepgemm" not in stock.arms("scaled_mm_blockwise", (1, 1))


def test_every_op_has_a_stock_arm():
    assert set(stock._CSRC) == set(OPS)


def test_without_our_vllm_a_bucket_of_stocks_runs_the_rule(monkeypatch):
    def refuse(name):
        raise ImportError(f"no {name}")

    monkeypatch.setattr(stock.importlib, "import_module", refuse)
    assert "our rule" in stock.register()


@pytest.fixture
def gpu(monkeypatch):
    """Everything that needs a GPU, faked; returns the cases that were measured."""
    measured = []

    def compare(op, dims, m, plan_id, ceilings, options, with_stock, without):
        if m in gpu.breaking and "inductor" not in without:
            raise kernels.BrokenArmError("inductor")
        if m in gpu.failing:
            raise RuntimeError("no such launch\nand more")
        measured.append((op.name, m))
        common = row("ours", 10.0, op=op.name, dims=dims._asdict(), num_tokens=m)
        yield {**common, "config": "stock" if m == 1 else "{}", "problems": []}
        yield {**common, "arm": "cutlass", "us": 15.0}

    gpu = SimpleNamespace(measured=measured, failing=set(), breaking=set())
    for module, name, fake in (
        (kernels.torch.cuda, "is_available", lambda: True),
        (kernels.torch.cuda, "get_device_name", lambda: "NVIDIA H100"),
        (kernels.torch.cuda, "empty_cache", lambda: None),
        (kernels.torch.cuda, "synchronize", lambda: None),
        (kernels.environment, "describe", lambda: {"gpu": "NVIDIA H100"}),
        (kernels.plan, "prepare", lambda wanted, *_, **__: range(len(wanted))),
        (kernels.timing, "measure_ceilings", lambda: timing.Ceilings(3e6, 3e6, 3e6, 1e9)),
        (kernels.stock, "load", lambda: None),
        (kernels.stock, "register", lambda: None),
        (kernels, "compare", compare),
    ):
        monkeypatch.setattr(module, name, fake)
    return gpu


def test_a_run_cut_off_is_continued(gpu, tmp_path, capsys):
    out = tmp_path / "new/out.json"
    arguments = ["--ops", "scaled_mm", "--out", str(out), "--resume", "--tokens"]
    gpu.failing = {16}
    assert kernels.main([*arguments, "1,16,64"]) == 1
    printed = capsys.readouterr().out
    assert "scaled_mm 4096x4096 16: failed: no such launch\n" in printed
    assert "5 cases failed" in printed
    assert len(json.loads(out.read_text())["rows"]) == 5 * 2 * 2

    gpu.failing, gpu.measured[:] = set(), []
    assert kernels.main([*arguments, "1,16,64"]) == 0
    assert gpu.measured == [("scaled_mm", 16)] * 5
    assert len(json.loads(out.read_text())["rows"]) == 5 * 3 * 2
    # five cases of stock's kernel count as 1, the others measured 1.5
    assert (
        f"cutlass {1.5 ** (2 / 3):.2f}x   (5 of 15 are stock's kernel)" in capsys.readouterr().out
    )
    assert kernels.main([*arguments, "1"]) == 0
    assert "nothing left" in capsys.readouterr().out


def test_a_file_of_other_settings_is_not_continued(gpu, tmp_path, capsys):
    out = tmp_path / "out.json"
    arguments = ["--ops", "scaled_mm", "--tokens", "1", "--resume", "--out", str(out)]
    assert kernels.main(arguments) == 0
    before = out.read_text()
    assert kernels.main([*arguments, "--rounds", "3"]) == 2
    assert "whose rounds is 15 and not 3" in capsys.readouterr().out
    out.write_text("{")
    assert kernels.main(arguments) == 2
    assert "cannot be continued" in capsys.readouterr().out
    out.write_text(before)
    assert kernels.main(["--resume"]) == 2
    assert kernels.main(arguments) == 0


@pytest.mark.parametrize("error", [kernels.torch.AcceleratorError, RuntimeError])
def test_a_gpu_in_error_ends_the_run(error, gpu, monkeypatch, tmp_path):
    tried = []

    def fail(*arguments):
        tried.append(arguments)
        raise error("illegal address")

    def synchronize():
        raise kernels.torch.AcceleratorError("illegal address")

    monkeypatch.setattr(kernels, "compare", fail)
    monkeypatch.setattr(kernels.torch.cuda, "synchronize", synchronize)
    assert kernels.main(["--ops", "scaled_mm", "--out", str(tmp_path / "out.json")]) == 1
    assert json.loads((tmp_path / "out.json").read_text())["rows"] == []
    assert len(tried) == 1


def test_a_run_goes_on_without_an_arm_that_lost_the_gpu(gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(kernels, "go_on", lambda arguments: kernels.main(arguments))
    gpu.breaking = {16}
    out = tmp_path / "out.json"
    arguments = ["--ops", "scaled_mm", "--tokens", "1,16", "--out", str(out)]
    assert kernels.main(arguments) == 0
    assert len(gpu.measured) == len(set(gpu.measured)) * 5 == 10
    assert json.loads(out.read_text())["broken"] == [["scaled_mm", "inductor"]]
    assert "scaled_mm 4096x4096 16: inductor lost the GPU" in capsys.readouterr().out
    assert kernels.main(arguments[:-2]) == 1
    assert "with --out the run goes on" in capsys.readouterr().out


@pytest.mark.parametrize("error", [kernels.torch.AcceleratorError, RuntimeError])
def test_the_arm_is_named_that_lost_the_gpu(error, monkeypatch):
    """ours, upstream's and Inductor's are built in turn; the second breaks, then is left out.

    A launcher may report the loss as an error of its own."""
    built = []

    def synchronize():
        if built[-1:] == ["theirs"]:
            raise kernels.torch.AcceleratorError("illegal address")

    class Graph:
        def __init__(self, arms, calls):
            built.append(arms[0]())

        def replay(self):
            if built[-1] == "theirs":
                raise error("illegal address")

    properties = SimpleNamespace(L2_cache_size=L2)
    for module, name, fake in (
        (kernels.torch.cuda, "get_device_properties", lambda _: properties),
        (kernels.torch.cuda, "synchronize", synchronize),
        (kernels.timing, "make_sets", lambda *_: ([()], True)),
        (kernels.timing, "Graph", Graph),
        (kernels.timing, "measure", lambda graphs, _: [timing.summarise([1.0])] * len(graphs)),
        (kernels.stock, "arms", lambda *_: {"theirs": lambda: lambda: "theirs"}),
        (kernels.inductor, "arms", lambda *_: {"inductor": lambda: lambda: "inductor"}),
        (kernels, "check", lambda *_: []),
        (kernels.torch.ops.helion_kernels, "scaled_mm", lambda plan: "ours"),
    ):
        monkeypatch.setattr(module, name, fake)
    choice = SimpleNamespace(key="{}", source="exact")
    plan = SimpleNamespace(choices=[choice], bucket_of=[0])
    monkeypatch.setattr(kernels.plan, "PLANS", [plan])
    op, options = OPS["scaled_mm"], SimpleNamespace(rounds=2, inductor=True)
    ceilings = timing.Ceilings(3e6, 3e6, 3e6, 1e9)
    arguments = (op, op.dims(64, 64), 1, 0, ceilings, options, True)
    with pytest.raises(kernels.BrokenArmError, match=r"^theirs$"):
        list(kernels.compare(*arguments))
    rows = {each["arm"]: each for each in kernels.compare(*arguments, frozenset({"theirs"}))}
    assert rows["theirs"]["us"] is None
    assert rows["ours"]["us"] == rows["inductor"]["us"] == 1.0
    assert built == ["ours", "theirs", "ours", "inductor"]
