# SPDX-License-Identifier: Apache-2.0
"""The wheel: dist-info, RECORD, file name. Built from the same sources, the same bytes."""

import csv
import io
from pathlib import Path

from . import archive, metadata
from .progress import megabytes, step
from .tree import Data, OnDisk, Tree
from .variant import dist_info_path

LICENCES = ("LICENSE", "NOTICE")
GENERATOR = "vllm-helion"


def tag(wheel_file: str) -> str:
    """The tag in a wheel's file name: what upstream's own WHEEL file says is not always so."""
    return "-".join(wheel_file.removesuffix(".whl").split("-")[-3:])


def dist_info(
    upstream: Tree, root: Path, version: str, requires: list[str], wheel_tag: str
) -> Tree:
    """Our dist-info, less RECORD, out of the one in the tree ``upstream``; paths included."""

    def text(file: str) -> str:
        return upstream[dist_info_path(upstream, file)].read().decode()

    own = [name for name in LICENCES if (root / name).is_file()]
    described = metadata.rewrite(
        text("METADATA"), version, requires, [f"helion/{name}" for name in own]
    )
    wheel = (
        f"Wheel-Version: 1.0\nGenerator: {GENERATOR}\nRoot-Is-Purelib: false\nTag: {wheel_tag}\n"
    )
    files = {
        "METADATA": described,
        "WHEEL": wheel,
        "entry_points.txt": metadata.entry_points(text("entry_points.txt")),
        "top_level.txt": "helion_kernels\nvllm\n",
    }
    folder = f"{metadata.DISTRIBUTION}-{version}.dist-info"
    tree: Tree = {f"{folder}/{name}": Data(content.encode()) for name, content in files.items()}
    theirs = dist_info_path(upstream, "METADATA").removesuffix("METADATA") + "licenses/"
    for name, member in upstream.items():
        if name.startswith(theirs):
            tree[f"{folder}/licenses/{name.removeprefix(theirs)}"] = member
    for name in own:
        tree[f"{folder}/licenses/helion/{name}"] = Data((root / name).read_bytes())
    return tree


def record(tree: Tree, path: str, others: dict[str, list[str]] | None = None) -> Data:
    """The RECORD of ``tree`` at ``path``, with the lines of ``others`` for files beside it."""
    lines = dict(others or {})
    for name, member in tree.items():
        digest, size = member.record()
        lines[name] = [name, digest, str(size)]
    output = io.StringIO()
    rows = [lines[name] for name in sorted(lines)]
    csv.writer(output, lineterminator="\n").writerows([*rows, [path, "", ""]])
    return Data(output.getvalue().encode())


def without_dist_info(tree: Tree) -> Tree:
    """The files of ``tree`` that are installed as they are."""
    return {name: m for name, m in tree.items() if not name.split("/")[0].endswith(".dist-info")}


def write(folder: Path, files: Tree, info: Tree, wheel_tag: str, small: bool = False) -> Path:
    """Write the wheel of ``files`` and the dist-info ``info`` into ``folder``."""
    info_folder = next(iter(info)).split("/")[0]
    path = folder / f"{info_folder.removesuffix('.dist-info')}-{wheel_tag}.whl"
    with step("wheel") as details:
        # Our own files are read once: an edit during the build must not part RECORD from them.
        tree = {
            name: Data(m.read(), m.executable) if isinstance(m, OnDisk) else m
            for name, m in (files | info).items()
        }
        name = f"{info_folder}/RECORD"
        archive.write(path, tree | {name: record(tree, name)}, small)
        details += [path.name, f"{len(tree) + 1} files", megabytes(path.stat().st_size)]
    return path
