# SPDX-License-Identifier: Apache-2.0
"""Against upstream's real wheels, fetched from the configured index (410 MB): `pytest -m slow`."""

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from distribution import archive, build, fetch, prune, upstream, variant, wheel

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETUPTOOLS_SCM_PRETEND_VERSION_FOR_VLLM_HELION", "0.1")


def built(folder: Path, device: str) -> Path:
    return build.build_wheel(build.configured(ROOT, device), folder)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_same_bytes_twice(tmp_path: Path, device: str) -> None:
    first, second = built(tmp_path / "1", device), built(tmp_path / "2", device)
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive_:
        assert archive_.testzip() is None


def test_hopper_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_HELION_CUDA_ARCH_LIST", "9.0a")
    path = built(tmp_path, "cuda")
    assert path.stat().st_size < 90e6
    before = archive.read(fetch.fetch(upstream.read(ROOT).wheels["cuda"]))
    after = archive.read(path)
    for name in (name for name in before if name.endswith(".so")):
        old, new = before[name].read(), after[name].read()
        assert len(old) == len(new)
        hopper = [
            old[entry.start : entry.end]
            for container in prune.containers(old, name)
            for entry in container.entries
            if (entry.kind, entry.arch) == (prune.CUBIN, 90)
        ]
        left = [
            new[entry.start : entry.end]
            for container in prune.containers(new, name)
            for entry in container.entries
        ]
        assert left == hopper
        if cuobjdump := shutil.which("cuobjdump"):
            (tmp_path / "a.so").write_bytes(new)
            command = [cuobjdump, "-lelf", str(tmp_path / "a.so")]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            assert result.stdout.count(".cubin") == result.stdout.count("sm_90") == len(hopper)


def test_nothing_in_the_cpu_variant_needs_cuda() -> None:
    tree = wheel.without_dist_info(variant.foundation(upstream.read(ROOT), "cpu"))
    shared = [name for name in tree if name.endswith(".so")]
    assert len([name for name in shared if "/_C" in name]) == 3
    assert not [name for name in shared if variant.needs_cuda(tree[name].read(), name)]
