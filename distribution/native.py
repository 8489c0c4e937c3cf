# SPDX-License-Identifier: Apache-2.0
"""The C++ dispatcher, compiled out of csrc/: one library for every Python and later PyTorch.

By Zig's C++ compiler, which is a package like any other: no compiler of the system is needed, the
library asks for no newer glibc than upstream's own do (manylinux_2_28), and its bytes are the same
wherever it is built.
"""

import subprocess
import tempfile
from importlib.metadata import distribution
from pathlib import Path

from .errors import BuildError
from .overlay import KERNELS
from .progress import megabytes, step
from .tree import Data, Tree

LIBRARY = f"{KERNELS}/helion_kernels_native.so"
_TARGET = "x86_64-linux-gnu.2.28"


def library(root: Path) -> Tree:
    """Compile the dispatcher of ``root``; the first time takes minutes, for Zig's own libraries."""
    if not (root / "csrc").is_dir():
        return {}
    try:
        import cmake
        import ziglang

        make = _program("ninja")
    except ImportError as error:
        raise BuildError(
            f"{error.name} is not installed; pip install the build requirements of pyproject.toml"
        ) from None
    configure = f"{cmake.CMAKE_BIN_DIR}/cmake"
    with step("compile") as details, tempfile.TemporaryDirectory() as folder:
        _run(
            *(configure, "-S", f"{root}/csrc", "-B", folder, "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={make}",
            f"-DCMAKE_CXX_COMPILER={ziglang.__path__[0]}/zig;c++",
            f"-DCMAKE_CXX_FLAGS=-target {_TARGET}",
            # Of Zig's C++ runtime, which is linked in: 15 KB of a wheel. Ours stays at -O3.
            "-DCMAKE_MODULE_LINKER_FLAGS=-Os",
        )
        _run(make, "-C", folder)
        data = (Path(folder) / Path(LIBRARY).name).read_bytes()
        details += [LIBRARY, megabytes(len(data))]
    return {LIBRARY: Data(data, executable=True)}


def _program(package: str) -> str:
    """The program of that name that the package installed, wherever pip's isolated build put it:
    ninja's own BIN_DIR looks in the interpreter's folders only. Raises ImportError."""
    files = distribution(package).files or []
    return next(str(Path(f.locate()).resolve()) for f in files if f.name == package)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        # CMake's reason is on stderr, in the lines below the one that says error.
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        first = next((i for i, line in enumerate(lines) if "error" in line.lower()), -1)
        told = " ".join(lines[first:][:4])
        raise BuildError(f"csrc/ does not compile: {told}; see csrc/README.md")
