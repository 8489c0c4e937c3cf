# SPDX-License-Identifier: Apache-2.0
"""Turn an unpacked stock vLLM into ours where it lies: ``python -m distribution overlay``.

For tests against an installed tree; what is neither ours nor patched is left untouched. The
dispatcher and packs are those that lie in the checkout (``python -m distribution compile``); the
dispatcher is compiled where there is none.
"""

import csv
import shutil
from pathlib import Path

from . import metadata, native, overlay, wheel
from .build import Build
from .errors import BuildError
from .progress import step
from .tree import Data, Member, OnDisk, Tree, write
from .variant import dist_info_path


def apply(build: Build, site: Path) -> None:
    """Patch, overlay and rename the stock vLLM in ``site``; every error comes before a change."""
    stock = _stock(site)
    old = dist_info_path(stock, "METADATA").split("/")[0]
    found = metadata.field((site / old / "METADATA").read_text("utf-8"), "Version")
    if found != build.upstream.version:
        raise BuildError(
            f"{site} holds vllm {found}, not stock {build.upstream.version}; give it a fresh one"
        )
    compiled = overlay.compiled(build.root)
    if native.LIBRARY not in compiled:
        compiled |= native.library(build.root)
    files, info = build.files(stock, compiled), build.dist_info(stock)
    new = next(iter(info)).split("/")[0]
    for name, member in stock.items():  # INSTALLER and the like
        if name.startswith(f"{old}/") and not name.endswith("/RECORD"):
            info.setdefault(f"{new}/{name.removeprefix(f'{old}/')}", Data(member.read()))
    changed = {name: m for name, m in files.items() if stock.get(name) is not m} | info
    record = wheel.record(changed, f"{new}/RECORD", _recorded(site / old / "RECORD", old))
    with step("apply") as details:
        for name, member in (changed | {f"{new}/RECORD": record}).items():
            _replace(site / name, member)
        shutil.rmtree(site / old)
        details += [str(site), f"{len(changed)} files written", build.version]


def _stock(site: Path) -> Tree:
    """The files of vllm in the site folder ``site``."""
    folders = [site / "vllm", *site.glob("vllm-*.dist-info")]
    if len(folders) != 2 or not all(folder.is_dir() for folder in folders):
        raise BuildError(
            f"{site} has no vllm/ with one vllm-*.dist-info beside it; name one that has"
        )
    paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        path.relative_to(site).as_posix(): OnDisk(path)
        for path in paths
        if "__pycache__" not in path.parts
    }


def _recorded(path: Path, old: str) -> dict[str, list[str]]:
    """The lines of the stock RECORD by file, less those of the dist-info that goes."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {line[0]: line for line in csv.reader(file) if not line[0].startswith(f"{old}/")}


def _replace(path: Path, member: Member) -> None:
    """Put a file in place of another, which may be a link that installers share."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    write(temporary, member)
    temporary.replace(path)
