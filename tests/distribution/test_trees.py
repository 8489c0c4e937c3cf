# SPDX-License-Identifier: Apache-2.0
"""Trees instead of wheels: the editable installation, and a stock tree turned into ours."""

import base64
import csv
import hashlib
import zipfile
from pathlib import Path

import pytest
from miniature import PATCH, World

LOOK = "import vllm, vllm.helion as h, helion_kernels as k; print(vllm.__version__, h.WHO, k.WHO)"
VERSION = "9.9.0+helion.0.1.dev12.gabc1234"


@pytest.fixture
def stock(world: World, tmp_path: Path) -> Path:
    site = tmp_path / "site"
    with zipfile.ZipFile(world.cuda_wheel) as archive:
        archive.extractall(site)
    (site / "vllm-9.9.0.dist-info/INSTALLER").write_text("pip\n")
    return site


def test_editable_sees_edits_without_a_rebuild(world: World, tmp_path: Path) -> None:
    world.add_patch()
    site = tmp_path / "site"
    arguments = "-m pip install --no-build-isolation --no-deps --target"
    result = world.python(*arguments.split(), str(site), "-e", ".")
    assert result.returncode == 0, result.stderr
    (pth,) = site.glob("*.pth")
    tree = Path(pth.read_text().strip())
    assert tree == world.root / "build/tree-cuda"
    assert (tree / "vllm/helion/__init__.py").resolve() == world.root / "vllm/helion/__init__.py"
    assert (tree / "helion_kernels").resolve() == world.root / "helion_kernels"
    assert "hook\n" in (tree / "vllm/model.py").read_text()
    assert (world.root / "build/.gitignore").read_text() == "*\n"

    # What site makes of the .pth, ahead of a vllm that these tests may be running beside.
    look = f"import sys; sys.path[:0] = [{str(tree)!r}]; {LOOK}"
    assert world.python("-c", look).stdout.split() == [VERSION, "overlay", "kernels"]
    (world.root / "vllm/helion/__init__.py").write_text("WHO = 'edited'\n")
    (world.root / "helion_kernels/__init__.py").write_text("WHO = 'tuned'\n")
    assert world.python("-c", look).stdout.split() == [VERSION, "edited", "tuned"]


def test_editable_again_brings_new_files_and_drops_old_ones(world: World) -> None:
    for name in ("first", "second"):
        (world.root / "vllm/helion" / f"{name}.py").write_text("")
        assert world.run("editable_wheel", "--dist-dir", "dist").returncode == 0
        (world.root / "vllm/helion/first.py").unlink(missing_ok=True)
    tree = world.root / "build/tree-cuda/vllm/helion"
    assert (tree / "second.py").exists() and not (tree / "first.py").is_symlink()
    assert not (world.root / "vllm/helion/_build.json").exists()


def test_editable_that_fails_leaves_the_tree_of_before(world: World) -> None:
    assert world.run("editable_wheel", "--dist-dir", "dist").returncode == 0
    tree = world.root / "build/tree-cuda"
    before = sorted(tree.rglob("*"))
    world.add_patch(PATCH.replace(" line 12", " line twelve"))
    world.error(world.run("editable_wheel", "--dist-dir", "other"))
    assert sorted(tree.rglob("*")) == before and not (world.root / "other").exists()
    assert world.leftovers() != [] and "tree-cuda" in world.leftovers()


def test_stock_tree_becomes_ours(world: World, stock: Path) -> None:
    world.add_patch()
    (stock / "vllm/_cuda.abi3.so").write_bytes(b"pruned by hand")
    result = world.python("-m", "distribution", "overlay", "--tree", str(stock))
    assert result.returncode == 0, result.stderr
    look = f"import sys; sys.path[:0] = [{str(stock)!r}]; {LOOK}"
    assert world.python("-c", look).stdout.split() == [VERSION, "overlay", "kernels"]
    assert "hook\n" in (stock / "vllm/model.py").read_text()
    (info,) = stock.glob("*.dist-info")
    assert info.name == f"vllm-{VERSION}.dist-info"
    assert (info / "INSTALLER").read_text() == "pip\n"
    assert "helion = vllm.helion:activate" in (info / "entry_points.txt").read_text()
    with (info / "RECORD").open() as file:
        lines = {name: digest for name, digest, _ in csv.reader(file)}
    files = {path.relative_to(stock).as_posix() for path in stock.rglob("*") if path.is_file()}
    assert set(lines) == {name for name in files if "__pycache__" not in name}
    for name in ("vllm/model.py", "helion_kernels/__init__.py"):
        digest = hashlib.sha256((stock / name).read_bytes()).digest()
        assert lines[name] == f"sha256={base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def test_what_was_compiled_goes_into_the_tree_and_not_into_a_wheel(
    world: World, stock: Path
) -> None:
    """A wheel's is compiled with it: what lies about may be older than its sources."""
    compiled = (
        "helion_kernels/helion_kernels_native.so",
        "helion_kernels/packs/sm_90.pack",
        "vllm/helion/upstream/sm_90.tar.xz",
    )
    for name in compiled:
        path = world.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    result = world.python("-m", "distribution", "overlay", "--tree", str(stock))
    assert result.returncode == 0, result.stderr
    (record,) = stock.glob("*.dist-info/RECORD")
    for name in compiled:
        assert (stock / name).read_bytes() == name.encode()
        assert f"{name},sha256=" in record.read_text()
    with zipfile.ZipFile(world.wheel()) as archive:
        assert not set(compiled) & set(archive.namelist())


def test_stock_tree_only_once(world: World, stock: Path) -> None:
    command = ("-m", "distribution", "overlay", "--tree", str(stock))
    assert world.python(*command).returncode == 0
    assert "not stock 9.9.0" in world.error(world.python(*command))


def test_stock_tree_that_does_not_fit_is_left_alone(world: World, stock: Path) -> None:
    def everything() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in stock.rglob("*") if path.is_file()}

    world.add_patch(PATCH.replace(" line 12", " line twelve"))
    before = everything()
    command = ("-m", "distribution", "overlay", "--tree", str(stock))
    assert "patches/hook.patch" in world.error(world.python(*command))
    assert everything() == before
    command = ("-m", "distribution", "overlay", "--tree", str(world.root))
    assert str(world.root) in world.error(world.python(*command))
