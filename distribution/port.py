# SPDX-License-Identifier: Apache-2.0
"""A dry run of the patches on another release of upstream: what moves, what breaks."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import archive
from .fetch import download
from .patch import Patch, checkout, git, place, touched_files
from .tree import Tree


@dataclass(frozen=True)
class Hunk:
    """What becomes of one hunk: ``state`` is clean, moved or fails."""

    patch: str
    file: str
    number: int
    state: str
    detail: str = ""

    def __str__(self) -> str:
        return (
            f"{self.state:<6} {self.patch}  {self.file} hunk {self.number}  {self.detail}".rstrip()
        )


def port(patches: list[Patch], version: str) -> list[Hunk]:
    """Fetch vllm==``version`` and try the series on it."""
    with tempfile.TemporaryDirectory(prefix="vllm-helion-") as folder:
        return trial(patches, archive.read(download(f"vllm=={version}", Path(folder))))


def trial(patches: list[Patch], tree: Tree) -> list[Hunk]:
    """Apply what can be applied of the series to copies of ``tree``'s files; tell of each hunk."""
    hunks: list[Hunk] = []
    with checkout() as folder:
        for patch in patches:
            numbers = _hunks(patch)
            present = []
            for file in touched_files(patch, folder):
                if file in tree:
                    present.append(file)
                    if not (folder / file).exists():
                        place(folder, file, tree[file].read())
                else:
                    reason = "upstream has no such file any more"
                    hunks += [Hunk(patch.name, file, n, "fails", reason) for n in numbers[file]]
            for file in present:
                hunks += _try(patch, file, numbers[file], folder)
    return hunks


def _hunks(patch: Patch) -> dict[str, dict[int, str]]:
    """Per file, the hunks by number, with the line in the old file at which each begins."""
    found: dict[str, dict[int, str]] = {}
    for line in patch.path.read_text("utf-8").splitlines():
        if line.startswith("+++ b/"):
            hunks = found.setdefault(line[len("+++ b/") :].split("\t")[0], {})
        elif match := re.match(r"@@ -(\d+)", line):
            hunks[len(hunks) + 1] = match[1]
    return found


def _try(patch: Patch, file: str, starts: dict[int, str], folder: Path) -> list[Hunk]:
    """What git says of each hunk of ``patch`` in ``file``; those that fit stay applied."""
    path = str(patch.path.resolve())
    output = git(["apply", "-v", "--reject", f"--include={file}", path], folder).stderr
    moved = dict(re.findall(r"Hunk #(\d+) succeeded at \d+ \(offset (.*?)\)", output))
    failed = set(re.findall(r"Rejected hunk #(\d+)", output))
    hunks = []
    for number, start in starts.items():
        if str(number) in failed:
            reason = f"the lines around {start} are not in upstream's file any more"
            hunks.append(Hunk(patch.name, file, number, "fails", reason))
        elif str(number) in moved:
            hunks.append(Hunk(patch.name, file, number, "moved", f"by {moved[str(number)]}"))
        else:
            hunks.append(Hunk(patch.name, file, number, "clean"))
    return hunks
