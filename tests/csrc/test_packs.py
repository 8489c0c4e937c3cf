# SPDX-License-Identifier: Apache-2.0
"""Plans whose launchers come from packs: what is launched, what is compiled, what is said."""

import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from samples import SMALL, arguments

from helion_kernels import OPS, launch, native, packs, plan, select, split_k
from helion_kernels.aot import describe
from helion_kernels.aot import pack as pack_file

CUDA = torch.device("cuda", 0)
WRITE = "fused_qk_norm_rope_kv_write"
pytestmark = pytest.mark.usefixtures("unplanned")


@pytest.fixture
def compiled(monkeypatch):
    """What would be compiled, and the kernel's arguments of each of its launches."""
    seen = SimpleNamespace(configs=[], calls=[])

    def generate(op, dims, config):
        seen.configs.append((op.name, config))

    monkeypatch.setattr(launch, "generate", generate)
    monkeypatch.setattr(launch, "build", lambda *_: lambda *args: seen.calls.append(args))
    return seen


def wanted(*names):
    return [(OPS[name], SMALL[name]) for name in names or SMALL]


def args_of(name, num_tokens):
    signature = describe.signature(OPS[name], OPS[name].dims(*SMALL[name]))
    return arguments(signature, num_tokens, 0, "cpu")


def prepare(*names, folders=(), most=16384):
    ids = plan.prepare(wanted(*names), most, CUDA, pack_folders=folders)
    return [plan.PLANS[i] for i in ids]


def test_a_pack_with_everything_leaves_nothing_to_compile(mock, pack_path, compiled):
    # Where an entry says stock and there is none, a rule's config runs that no pack has.
    for name in SMALL:
        plan.register_stock(name, lambda *_: None)
    for planned in prepare(folders=[pack_path.parent]):
        assert set(planned.kinds) <= {"pack", "stock"}
        operator, number = plan.entry(plan.PLANS.index(planned))
        before = mock.launches
        operator(*args_of(planned.op.name, 5), number)
        assert mock.launches == before + ("stock" not in planned.kinds)
        if planned.native is not None:
            assert operator is native.operator(planned.op.name)
            plan.run(planned.op, plan.PLANS.index(planned), tuple(args_of(planned.op.name, 5)))
            assert mock.launches == before + 2
    assert compiled.configs == []


def test_the_packages_own_pack_is_found(mock, pack_path, compiled, monkeypatch):
    monkeypatch.setattr(packs, "SHIPPED", pack_path.parent)
    (planned,) = prepare(WRITE)
    assert planned.native is not None
    assert compiled.configs == []


def test_launchers_mix(mock, pack_path, compiled, monkeypatch):
    """Each takes the op's own arguments; what is compiled is given the kernel's."""
    op, stock = OPS[WRITE], []
    plan.register_stock(WRITE, lambda *args: stock.append(args))
    packed = op.default_config(op.dims(*SMALL[WRITE]), 16)
    other = packed | {"num_warps": 16}
    choices = [
        select.Choice("exact", config, upto, "")
        for config, upto in ((packed, 4), (None, 8), (other, 16), (packed, 32))
    ]
    monkeypatch.setattr(plan, "_choices", lambda *_: choices)
    (planned,) = prepare(WRITE, folders=[pack_path.parent], most=32)
    assert planned.kinds == ["pack", "stock", "compiled", "pack"]
    assert planned.native is None
    assert plan.entry(0) == (getattr(torch.ops.helion_kernels, WRITE).default, 0)
    assert compiled.configs == [(WRITE, other)]
    before = mock.launches
    for num_tokens, launched, by_stock, by_compiled in (
        (4, 1, 0, 0),
        (5, 1, 1, 0),
        (9, 1, 1, 1),
        (17, 2, 1, 1),
        (99, 3, 1, 1),
    ):
        args = args_of(WRITE, num_tokens)
        plan.run(op, 0, tuple(args))
        assert mock.launches - before == launched
        assert (len(stock), len(compiled.calls)) == (by_stock, by_compiled)
    assert len(stock[0]) == len(op.arguments)
    assert len(compiled.calls[0]) == len(op.arguments) + 4
    assert compiled.calls[0][1].dim() == 1  # the cache as the kernel has it


def refused(caplog, path):
    (record,) = [r for r in caplog.records if r.name == "helion_kernels.packs"]
    message = record.getMessage()
    assert message.count(str(path)) == 1
    assert "\n" not in message
    return message


@pytest.mark.parametrize("why", ["damaged", "stale", "is for sm_80", "truncated"])
def test_a_pack_that_cannot_be_used_is_named_once(
    why, mock, kernels, pack_path, compiled, tmp_path, caplog
):
    data = pack_path.read_bytes()
    content = {
        "damaged": data[:-1] + bytes([data[-1] ^ 1]),
        "truncated": data[:-1],
        "stale": pack_file.to_bytes(replace(kernels.pack, fingerprint="0")),
        "is for sm_80": pack_file.to_bytes(replace(kernels.pack, target="sm_80")),
    }[why]
    (tmp_path / "sm_90.pack").write_bytes(content)
    for planned in prepare(WRITE, "scaled_mm_blockwise", folders=[tmp_path]):
        assert set(planned.kinds) == {"compiled"}
    message = refused(caplog, tmp_path / "sm_90.pack")
    assert why in message
    assert "make it again" in message
    assert compiled.configs


