# SPDX-License-Identifier: Apache-2.0
"""Upstream's Triton kernels, made ready beforehand: the recorded ones, packs, and the threads."""

import importlib.util
import io
import json
import shutil
import sys
import tarfile
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import triton
from triton import knobs
from triton.runtime.jit import MockTensor

from helion_kernels.aot.target import TARGETS, pretend
from vllm.helion.upstream import background, kernel, make, pack, record
from vllm.helion.upstream.kernel import Kernel

MODULE = "vllm_kernels_of_a_test"
SOURCE = """
import triton
import triton.language as tl


@triton.jit
def twice(x):
    return x * 2


@triton.jit(do_not_specialize=["n"])
def double(out, n, stride, BLOCK: tl.constexpr):
    i = tl.program_id(0) * stride + tl.arange(0, BLOCK)
    tl.store(out + i, twice(tl.load(out + i, mask=i < n)), mask=i < n)
"""
ARGUMENTS = {"out": "*fp32:16", "n": "i32", "stride": "i32:16", "BLOCK": 64}
WARM_UP = Kernel(f"{MODULE}.double", ARGUMENTS, {}, warm_up=True)
REQUEST = Kernel(f"{MODULE}.double", ARGUMENTS | {"stride": "i32"}, {"num_warps": 1}, warm_up=False)


def test_nothing_is_recorded_twice():
    kernels = kernel.read(*kernel.LOGITS)
    seen = [json.dumps([k.function, k.arguments, k.options]) for k in kernels]
    assert len(set(seen)) == len(seen)


def test_kernels_of_logits_are_there_for_either_type():
    bf16, fp32 = (kernel.read(kind) for kind in kernel.LOGITS)
    assert kernel.read() == bf16
    assert {each.function for each in fp32} == {each.function for each in bf16}
    of_logits = [each for each in bf16 if each not in fp32]
    assert len(of_logits) > 10
    for each in of_logits:
        assert "*bf16:16" in each.arguments.values()
        twin = each.on("fp32")
        assert twin in fp32
        assert "*bf16:16" not in twin.arguments.values()
        assert (twin.options, twin.warm_up) == (each.options, each.warm_up)


class Engine:
    """A worker on a GPU that is none, with upstream's kernels of SOURCE."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.log, self.launchers, self.compilations = Mock(), [], []
        self.file = folder / "sm_90.tar.xz"
        from triton.runtime import driver

        driver._active.launcher_cls = lambda source, _: self.launchers.append(source)
        for owner, name, value in [
            (torch.cuda, "set_device", lambda _: None),
            (kernel, "read", lambda *logits: [WARM_UP, REQUEST]),
            (pack, "path", lambda _: self.file),
            (background, "logger", self.log),
            (background, "_engine_is_ready", lambda: False),
            (knobs.compilation, "listener", self._listen),
        ]:
            monkeypatch.setattr(owner, name, value)
        self.restart()

    def _listen(self, *, src, cache_hit, **_):
        self.compilations.append(cache_hit)

    def restart(self, source: str = SOURCE) -> None:
        """The module as a fresh process would import it."""
        path = self.folder / f"{MODULE}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(MODULE, path)
        self.module = importlib.util.module_from_spec(spec)
        self.monkeypatch.setitem(sys.modules, MODULE, self.module)
        spec.loader.exec_module(self.module)
        self.monkeypatch.setattr(background, "_started", False)
        self.compilations.clear(), self.launchers.clear(), self.log.reset_mock()

    def cache(self, name: str) -> Path:
        folder = self.folder / name
        self.monkeypatch.setattr(knobs.cache, "dir", str(folder))
        return folder

    def build(self) -> None:
        self.cache("at the build")
        self.make(kernel.read())
        self.restart()
        self.cache("at the start")

    def make(self, kernels: list[Kernel]) -> None:
        # As `make.make` does: line numbers bring the source's path and time.
        with knobs.compilation.scope():
            knobs.compilation.disable_line_info = True
            pack.write(map(make.compile_one, kernels), self.file)

    def start(self) -> str:
        """What was said of it."""
        thread = background.start("bf16")
        if thread is None:
            return ""
        thread.join()
        calls = self.log.info.call_args_list
        return calls[0].args[2] if calls else ""

    def launch(self, each: Kernel) -> None:
        """As upstream's warm-up does; nothing runs."""
        stride = 16 if each is WARM_UP else 17
        arguments = (MockTensor(torch.float32), 5, stride, 64)
        self.module.double.run(*arguments, grid=(1,), warmup=True, **each.options)


@pytest.fixture
def engine(tmp_path, monkeypatch):
    with pretend(TARGETS["sm_90"]):
        engine = Engine(tmp_path, monkeypatch)
        engine.build()
        yield engine


def test_with_a_pack_nothing_is_compiled(engine):
    assert engine.start() == "2 from the wheel"
    assert engine.compilations == [True, True]
    assert len(engine.launchers) == 2
    for each in (WARM_UP, REQUEST):
        engine.launch(each)
    assert len(engine.compilations) == 2  # both launches found theirs in the process


