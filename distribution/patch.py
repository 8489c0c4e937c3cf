# SPDX-License-Identifier: Apache-2.0
"""patches/: a series of hooks into upstream's files, applied by git with no fuzz and no offset.

A patch is a unified diff (as ``git diff`` prints it) under a header that gives its reason::

    Why: what the hook is for
    Upstream: the pull request or issue that would make it needless, or why there is none
    Drop when: the condition under which it goes

``patches/series`` lists them, one file name a line, in the order in which they apply.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import BuildError
from .progress import step
from .tree import Data, Tree

HEADERS = ("Why", "Upstream", "Drop when")
LIMIT = 5


@dataclass(frozen=True)
class Patch:
    """One patch: its file and what its header says."""

    path: Path
    headers: dict[str, str]

    @property
    def name(self) -> str:
        return f"patches/{self.path.name}"


def read_series(folder: Path) -> list[Patch]:
    """The patches that ``folder``/series lists; without a series there are none."""
    series = folder / "series"
    lines = series.read_text(encoding="utf-8").splitlines() if series.exists() else []
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    files = {path.name for path in folder.glob("*.patch")}
    for name in names:
        if name not in files:
            raise BuildError(
                f"patches/series lists {name}, which is not there; add it or strike it"
            )
    for name in sorted(files - set(names)):
        raise BuildError(f"patches/{name} is not in patches/series; list it there or delete it")
    if len(names) != len(set(names)):
        raise BuildError("patches/series lists a patch twice; strike one of the lines")
    if len(names) > LIMIT:
        raise BuildError(
            f"patches/series lists {len(names)} patches, {LIMIT} are allowed; drop some"
        )
    return [_read(folder / name) for name in names]


def _read(path: Path) -> Patch:
    header = re.split(r"^(?:diff --git|---) ", path.read_text("utf-8"), maxsplit=1, flags=re.M)[0]
    values = dict(re.findall(r"^([A-Z][a-z ]+):[ \t]*(\S.*)$", header, flags=re.M))
    for name in HEADERS:
        if name not in values:
            raise BuildError(f"patches/{path.name} has no line '{name}: …' above its diff; add it")
    return Patch(path, values)


def digest(patches: Iterable[Patch]) -> str:
    """One sha256 for a series: names and contents in order."""
    total = hashlib.sha256()
    for patch in patches:
        content = patch.path.read_bytes()
        total.update(f"{patch.path.name} {len(content)}\n".encode() + content)
    return total.hexdigest()


def apply(patches: list[Patch], tree: Tree) -> None:
    """Apply the series to ``tree``; a patch that does not fit exactly is an error."""
    if not patches:
        return
    with step("patch") as details, checkout() as folder:
        touched: set[str] = set()
        for patch in patches:
            paths = touched_files(patch, folder)
            for path in paths:
                if path not in tree:
                    raise BuildError(
                        f"{patch.name} patches {path}, which upstream does not have; drop the"
                        " patch, or port it to the file that took its place"
                    )
                if path not in touched:
                    place(folder, path, tree[path].read())
            touched |= set(paths)
            result = git(["apply", "-v", str(patch.path.resolve())], folder)
            _demand_exact(patch, result)
        for path in sorted(touched):
            tree[path] = Data((folder / path).read_bytes(), tree[path].executable)
        details += [f"{len(patches)} patches", f"{len(touched)} files"]


def touched_files(patch: Patch, folder: Path) -> list[str]:
    """The files that a patch changes; one that adds, deletes or renames files is an error."""
    result = git(["apply", "--numstat", "--summary", str(patch.path.resolve())], folder)
    if result.returncode:
        _demand_exact(patch, result)
    lines = result.stdout.splitlines()
    if strange := [line.strip() for line in lines if line.startswith(" ")]:
        raise BuildError(
            f"{patch.name} does more than change lines ({strange[0]}); put files of ours into the"
            " overlay, vllm/"
        )
    return [line.split("\t")[2] for line in lines]


def _demand_exact(patch: Patch, result: subprocess.CompletedProcess[str]) -> None:
    if result.returncode:
        errors = [e for e in result.stderr.splitlines() if e.startswith("error: ")]
        errors = [e for e in errors if "while searching" not in e] or ["error: git apply failed"]
        raise BuildError(
            f"{patch.name} does not apply: {errors[0][len('error: ') :]}; make it anew with git"
            " diff (python -m distribution port shows which hunks fail)"
        )
    if moved := re.search(r"Hunk #(\d+) succeeded at (\d+) \((.*)\)", result.stderr):
        raise BuildError(
            f"{patch.name} applies only by guessing: hunk {moved[1]} fits at line {moved[2]},"
            f" {moved[3]}; write that line into its @@ line"
        )


@contextmanager
def checkout() -> Iterator[Path]:
    """A scratch folder for git to patch in."""
    with tempfile.TemporaryDirectory(prefix="vllm-helion-") as folder:
        yield Path(folder).resolve()


def place(folder: Path, path: str, content: bytes) -> None:
    """Put a file to be patched into the scratch folder."""
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(content)


def git(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run git in ``folder`` as on a bare machine: no repository, no settings, English messages."""
    if shutil.which("git") is None:
        raise BuildError("git is not on PATH, and it applies patches/*.patch; install git")
    # Were the folder inside a repository, git apply would skip every file without a word.
    bare = {
        "GIT_CEILING_DIRECTORIES": str(folder.parent),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "LC_ALL": "C",
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    return subprocess.run(
        ["git", arguments[0], "--whitespace=nowarn", *arguments[1:]],
        cwd=folder,
        env=inherited | bare,
        capture_output=True,
        text=True,
        check=False,
    )
