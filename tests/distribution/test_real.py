# SPDX-License-Identifier: Apache-2.0
"""Against upstream's real wheels, fetched from the configured index (410 MB): `pytest -m slow`."""

import ast
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from distribution import (
    archive,
    build,
    fatbin,
    fetch,
    foreign,
    recode,
    upstream,
    variant,
    wheel,
)
from distribution.tree import Tree, unpack

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETUPTOOLS_SCM_PRETEND_VERSION_FOR_VLLM_HELION", "0.1")


def built(folder: Path, device: str) -> Path:
    return build.build_wheel(build.configured(ROOT, device), folder)


@pytest.mark.timeout(2400)  # It compiles every kernel of the packs: 14 minutes of two cores.
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_same_bytes_twice(tmp_path: Path, device: str) -> None:
    first, second = built(tmp_path / "1", device), built(tmp_path / "2", device)
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive_:
        assert archive_.testzip() is None


@pytest.fixture(scope="module")
def hopper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SETUPTOOLS_SCM_PRETEND_VERSION_FOR_VLLM_HELION", "0.1")
        patch.setenv("VLLM_HELION_CUDA_ARCH_LIST", "9.0a")
        folder = tmp_path_factory.mktemp("hopper")
        first, second = built(folder / "1", "cuda"), built(folder / "2", "cuda")
    assert first.read_bytes() == second.read_bytes()
    return first


@pytest.fixture(scope="module")
def stock() -> Tree:
    return archive.read(fetch.fetch(upstream.read(ROOT).wheels["cuda"]))


def test_hopper_alone(hopper: Path, stock: Tree, tmp_path: Path) -> None:
    """Small, and every cubin is there that the GPU can run: of the same bytes, once unpacked."""
    assert hopper.stat().st_size < 60e6
    after = archive.read(hopper)
    for name in (name for name in stock if name.endswith(".so")):
        if foreign.optional(name):
            assert name not in after
            continue
        old, new = stock[name].read(), after[name].read()
        assert [
            recode.unpacked(new[entry.start : entry.end])
            for container in fatbin.containers(new, name)
            for entry in container.entries
        ] == [
            recode.unpacked(old[entry.start : entry.end])
            for container in fatbin.containers(old, name)
            for entry in container.entries
            if (entry.kind, entry.arch) == (fatbin.CUBIN, 90)
        ]
        if cuobjdump := shutil.which("cuobjdump"):
            compare_with_cuobjdump(cuobjdump, new, tmp_path / name)


def compare_with_cuobjdump(cuobjdump: str, library: bytes, folder: Path) -> None:
    """NVIDIA's own tool finds in the library just what we unpack."""
    folder.mkdir(parents=True)
    path = folder / "a.so"
    path.write_bytes(library)
    subprocess.run([cuobjdump, "-xelf", "all", path], cwd=folder, capture_output=True, check=False)
    found = sorted(file.read_bytes() for file in folder.glob("*.cubin"))
    entries = [e for container in fatbin.containers(library, "a") for e in container.entries]
    assert found == sorted(recode.unpacked(library[e.start : e.end]) for e in entries)


def test_nothing_that_stays_imports_what_was_left_out(hopper: Path, stock: Tree) -> None:
    """As modules load: imports inside functions have their conditions before them."""
    after = archive.read(hopper)
    gone = {name.removesuffix(".py") for name in stock.keys() - after.keys() if ".py" in name}
    gone = {name.removesuffix("/__init__").replace("/", ".") for name in gone}
    assert "vllm.third_party.fmha_sm100.api" in gone
    for name in (name for name in after if name.endswith(".py") and name.startswith("vllm/")):
        package = name.removesuffix(".py").split("/")[:-1]
        for node in ast.parse(after[name].read()).body:
            found: list[str] = []
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) + 1 - node.level] if node.level else []
                module = ".".join([*base, *([node.module] if node.module else [])])
                found = [module, *(f"{module}.{alias.name}" for alias in node.names)]
            assert not gone & set(found), name


def test_deep_gemm_finds_its_headers(hopper: Path, stock: Tree, tmp_path: Path) -> None:
    """nvcc's preprocessor reads the same files for each of DeepGEMM's kernels for Hopper."""
    if not (nvcc := shutil.which("nvcc")):
        pytest.skip("no nvcc here")
    read = []
    for folder, tree in [("before", stock), ("after", archive.read(hopper))]:
        headers = {name: m for name, m in tree.items() if name.startswith(foreign.HEADERS)}
        unpack(headers, tmp_path / folder)
        root = tmp_path / folder / foreign.HEADERS
        kernels = sorted(root.glob("deep_gemm/impls/sm90_*")) + sorted(
            root.glob("deep_gemm/impls/smxx_*")
        )
        assert len(kernels) == 9
        kernels.append(root / "deep_gemm/scheduler/paged_mqa_logits.cuh")
        lines = "".join(f"#include <{kernel.relative_to(root)}>\n" for kernel in kernels)
        (tmp_path / "a.cu").write_text(lines)
        command = [nvcc, "-M", "-std=c++20", "-arch=sm_90a", "-I", str(root), "a.cu"]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        read.append(set(re.findall(rf"{foreign.HEADERS}(\S+)", run.stdout)))
    assert len(read[0]) > 50
    assert read[0] == read[1]


def test_nothing_in_the_cpu_variant_needs_cuda() -> None:
    tree = wheel.without_dist_info(variant.foundation(upstream.read(ROOT), "cpu"))
    shared = [name for name in tree if name.endswith(".so")]
    assert len([name for name in shared if "/_C" in name]) == 3
    assert not [name for name in shared if variant.needs_cuda(tree[name].read(), name)]
