# SPDX-License-Identifier: Apache-2.0
"""The wheel from end to end, as setuptools builds it for pip."""

import base64
import csv
import hashlib
import io
import json
import os
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from miniature import CPU_FILES, PATCH, UPSTREAM_FILES, World

VERSION = "9.9.0+helion.0.1.dev12.gabc1234"
INFO = f"vllm-{VERSION}.dist-info"


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_holds_upstream_patches_overlay_and_kernels(world: World) -> None:
    world.add_patch()
    files = contents(world.wheel())
    assert b"line 11\nhook\nline 12\n" in files["vllm/model.py"]
    assert files["vllm/helion/__init__.py"] == b"WHO = 'overlay'\n"
    assert files["helion_kernels/ops/scaled.py"] == b""
    for name in ("vllm/envs.py", "vllm/_cuda.abi3.so"):
        assert files[name] == UPSTREAM_FILES[name]


def test_name_metadata_and_module_agree_on_the_version(world: World) -> None:
    wheel = world.wheel()
    files = contents(wheel)
    assert wheel.name == f"vllm-{VERSION}-py3-none-any.whl"
    assert Parser().parsestr(files[f"{INFO}/METADATA"].decode())["Version"] == VERSION
    namespace: dict[str, object] = {}
    exec(files["vllm/_version.py"], namespace)
    assert namespace["__version__"] == namespace["version"] == VERSION
    assert namespace["version_tuple"] == (9, 9, 0, "helion.0.1.dev12.gabc1234")


def test_dist_info(world: World) -> None:
    files = contents(world.wheel())
    assert "Tag: py3-none-any\n" in files[f"{INFO}/WHEEL"].decode()
    assert files[f"{INFO}/top_level.txt"] == b"helion_kernels\nvllm\n"
    assert files[f"{INFO}/licenses/LICENSE"] == b"upstream's licence\n"
    assert files[f"{INFO}/licenses/helion/LICENSE"] == b"our licence\n"
    points = files[f"{INFO}/entry_points.txt"].decode()
    assert "[vllm.general_plugins]\nhelion = vllm.helion:activate\nother = " in points
    facts = json.loads(files["vllm/helion/_build.json"])
    assert facts == {
        "version": VERSION,
        "variant": "cuda",
        "upstream_version": "9.9.0",
        "patch_set_sha256": hashlib.sha256().hexdigest(),
        "cuda_architectures": None,
    }


def test_record_is_true_of_every_file(world: World) -> None:
    world.add_patch()
    files = contents(world.wheel(VLLM_HELION_CUDA_ARCH_LIST="9.0a"))
    lines = list(csv.reader(io.StringIO(files.pop(f"{INFO}/RECORD").decode())))
    assert lines.pop() == [f"{INFO}/RECORD", "", ""]
    for name, digest, size in lines:
        data = files.pop(name)
        expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        assert (digest, int(size)) == (f"sha256={expected}", len(data))
    assert not files


def test_same_bytes_twice(world: World) -> None:
    world.add_patch()
    first = world.wheel("one", VLLM_HELION_CUDA_ARCH_LIST="9.0a")
    for path in world.root.rglob("*.py"):
        os.utime(path, (1, 1))
    assert first.read_bytes() == world.wheel("two", VLLM_HELION_CUDA_ARCH_LIST="9.0a").read_bytes()


def test_members_keep_their_modes(world: World) -> None:
    with zipfile.ZipFile(world.wheel()) as archive:
        modes = {i.filename: i.external_attr >> 16 for i in archive.infolist()}
    assert modes["vllm/_cuda.abi3.so"] == 0o100755
    assert modes["vllm/envs.py"] == 0o100644


def test_cpu_variant(world: World) -> None:
    world.add_patch()
    wheel = world.wheel(VLLM_TARGET_DEVICE="cpu")
    files = contents(wheel)
    assert wheel.name == f"vllm-{VERSION}.cpu-py3-none-any.whl"
    assert "vllm/_cuda.abi3.so" not in files
    assert files["vllm/_C.abi3.so"] == CPU_FILES["vllm/_C.abi3.so"]
    assert files["vllm/_both.abi3.so"] == CPU_FILES["vllm/_both.abi3.so"]
    assert files["vllm/_plain.abi3.so"] == UPSTREAM_FILES["vllm/_plain.abi3.so"]
    assert files["vllm/__init__.py"] == UPSTREAM_FILES["vllm/__init__.py"]
    assert b"hook\n" in files["vllm/model.py"]
    metadata = Parser().parsestr(files[f"vllm-{VERSION}.cpu.dist-info/METADATA"].decode())
    assert metadata["Name"] == "vllm"
    assert 'torch==2.0; platform_machine == "x86_64"' in metadata.get_all("Requires-Dist")


