# SPDX-License-Identifier: Apache-2.0
"""CUDA C++ -> cubin, by NVIDIA's run-time compiler: a PyTorch for CUDA brings it. Needs no GPU."""

import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any


class CompileError(ValueError):
    """The source does not compile. One line: why."""


def compile(source: str, name: str, options: Sequence[str]) -> tuple[bytes, str]:
    """(machine code, symbol) of the kernel that name, a C++ expression, instantiates.

    Raises CompileError.
    """
    nvrtc = _bindings()

    def call(function: Any, *args: Any) -> Any:
        status, *results = function(*args)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise CompileError(f"{function.__name__}: {status.name}{_first_error(nvrtc, args[0])}")
        return results[0] if results else None

    program = call(nvrtc.nvrtcCreateProgram, source.encode(), b"kernel.cu", 0, [], [])
    try:
        call(nvrtc.nvrtcAddNameExpression, program, name.encode())
        given = [option.encode() for option in options]
        call(nvrtc.nvrtcCompileProgram, program, len(given), given)
        code = b" " * call(nvrtc.nvrtcGetCUBINSize, program)
        call(nvrtc.nvrtcGetCUBIN, program, code)
        symbol = call(nvrtc.nvrtcGetLoweredName, program, name.encode())
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return code, symbol.decode()


def version() -> str:
    """Of the compiler. Raises CompileError."""
    _, major, minor = _bindings().nvrtcVersion()
    return f"{major}.{minor}"


def _bindings() -> Any:
    try:
        from cuda.bindings import nvrtc
    except ImportError:
        raise CompileError("NVRTC is not installed: a PyTorch for CUDA brings it") from None
    return nvrtc


def _first_error(nvrtc: Any, program: Any) -> str:
    if not isinstance(program, nvrtc.nvrtcProgram):
        return ""
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = b" " * size
    nvrtc.nvrtcGetProgramLog(program, log)
    errors = [line for line in log.decode(errors="replace").splitlines() if "error" in line]
    return f": {errors[0]}" if errors else ""


@cache
def includes() -> tuple[Path, ...]:
    """Folders of CUDA 13's own headers and of CCCL's: of wheels, else of a toolkit ($CUDA_HOME).

    None unless all are there.
    """
    folders = [Path(entry) / "nvidia/cu13/include" for entry in sys.path]
    folders.append(Path(os.environ.get("CUDA_HOME") or "/usr/local/cuda") / "include")
    folders = [folder for folder in folders if _is_cuda_13(folder)]
    cuda = next((f for f in folders if (f / "cuda_fp8.h").is_file()), None)
    cccl = next((f for f in folders if (f / "cccl/cuda/std/cstdint").is_file()), None)
    # CUTLASS names CCCL's folder, CCCL does not.
    return (cuda, cccl, cccl / "cccl") if cuda and cccl else ()


def _is_cuda_13(folder: Path) -> bool:
    """CCCL's folder beside wheels may have no cuda.h: its path says the version."""
    if folder.parts[-2] == "cu13":
        return folder.is_dir()
    header = folder / "cuda.h"
    return header.is_file() and "#define CUDA_VERSION 13" in header.read_text(errors="replace")
