# SPDX-License-Identifier: Apache-2.0
"""Our own files: vllm/ lies over upstream's package, helion_kernels/ stands beside it.

An overlay file adds; it never takes the place of a file or a module of upstream's. To change one
of those, write a patch.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from .errors import BuildError
from .progress import step
from .tree import OnDisk, Tree

KERNELS = "helion_kernels"
_COMPILED = (".so", ".pack", ".xz")


def read(root: Path, package: str) -> Tree:
    """Our files of ``package`` in the repository: all but hidden and compiled ones."""
    folder = root / package
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        path.relative_to(root).as_posix(): OnDisk(path)
        for path in paths
        if path.suffix not in (".pyc", *_COMPILED)
        and not any(_hidden(p) for p in path.relative_to(folder).parts)
    }


def compiled(root: Path) -> Tree:
    """The dispatcher and the packs that lie in the repository (``distribution compile``)."""
    folders = (root / KERNELS, root / "vllm")
    paths = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(root).as_posix(): OnDisk(path)
        for path in paths
        if path.suffix in _COMPILED
    }


def _hidden(part: str) -> bool:
    return part.startswith(".") or part == "__pycache__"


def lay(root: Path, tree: Tree) -> None:
    """Add our files to ``tree``."""
    with step("overlay") as details:
        ours = read(root, "vllm")
        demand_no_shadow(ours, tree)
        kernels = read(root, KERNELS)
        tree.update(ours)
        tree.update(kernels)
        details += [f"{len(ours)} files in vllm/", f"{len(kernels)} in {KERNELS}/"]


def demand_no_shadow(ours: Tree, upstream: Tree) -> None:
    """Each file of ours must be new, and so must the module that Python makes of it."""
    for name in ours:
        if rival := next((path for path in _rivals(name) if path in upstream), None):
            raise BuildError(f"{name} would shadow upstream's {rival}; rename it, or write a patch")


def _rivals(name: str) -> Iterator[str]:
    """The upstream paths that a file of ours would take the place of, or lie hidden behind."""
    yield name
    yield name.removesuffix(".py") + "/__init__.py"
    for parent in PurePosixPath(name).parents:
        yield f"{parent}"
        yield f"{parent}.py"