def test_pip_installs_what_it_builds(world: World, tmp_path: Path) -> None:
    target = tmp_path / "site"
    result = world.python(
        *["-m", "pip", "install", "--no-build-isolation", "--no-deps", "--target"], str(target), "."
    )
    assert result.returncode == 0, result.stderr
    assert (target / "helion_kernels/__init__.py").exists()
    assert (target / INFO / "METADATA").exists()


def test_metadata_ahead_of_the_wheel_is_the_wheels(world: World) -> None:
    result = world.run("dist_info", "--output-dir", "meta", "--keep-egg-info")
    assert result.returncode == 0, result.stderr
    files = contents(world.wheel())
    ahead = world.root / "meta" / INFO
    for path in (path for path in ahead.rglob("*") if path.is_file()):
        name = f"{INFO}/{path.relative_to(ahead).as_posix()}"
        assert files[name] == path.read_bytes()


# What goes wrong


def build(world: World, **env: str):
    return world.run("bdist_wheel", "--dist-dir", "dist", **env)


def test_wrong_hash(world: World) -> None:
    toml = world.root / "upstream.toml"
    toml.write_text(toml.read_text().replace('sha256 = "', 'sha256 = "00', 1))
    error = world.error(build(world))
    assert world.cuda_wheel.name in error and "sha256" in error and "remove it" in error
    assert world.leftovers() == []


@pytest.mark.parametrize("part", [0.3, 0.9])
def test_truncated_wheel(world: World, part: float) -> None:
    data = world.cuda_wheel.read_bytes()
    world.cuda_wheel.write_bytes(data[: int(len(data) * part)])
    error = world.error(build(world))
    assert "vllm" in error and "PIP_FIND_LINKS" in error
    assert world.leftovers() == []


def test_truncated_in_the_cache_is_fetched_anew(world: World) -> None:
    world.wheel("one")
    cached = world.cache / "vllm-helion" / world.cuda_wheel.name
    cached.write_bytes(cached.read_bytes()[:-9])
    world.wheel("two")
    assert cached.read_bytes() == world.cuda_wheel.read_bytes()


def test_no_network(world: World) -> None:
    error = world.error(build(world, PIP_FIND_LINKS=""))
    assert "vllm==9.9.0" in error and "network" in error
    assert world.leftovers() == []


def test_offline_from_the_cache(world: World) -> None:
    world.wheel("one")
    world.wheel("two", PIP_FIND_LINKS="")


def test_wheel_for_another_machine(world: World) -> None:
    world.cuda_wheel.rename(world.wheels / "vllm-9.9.0-py3-none-linux_x86_64.whl")
    error = world.error(build(world))
    assert "linux_x86_64" in error and world.cuda_wheel.name in error


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("vllm/model.py", "vllm/model.py"),
        ("vllm/envs/__init__.py", "vllm/envs.py"),
        ("vllm/envs/more.py", "vllm/envs.py"),
        ("vllm/layers.py", "vllm/layers/__init__.py"),
    ],
)
def test_overlay_file_that_shadows_upstream(world: World, path: str, hidden: str) -> None:
    (world.root / path).parent.mkdir(exist_ok=True)
    (world.root / path).write_text("")
    error = world.error(build(world))
    assert path in error and hidden in error
    assert not (world.root / "dist").exists()


def test_bytecode_and_hidden_files_stay_out(world: World) -> None:
    for name in ("vllm/helion/__pycache__/a.pyc", "vllm/helion/.swp", "helion_kernels/b.pyc"):
        (world.root / name).parent.mkdir(exist_ok=True)
        (world.root / name).write_text("")
    names = contents(world.wheel())
    assert not [name for name in names if "pyc" in name or ".swp" in name]


def test_cache_that_cannot_be_written(world: World) -> None:
    world.cache.write_text("a file, where a folder should be")
    result = world.python("-m", "distribution", "wheel")
    assert str(world.cache) in world.error(result)


def test_bad_variant(world: World) -> None:
    assert "cuda or cpu" in world.error(build(world, VLLM_TARGET_DEVICE="tpu"))


def test_bad_architecture(world: World) -> None:
    error = world.error(build(world, VLLM_HELION_CUDA_ARCH_LIST="hopper"))
    assert "'hopper'" in error and "9.0a" in error


def test_no_git_no_version(world: World) -> None:
    error = world.error(build(world, SETUPTOOLS_SCM_PRETEND_VERSION_FOR_VLLM_HELION=""))
    assert "git" in error and "SETUPTOOLS_SCM_PRETEND_VERSION" in error


def test_absent_git_program(world: World, tmp_path: Path) -> None:
    world.add_patch(PATCH)
    assert "install git" in world.error(build(world, PATH=str(tmp_path)))
    assert not (world.root / "dist").exists()


def test_metadata_that_is_no_metadata(world: World) -> None:
    (world.root / "upstream.toml").write_text("version =")
    assert "upstream.toml" in world.error(build(world))
