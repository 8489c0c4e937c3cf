# SPDX-License-Identifier: Apache-2.0
"""Packs: the tuned kernels as machine code, for the cuda wheel. Compiled with no GPU present.

Needs PyTorch, Triton and Helion at build time (upstream.toml, ``requires.pack``). Left out by
VLLM_HELION_PACKS=0: the engine then compiles at its start. Upstream's: ``upstream_kernels.py``.

Of which models VLLM_HELION_PACK_MODELS says, by default of all that are tuned; but of SMALL alone
in a wheel for some architectures, which is to stay small and has no attention for guesses either.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from . import prune
from .errors import BuildError
from .foreign import HEADERS
from .overlay import KERNELS
from .progress import megabytes, say, step
from .tree import Data, Tree, unpack

TARGETS = {90: "sm_90"}
"""What helion_kernels/aot/target.py describes, by architecture."""
SWITCH = "VLLM_HELION_PACKS"
MODELS = "VLLM_HELION_PACK_MODELS"
SMALL = ("8b",)
"""All six that are tuned take 1.7 MB, this one 0.29; Hopper's wheel has 60."""


def wanted() -> bool:
    """Whether a cuda wheel gets packs."""
    return os.environ.get(SWITCH, "1") not in ("0", "false")


def make(root: Path, upstream: Tree, arches: list[str]) -> Tree:
    """The packs of ``arches``, by default of all that there are targets for; with kernels of the
    DeepGEMM that lies as source in the tree ``upstream``."""
    if not wanted() or not (root / KERNELS / "aot").is_dir():
        return {}
    numbers = {prune.parse(name).number for name in arches} if arches else set(TARGETS)
    for number in sorted(numbers - set(TARGETS)):
        say("packs", f"none for sm_{number}: there the engine compiles its kernels at its start")
    return {
        f"{KERNELS}/packs/{TARGETS[number]}.pack": _make(root, upstream, TARGETS[number], arches)
        for number in sorted(numbers & set(TARGETS))
    }


def models(arches: list[str]) -> list[str]:
    """Whose kernels a wheel for arches gets; none named: all that are tuned."""
    chosen = os.environ.get(MODELS, "").replace(",", " ").split()
    return chosen or (list(SMALL) if arches else [])


def _make(root: Path, upstream: Tree, target: str, arches: list[str]) -> Data:
    with step("packs") as details, tempfile.TemporaryDirectory() as folder:
        # A process of its own, whose progress is the user's to see; what it compiles is cached.
        command = [sys.executable, "-m", "helion_kernels.aot", "--target", target, "--out", folder]
        command += ["--models", *chosen] if (chosen := models(arches)) else []
        command += ["--num-speculative-tokens", "0"] if arches else []
        if headers := {name: m for name, m in upstream.items() if name.startswith(HEADERS)}:
            unpack(headers, Path(folder))
            command += ["--deep-gemm", f"{folder}/{HEADERS}"]
        if subprocess.run(command, cwd=root, check=False, stdout=sys.stderr).returncode:
            raise BuildError(
                f"the kernels for {target} do not compile, see above; {SWITCH}=0 leaves them out, "
                f"{MODELS} names models"
            )
        data = (Path(folder) / f"{target}.pack").read_bytes()
        details += [f"{target}.pack", megabytes(len(data))]
    return Data(data)
