# SPDX-License-Identifier: Apache-2.0
"""CUDA C++ -> cubin, in processes of their own: NVRTC does not bear the mock of the driver."""

import subprocess
import sys

import pytest

from helion_kernels.aot import deep_gemm, nvrtc

PROGRAM = """
import sys
from helion_kernels.aot import nvrtc
try:
    code, symbol = nvrtc.compile(sys.argv[1], sys.argv[2], ["--gpu-architecture=sm_90a"])
    print(code[:4], symbol)
except nvrtc.CompileError as error:
    print(error)
"""


def compiled(source: str, name: str) -> str:
    pytest.importorskip("cuda.bindings.nvrtc")
    command = [sys.executable, "-c", PROGRAM, source, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_instance_that_is_named() -> None:
    source = "template <int n> __global__ void fill(int* to) { *to = n; }"
    assert compiled(source, "&fill<7>") == "b'\\x7fELF' _Z4fillILi7EEvPi\n"


@pytest.mark.parametrize(
    ("source", "name", "why"),
    [
        ("__global__ void fill(int* to) { *to = missing; }", "&fill", '"missing" is undefined'),
        ("__global__ void fill(int* to) {}", "&other", "other"),
    ],
)
def test_what_does_not_compile_is_one_line(source, name, why) -> None:
    told = compiled(source, name)
    assert why in told
    assert told.count("\n") == 1


def test_what_is_missing_is_said_with_the_mend(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(deep_gemm, "_folder", lambda: None)
    assert deep_gemm.headers() is None
    assert "vllm" in deep_gemm.missing()
    monkeypatch.setattr(deep_gemm, "_folder", lambda: tmp_path)
    monkeypatch.setattr(nvrtc, "includes", lambda: ())
    assert deep_gemm.headers() is None
    assert f"pip install {deep_gemm.CCCL}" in deep_gemm.missing()
    with pytest.raises(nvrtc.CompileError, match=deep_gemm.CCCL):
        deep_gemm.recipe(deep_gemm.Tile(64, 64).config, (256, 256), tmp_path)
    monkeypatch.setattr(nvrtc, "includes", lambda: (tmp_path,))
    assert deep_gemm.headers() == tmp_path
    assert deep_gemm.missing() == ""


def test_headers_of_a_toolkit_of_cuda_13_alone(monkeypatch, tmp_path) -> None:
    include = tmp_path / "include"
    (include / "cccl/cuda/std").mkdir(parents=True)
    for name in ("cuda_fp8.h", "cccl/cuda/std/cstdint"):
        (include / name).touch()
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    found = {}
    for version in ("12080", "13000"):
        (include / "cuda.h").write_text(f"#define CUDA_VERSION {version}\n")
        nvrtc.includes.cache_clear()
        found[version] = nvrtc.includes()
    nvrtc.includes.cache_clear()
    assert found == {"12080": (), "13000": (include, include, include / "cccl")}