def test_the_next_start_finds_triton_s_cache_as_it_is(engine):
    engine.start()
    before = {p: p.stat().st_mtime_ns for p in engine.folder.glob("at the start/*/*")}
    assert len(before) == 6
    engine.restart()
    assert engine.start() == "2 from the wheel"
    assert {p: p.stat().st_mtime_ns for p in engine.folder.glob("at the start/*/*")} == before


def test_it_begins_once(engine):
    engine.start()
    assert background.start("bf16") is None


def test_without_a_pack_what_warm_up_runs_is_compiled(engine):
    engine.file.unlink()
    assert engine.start() == "1 compiled, 1 left to upstream"
    engine.launch(WARM_UP)
    assert engine.compilations == [False]


def test_changed_source_is_compiled(engine):
    """Of a function that the kernel calls: Triton's key covers that, and so does ours."""
    engine.restart(SOURCE.replace("x * 2", "x + x"))
    assert engine.start() == "1 compiled, 1 left to upstream"


def test_another_triton_compiles(engine, monkeypatch):
    monkeypatch.setattr(triton, "__version__", "3.6.1")
    assert engine.start() == "1 compiled, 1 left to upstream"


def test_settings_that_change_code_compile(engine, monkeypatch):
    monkeypatch.setenv("TRITON_DISABLE_LINE_INFO", "1")
    assert engine.start() == "1 compiled, 1 left to upstream"


def test_changed_arguments_are_left_to_upstream(engine):
    engine.restart(SOURCE.replace("stride", "step"))
    assert engine.start() == "2 left to upstream"


def test_a_module_that_the_engine_does_not_use_is_not_imported(engine, monkeypatch):
    monkeypatch.delitem(sys.modules, MODULE)
    assert engine.start() == "2 left to upstream"
    assert MODULE not in sys.modules


def test_once_the_engine_is_ready_nothing_is_compiled(engine, monkeypatch):
    monkeypatch.setattr(background, "_engine_is_ready", lambda: True)
    assert engine.start() == "2 left to upstream"
    assert engine.compilations == []


def test_damaged_code_is_not_used(engine):
    contents = pack.Pack(engine.file).contents
    with tarfile.open(engine.file, "w:xz") as archive:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            edited = data if name == pack.INDEX else data[:-1] + b"?"
            archive.addfile(member, io.BytesIO(edited))
    assert engine.start() == "2 left to upstream"
    assert "is damaged" in repr(engine.log.debug.call_args_list)
    assert not list(engine.folder.glob("at the start/*/*.cubin"))


def test_a_damaged_pack_is_said_once_and_compiled(engine):
    engine.file.write_bytes(engine.file.read_bytes()[:-100])
    assert engine.start() == "1 compiled, 1 left to upstream"
    engine.log.warning.assert_called_once()


def test_no_compiler_for_launchers_stops_nothing(engine, monkeypatch):
    from triton.runtime import driver

    driver._active.launcher_cls = Mock(side_effect=RuntimeError("Failed to find C compiler"))
    assert engine.start() == "2 left to upstream"


def test_a_cache_that_cannot_be_written_stops_nothing(engine):
    engine.cache("file").write_text("a file where the folder should be")
    assert engine.start() == "2 left to upstream"


def test_data_that_cannot_be_read_stops_nothing(engine, monkeypatch):
    monkeypatch.setattr(kernel, "read", Mock(side_effect=OSError))
    assert background.start("bf16") is None


@pytest.mark.parametrize("cache", ["at the build", "at another build"])
def test_packs_are_the_same_wherever_they_are_made(engine, monkeypatch, cache):
    """Also in an installation elsewhere that has the same Triton, and shares its cache."""
    first = engine.file.read_bytes()
    engine.cache(cache)
    library = Path(triton.__file__).parent / "backends/nvidia/lib/libdevice.10.bc"
    monkeypatch.setattr(knobs.nvidia, "libdevice_path", shutil.copy(library, engine.folder))
    time.sleep(1.1)
    engine.restart()
    engine.make(kernel.read()[::-1])
    assert engine.file.read_bytes() == first


def test_what_triton_says_of_a_kernel_is_recorded_as_that_kernel(engine):
    for each in (WARM_UP, REQUEST):
        data = each.preload_data(engine.module.double)
        assert record.described(data, each.warm_up) == each


def test_a_recording_is_read_as_it_was_written(tmp_path):
    file = tmp_path / "kernels.json"
    file.write_text(record.to_json([WARM_UP, REQUEST, WARM_UP], {"vllm": "0.26.0"}))
    assert kernel.read(path=file) == [WARM_UP, REQUEST]


def test_a_new_recording_keeps_what_other_requests_need():
    again = Kernel(REQUEST.function, REQUEST.arguments, REQUEST.options, warm_up=True)
    assert record.merge([WARM_UP, WARM_UP], [again, REQUEST]) == [WARM_UP, REQUEST]
    assert record.merge([again], [WARM_UP, REQUEST]) == [again]


def test_the_shipped_recording_is_in_the_recorder_s_form():
    facts = json.loads(kernel.RECORDED.read_text())
    del facts["kernels"]
    assert kernel.RECORDED.read_text() == record.to_json(kernel.read(), facts)