def test_without_the_library(pack_path, compiled, monkeypatch, caplog):
    monkeypatch.setattr(native, "_loaded", None)
    monkeypatch.setenv("HELION_KERNELS_NATIVE", "/nowhere/native.so")
    (planned,) = prepare(WRITE, folders=[pack_path.parent])
    assert set(planned.kinds) == {"compiled"}
    assert "/nowhere/native.so" in refused(caplog, pack_path)


def test_code_that_does_not_load(mock, pack_path, compiled, caplog):
    mock.fail("cuModuleLoadData", 209)
    first, second = prepare(WRITE, "scaled_mm_blockwise", folders=[pack_path.parent])
    assert set(first.kinds) == set(second.kinds) == {"compiled"}
    assert first.native is None
    assert "cuModuleLoadData" in refused(caplog, pack_path)


def test_a_dry_run_loads_nothing_and_says_what_would_launch(mock, pack_path, compiled):
    loads = mock.loads
    (dry,) = plan.dry_run(wanted(WRITE), 8192, CUDA, [pack_path.parent])
    assert set(dry.kinds) == {"pack"}
    assert mock.loads == loads
    (dry,) = plan.dry_run(wanted(WRITE), 8192, CUDA)
    assert set(dry.kinds) == {"compiled"}


def test_the_table_names_the_launcher(mock, pack_path, compiled):
    report = pytest.importorskip("vllm.helion.report")
    rows = report.rows(plan.dry_run(wanted(WRITE), 8192, CUDA, [pack_path.parent]))
    assert {row[report.HEADER.index("launcher")] for row in rows} == {"pack"}


@pytest.mark.parametrize("on", [False, True])
def test_the_switch_of_pdl_reaches_both_kinds_of_launcher(
    on, mock, pack_path, compiled, monkeypatch
):
    told = []
    monkeypatch.setattr(plan, "_pdl", True)
    monkeypatch.setattr(native, "set_pdl", told.append)
    monkeypatch.setattr(launch, "build", lambda *args: told.append(args[-1]))
    plan.use_pdl(on)
    prepare(WRITE)
    assert len(told) > 1
    assert set(told) == {on}


@pytest.mark.parametrize("traced", [False, True])
def test_a_layer_calls_the_dispatcher_unless_it_is_traced(
    traced, mock, pack_path, compiled, monkeypatch
):
    prepare_module = pytest.importorskip("vllm.helion.prepare")
    from vllm.config.compilation import CompilationMode
    from vllm.helion import layer, report, switches

    call = layer.Call(WRITE, *SMALL[WRITE])
    model = torch.nn.Sequential(torch.nn.Identity())
    model[0].helion = SimpleNamespace(calls=[call], attends=False)
    mode = CompilationMode.VLLM_COMPILE if traced else CompilationMode.NONE
    worker = SimpleNamespace(
        device=CUDA,
        model_runner=SimpleNamespace(get_model=lambda: model),
        vllm_config=SimpleNamespace(
            compilation_config=SimpleNamespace(mode=mode),
            scheduler_config=SimpleNamespace(max_num_batched_tokens=64),
            model_config=SimpleNamespace(model="a model"),
            parallel_config=SimpleNamespace(tensor_parallel_size=1),
            num_speculative_tokens=0,
        ),
    )
    monkeypatch.setattr(switches, "cache_folder", lambda: pack_path.parent)
    monkeypatch.setattr(prepare_module, "_progress", lambda: lambda done, total: None)
    monkeypatch.setattr(report, "log", lambda *_: None)
    workspace = torch.zeros(1)  # where there is no GPU to have one
    monkeypatch.setattr(split_k, "shared", lambda device: workspace)
    prepare_module.prepare(worker)
    assert model[0].helion.workspace is workspace
    ours = getattr(torch.ops.helion_kernels, WRITE).default
    assert call.function is (ours if traced else native.operator(WRITE))
    if not traced:
        before = mock.launches
        call(*args_of(WRITE, 5))
        assert mock.launches == before + 1


def test_a_process_that_compiles_nothing_imports_neither_helion_nor_triton(built, pack_path):
    program = """
import sys
from pathlib import Path
import torch
from helion_kernels import OPS, plan
torch.cuda.get_device_capability = lambda device=None: (9, 0)
torch.cuda.get_device_name = lambda device=None: "NVIDIA H100"
op = OPS[sys.argv[1]]
dims = tuple(map(int, sys.argv[2].split()))
device = torch.device("cuda", 0)
(number,) = plan.prepare([(op, dims)], 64, device, pack_folders=[Path(sys.argv[3])])
print(plan.PLANS[number].kinds, [name for name in ("helion", "triton") if name in sys.modules])
"""
    env = {
        "HELION_KERNELS_CUDA_DRIVER": str(built / "mock_cuda.so"),
        "HELION_KERNELS_NATIVE": str(built / "helion_kernels_native.so"),
    }
    dims = " ".join(map(str, SMALL[WRITE]))
    done = subprocess.run(
        [sys.executable, "-c", program, WRITE, dims, str(pack_path.parent)],
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kinds, _, imported = done.stdout.strip().rpartition("] [")
    assert set(kinds.strip("[]").replace("'", "").split(", ")) == {"pack"}
    assert imported == "]"
