# SPDX-License-Identifier: Apache-2.0
"""Machine code for Triton kernels of upstream's that every start would compile, for the cuda wheel.

Which they are, and how they are compiled with neither a GPU nor vLLM's dependencies, is the matter
of vllm/helion/upstream. Left out together with packs (``packs.py``). A wheel for some architectures
is to stay small, and has only those for logits in float32, as one GPU without further switches has
them; for others the engine compiles, in threads while weights load.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from . import packs, prune
from .errors import BuildError
from .progress import megabytes, step
from .tree import Data, Tree, write

FOLDER = "vllm/helion/upstream"


def modules(root: Path) -> list[str]:
    """The files of upstream's in which the kernels are."""
    kernels = json.loads((root / FOLDER / "kernels.json").read_text())["kernels"]
    names = {each["function"].rpartition(".")[0] for each in kernels}
    return sorted(f"{name.replace('.', '/')}.py" for name in names)


def make(root: Path, upstream: Tree, arches: list[str]) -> Tree:
    """The kernels in the tree ``upstream``, for ``arches`` as ``packs.make`` takes them."""
    if not packs.wanted() or not (root / FOLDER / "make.py").is_file():
        return {}
    numbers = {prune.parse(name).number for name in arches} if arches else set(packs.TARGETS)
    return {
        f"{FOLDER}/{packs.TARGETS[number]}.tar.xz": _make(
            root, upstream, packs.TARGETS[number], ["fp32"] if arches else []
        )
        for number in sorted(numbers & set(packs.TARGETS))
    }


def _make(root: Path, upstream: Tree, target: str, logits: list[str]) -> Data:
    with step("kernels") as details, tempfile.TemporaryDirectory() as folder:
        tree, out = Path(folder) / "tree", Path(folder) / f"{target}.tar.xz"
        for name in filter(upstream.__contains__, modules(root)):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            write(tree / name, upstream[name])
        options = ["--tree", str(tree), "--target", target, "--out", str(out)]
        options += ["--logits", *logits] if logits else []
        command = [sys.executable, str(root / FOLDER / "make.py"), *options]
        if subprocess.run(command, cwd=root, check=False, stdout=sys.stderr).returncode:
            raise BuildError(
                f"upstream's kernels for {target} do not compile, see above; "
                f"{packs.SWITCH}=0 leaves them out"
            )
        data = out.read_bytes()
        details += ["upstream's", out.name, megabytes(len(data))]
    return Data(data)
