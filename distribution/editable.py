# SPDX-License-Identifier: Apache-2.0
"""``pip install -e .``: an installed tree whose files of ours are the repository's own.

``build/tree-<variant>`` gets upstream, patched and unpacked; each overlay file in it is a symbolic
link into vllm/, and helion_kernels is one to the folder. A .pth file puts that tree on sys.path.
So an edit in vllm/ or helion_kernels/ counts at the next start of Python. A new file in vllm/, an
edit in patches/ or csrc/ and another version need ``pip install -e .`` again.
"""

import shutil
import tempfile
from pathlib import Path

from . import native, wheel
from .build import Build
from .overlay import KERNELS
from .progress import step
from .tree import Data, Tree, unpack, write

PTH = "vllm_helion_editable.pth"


def scratch(root: Path) -> Path:
    """The folder build/, which keeps itself out of git."""
    folder = root / "build"
    folder.mkdir(exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    return folder


def unpack_tree(root: Path, variant: str, files: Tree) -> Path:
    """Unpack ``files`` as the tree of ``variant``; the tree of before stays until all is there."""
    target = scratch(root) / f"tree-{variant}"
    with step("unpack") as details, tempfile.TemporaryDirectory(dir=scratch(root)) as folder:
        fresh, old = Path(folder) / "tree", Path(folder) / "old"
        unpack({n: m for n, m in files.items() if not n.startswith(f"{KERNELS}/")}, fresh)
        if (root / KERNELS).is_dir():
            (fresh / KERNELS).symlink_to((root / KERNELS).resolve(), target_is_directory=True)
        if target.exists():
            shutil.move(target, old)
        shutil.move(fresh, target)
        details += [str(target.relative_to(root)), f"{len(files)} files"]
    return target


def place(root: Path, compiled: Tree) -> None:
    """Put what was compiled where the repository's own helion_kernels/ and vllm/ look for it."""
    for name, member in compiled.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # a process may have it loaded
        write(path, member)


def build_editable(build: Build, folder: Path) -> Path:
    """Unpack the tree, and write the wheel that points to it into ``folder``."""
    foundation = build.foundation()
    files = build.files(foundation, {})
    place(build.root, native.library(build.root))
    tree = unpack_tree(build.root, build.variant, files)
    pth: Tree = {PTH: Data(f"{tree.resolve()}\n".encode())}
    return wheel.write(folder, pth, build.dist_info(foundation), build.tag)
