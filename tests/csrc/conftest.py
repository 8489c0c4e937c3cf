# SPDX-License-Identifier: Apache-2.0
"""The dispatcher, built once and loaded with a mock of the CUDA driver, and a small pack."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "csrc"), str(ROOT / "tests" / "aot")]
from samples import SMALL  # noqa: E402


def tool(name: str) -> str | None:
    """A program of the environment that runs the tests, else of PATH."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """The folder with both libraries."""
    needed = {"cmake": tool("cmake"), "ninja": tool("ninja")}
    missing = [name for name, path in needed.items() if path is None]
    if not any(map(shutil.which, (*os.environ.get("CXX", "").split()[:1], "c++", "clang++"))):
        missing.append("a C++ compiler")
    if missing:
        pytest.skip(f"the dispatcher cannot be built here: no {', '.join(missing)}")
    out = tmp_path_factory.mktemp("csrc")
    configure = [
        needed["cmake"], "-S", str(ROOT / "csrc"), "-B", str(out), "-G", "Ninja", "-DMOCK=ON",
        f"-DCMAKE_MAKE_PROGRAM={needed['ninja']}",
        "-DCMAKE_CXX_FLAGS=-Werror",
    ]  # fmt: skip
    for command in (configure, [needed["ninja"], "-C", str(out)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return out


class Launch(ctypes.Structure):
    """As in csrc/tests/mock_cuda.cpp."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("num_attributes", ctypes.c_uint),
        ("device", ctypes.c_int),
        ("attribute_ids", ctypes.c_int * 4),
        ("stream", ctypes.c_void_p),
        ("size", ctypes.c_uint32),
        ("bytes", ctypes.c_uint8 * 1024),
    )


class Mock:
    """The mock driver that the dispatcher has loaded."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.mock_launches.restype = ctypes.c_int64
        self.library.mock_loads.restype = ctypes.c_int64

    @property
    def launches(self) -> int:
        return self.library.mock_launches()

    @property
    def loads(self) -> int:
        return self.library.mock_loads()

    def last(self) -> Launch:
        launch = Launch()
        self.library.mock_last(ctypes.byref(launch))
        return launch

    def function(self, cubin: bytes, symbol: str) -> int:
        """A handle of a kernel, as cuModuleGetFunction returns it."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.library.mock_set_current(0)
        assert self.library.cuModuleLoadData(ctypes.byref(module), cubin) == 0
        get = self.library.cuModuleGetFunction
        assert get(ctypes.byref(function), module, symbol.encode()) == 0
        self.library.cuFuncSetAttribute(function, 8, 232448)
        return function.value or 0

    def fail(self, name: str, error: int) -> None:
        self.library.mock_fail(name.encode(), error)


@pytest.fixture(scope="session")
def mock(built) -> Mock:
    from helion_kernels import OPS, native

    os.environ["HELION_KERNELS_CUDA_DRIVER"] = str(built / "mock_cuda.so")
    native.load(OPS.values(), built / "helion_kernels_native.so")
    assert native.devices() == 2
    return Mock(built / "mock_cuda.so")


@pytest.fixture(autouse=True)
def _healed(mock):
    """After each test: no failure left over, and no context current, as in a fresh thread."""
    yield
    for name in ("cuModuleLoadData", "cuModuleGetFunction", "cuLaunchKernelEx"):
        mock.fail(name, 0)
    mock.library.mock_set_capability(90)
    mock.library.mock_set_current(-1)


@pytest.fixture(scope="session")
def pack_path(tmp_path_factory) -> Path:
    from helion_kernels.aot import build, pack

    out = tmp_path_factory.mktemp("pack")
    todo = build.jobs(SMALL.items(), "sm_90")
    (out / "sm_90.pack").write_bytes(
        pack.to_bytes(build.build(todo, "sm_90", out / "cache", os.cpu_count() or 1))
    )
    return out / "sm_90.pack"


@pytest.fixture(scope="session")
def kernels(mock, pack_path):
    """The pack's kernels; tests share them and what they have prepared."""
    from helion_kernels import native

    return native.Pack.open(pack_path, 0)


@pytest.fixture
def fresh(mock, pack_path):
    """The same, prepared on no device."""
    from helion_kernels import native

    return native.Pack.open(pack_path, 0)


@pytest.fixture
def unplanned(monkeypatch, tmp_path):
    """As in a process that has planned nothing, on an H100, without a pack in the package."""
    from helion_kernels import packs, plan
    from helion_kernels.aot.target import TARGETS, pretend

    monkeypatch.setattr(plan, "PLANS", [])
    monkeypatch.setattr(plan, "_ids", {})
    monkeypatch.setattr(plan, "_stock", {})
    monkeypatch.setattr(packs, "SHIPPED", tmp_path / "none")
    packs.usable.cache_clear()
    with pretend(TARGETS["sm_90"]):
        yield
    packs.usable.cache_clear()
