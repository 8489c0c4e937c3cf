# SPDX-License-Identifier: Apache-2.0
"""Packs: the same bytes each time, and no pack but a sound, fitting one is read."""

import ast
import lzma
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import helion_kernels
from helion_kernels import launch
from helion_kernels.aot import build, pack
from helion_kernels.aot.index import PackError

WANTED = [
    ("dynamic_per_token_scaled_fp8_quant", (256,)),
    ("fused_qk_norm_rope_kv_write", (4, 2, 128)),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    todo = build.jobs(WANTED, "sm_90")
    return build.build(todo, "sm_90", tmp_path_factory.mktemp("cache"), 2)


@pytest.fixture(scope="module")
def data(built):
    return pack.to_bytes(built)


def test_a_pack_survives_its_file(built, data, tmp_path):
    path = tmp_path / "sm_90.pack"
    path.write_bytes(data)
    assert pack.read(path, "sm_90") == built
    for job in build.jobs(WANTED, "sm_90"):
        kernel = built.find(job.op, job.dims, job.config)
        assert built.cubins[kernel.cubin][:4] == b"\x7fELF"
    assert built.find("scaled_mm", (256, 256), "") is None


def test_the_same_bytes_from_another_process_and_from_the_cache(data, tmp_path):
    todo = build.jobs(WANTED, "sm_90")
    seen = []
    for _ in range(2):
        again = build.build(todo, "sm_90", tmp_path, 1, lambda *done: seen.append(done))
        assert pack.to_bytes(again) == data
    assert seen[-1] == (len(todo), len(todo))


def test_nothing_of_this_machine_is_in_a_pack(built):
    for code in built.cubins.values():
        assert not re.search(rb"/[\w.-]{3,}/[\w.-]{3,}", code)


def test_a_damaged_cache_is_compiled_anew(data, tmp_path):
    (job, *_) = build.jobs(WANTED, "sm_90")
    first = build.compile_job(job, tmp_path)
    cached = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(cached) == 2
    for path in cached:
        path.write_bytes(path.read_bytes()[:-1])
    assert build.compile_job(job, tmp_path) == first


def test_a_build_that_changes_nothing_generates_nothing(tmp_path, monkeypatch):
    (job, *_) = build.jobs(WANTED, "sm_90")
    first = build.compile_job(job, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(launch, "generate", lambda *_: pytest.fail("generated"))
        assert build.compile_job(job, tmp_path) == first
    asked, generate = [], launch.generate
    monkeypatch.setenv("HELION_SOMETHING", "1")
    monkeypatch.setattr(launch, "generate", lambda *job: asked.append(job) or generate(*job))
    assert build.compile_job(job, tmp_path) == first
    assert len(asked) == 1


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_edit_is_noticed(data, draw):
    position = draw.draw(st.integers(0, len(data) - 1))
    flip = draw.draw(st.integers(1, 255))
    edited = bytearray(data)
    edited[position] ^= flip
    with pytest.raises(PackError):
        pack.from_bytes(bytes(edited))
    with pytest.raises(PackError):
        pack.from_bytes(data[:position])
    with pytest.raises(PackError):
        pack.from_bytes(data + bytes([flip]))


def test_refusals_are_one_line_each(built, data, tmp_path):
    path = tmp_path / "a.pack"
    for content, why in (
        (data[:1000], "truncated"),
        (data[:-1] + b"x", "damaged or edited"),
        (b"PK" + data, "no pack of this version"),
        (pack.to_bytes(replace(built, fingerprint="0")), "stale"),
        (pack.to_bytes(replace(built, target="sm_80")), "is for sm_80, this device is sm_90"),
    ):
        path.write_bytes(content)
        with pytest.raises(PackError, match=why) as caught:
            pack.read(path, "sm_90")
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
    with pytest.raises(PackError, match="No such file"):
        pack.read(tmp_path / "none.pack")


def test_another_source_makes_a_pack_stale(monkeypatch, tmp_path, data):
    for name in ("ops/op.py", *pack._SHARED):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("other")
    monkeypatch.setattr(pack, "_PACKAGE", tmp_path)
    pack.fingerprint.cache_clear()
    (tmp_path / "a.pack").write_bytes(data)
    try:
        with pytest.raises(PackError, match="stale"):
            pack.read(tmp_path / "a.pack")
    finally:
        pack.fingerprint.cache_clear()


def test_whatever_an_op_imports_is_in_the_fingerprint():
    """But for what chooses configs and describes ops: a pack names each kernel's config."""
    package = Path(helion_kernels.__file__).parent
    known = {f"helion_kernels.{name.removesuffix('.py')}" for name in pack._SHARED}
    known |= {"helion_kernels.op", "helion_kernels.gemm"}
    for source in (package / "ops").glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            names = {node.module}
            if node.module == "helion_kernels":
                names = {f"helion_kernels.{alias.name}" for alias in node.names}
            ours = {name for name in names if name.startswith("helion_kernels")}
            assert all(n in known or n.startswith("helion_kernels.ops.") for n in ours), source


@given(st.binary(max_size=200), st.binary(max_size=100))
def test_any_bytes_with_a_right_hash_are_refused(table, code):
    for stored in (table, lzma.compress(table)):
        with pytest.raises(PackError):
            pack.from_bytes(pack.seal(stored, code))
