# SPDX-License-Identifier: Apache-2.0
"""Upstream's wheels: fetched with pip from the index that you configured, checked, cached.

pip's own settings decide where they come from: its configuration file, PIP_INDEX_URL and the like.
Offline: put the wheels into a folder, set PIP_FIND_LINKS to it and PIP_NO_INDEX=1. (Options on the
command line of the pip that runs this build do not reach it; the environment does.)
Checked wheels are kept in ``$XDG_CACHE_HOME/vllm-helion`` and checked again at each use.
"""

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from .errors import BuildError
from .progress import megabytes, say, step
from .upstream import Wheel


def cache() -> Path:
    """The folder of wheels that were fetched and checked."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "vllm-helion"


def fetch(wheel: Wheel) -> Path:
    """The checked wheel's path: from the cache, else by pip."""
    kept = cache() / wheel.file
    if kept.exists():
        with step("fetch") as details:
            fault = _fault(kept, wheel)
            details += [wheel.file, megabytes(kept.stat().st_size), fault or "checked, from cache"]
        if not fault:
            return kept
        kept.unlink()
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as temporary, step("fetch") as details:
        fetched = download(wheel.requirement, Path(temporary))
        if fetched.name != wheel.file:
            raise BuildError(
                f"pip chose {fetched.name} for this machine where upstream.toml names"
                f" {wheel.file}; build on x86_64 Linux with glibc 2.28 or later"
            )
        if fault := _fault(fetched, wheel):
            raise BuildError(
                f"{wheel.file} {fault}; remove it from pip's cache (pip cache purge) and from"
                " PIP_FIND_LINKS, then build again"
            )
        fetched.replace(kept)
        details += [wheel.file, megabytes(wheel.size), "checked"]
    return kept


def _fault(path: Path, wheel: Wheel) -> str:
    """What is wrong with the file at ``path``, or nothing."""
    size = path.stat().st_size
    if size < wheel.size:
        return f"is truncated: {size} of {wheel.size} bytes"
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != wheel.sha256:
        return f"has the sha256 {digest.hexdigest()}, upstream.toml says {wheel.sha256}"
    return ""


def download(requirement: str, target: Path) -> Path:
    """Let pip download the wheel for ``requirement`` into the empty folder ``target``."""
    if importlib.util.find_spec("pip") is None:
        raise BuildError("pip is not importable here; install it (python -m ensurepip)")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--dest", str(target), requirement]
    say("fetch", f"{requirement} with pip")
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    found = list(target.glob("*.whl"))
    if result.returncode or len(found) != 1:
        raise BuildError(
            f"pip cannot fetch {requirement} ({_reason(result.stdout)}); check the network and"
            " pip's index, or name a folder that holds the whole wheel in PIP_FIND_LINKS"
        )
    return found[0]


def _reason(output: str) -> str:
    """The line of pip's output that says why, without its list of every version there is."""
    lines = output.strip().splitlines() or ["no output"]
    lines = [line for line in lines if "ERROR" in line] or lines
    return re.sub(r"\(from versions: .*?\)", "", lines[-1].replace("ERROR: ", "")).strip()[:300]
