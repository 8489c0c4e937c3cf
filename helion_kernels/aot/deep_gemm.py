# SPDX-License-Identifier: Apache-2.0
"""DeepGEMM's kernels (`helion_kernels/deep_gemm.py`) as machine code and as entries of a pack.

N and K are known to the compiler, as in upstream's own use: 2 to 4 % of the time, and without them
wide tiles of one block spill registers (docs/performance-log.md).
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helion_kernels.aot import expression, index, nvrtc
from helion_kernels.deep_gemm import Tile, tile_of
from helion_kernels.fp8 import GROUP, SCALE_STEP
from helion_kernels.hopper import MULTIPROCESSORS
from helion_kernels.op import Config
from helion_kernels.select import key_of

TARGET = "sm_90"
INCLUDE = "third_party/deep_gemm/include"
"""In vllm/: headers of DeepGEMM, and of CUTLASS."""
CCCL = "nvidia-cuda-cccl==13.0.85"
OUT, A, B, SCALE_A, SCALE_B = range(5)
"""Arguments of scaled_mm_blockwise."""

_OPTIONS = (
    *("--gpu-architecture=sm_90a", "-std=c++20", "-default-device", "--device-int128", "-w"),
    "--ptxas-options=--register-usage-level=10",
    "--frandom-seed=0",  # else names of what is local to the file, and so its bytes, differ
)
# NVRTC does not know the function of CUDA's runtime that the kernel waits with for the one ahead.
# Ours lets the next kernel in as well, which DeepGEMM does at its end: all blocks run by then.
_SOURCE = """
static __device__ __forceinline__ void cudaGridDependencySynchronize() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}
#include <deep_gemm/impls/sm90_fp8_gemm_1d2d.cuh>
"""


def headers() -> Path | None:
    """The folder of the installed vLLM's, where all is there that its kernels are compiled with."""
    return None if missing() else _folder()


def missing() -> str:
    """What `headers` lacks, in a line; empty if nothing."""
    if _folder() is None:
        return "no vllm with its source is installed"
    if not nvrtc.includes():
        return f"no headers of CUDA 13 with CCCL are installed: pip install {CCCL}"
    return ""


def _folder() -> Path | None:
    vllm = importlib.util.find_spec("vllm")
    roots = vllm.submodule_search_locations or [] if vllm else []
    return next((folder for root in roots if (folder := Path(root) / INCLUDE).is_dir()), None)


@dataclass(frozen=True)
class Recipe:
    """What machine code is made of."""

    name: str
    options: tuple[str, ...]
    source: str
    includes: tuple[Path, ...]

    def compile(self) -> tuple[bytes, str]:
        """(machine code, symbol), in 2 to 5 s. Raises nvrtc.CompileError."""
        includes = [f"-I{path}" for path in self.includes]
        return nvrtc.compile(self.source, self.name, [*self.options, *includes])

    def __str__(self) -> str:
        """The same wherever the headers lie."""
        return f"{self.name} {self.options} {self.source}"


def recipe(config: Config, dims: Any, headers: Path) -> Recipe:
    """Of the kernel at dims. Raises nvrtc.CompileError where CUDA's own headers are missing."""
    if not nvrtc.includes():
        raise nvrtc.CompileError(f"no headers of CUDA 13 with CCCL: pip install {CCCL}")
    name = f"&deep_gemm::sm90_fp8_gemm_1d2d_impl<{template(tile_of(config), dims)}>"
    return Recipe(name, _OPTIONS, _SOURCE, (headers, *nvrtc.includes()))


def template(tile: Tile, dims: Any) -> str:
    """Template arguments: M is the kernel's own argument."""
    n, k = dims
    arguments = [
        "cute::UMMA::Major::K",
        *(0, n, k),
        1,
        *(tile.block_m, tile.block_n, GROUP),
        *(GROUP, GROUP, tile.swizzle),
        tile.stages,
        *(128, tile.math_threads),
        tile.clusters,
        str(tile.multicast == "a").lower(),
        MULTIPROCESSORS,
        "deep_gemm::GemmType::Normal",
        "cutlass::bfloat16_t",
        "deep_gemm::epilogue::transform::EpilogueIdentity",
    ]
    return ", ".join(map(str, arguments))


def kernel(config: Config, dims: Any, source: str, cubin: str, symbol: str) -> index.Kernel:
    """The launch; its signature is the pack's first. source, cubin: sha256."""
    n, k = dims
    tile = tile_of(config)

    def integer(value: Any) -> index.Parameter:
        return index.Parameter("i32", 0, value)

    def matrix(argument: int, inner: int, box: tuple[int, int], swizzle: int) -> index.Parameter:
        return index.Parameter("tensor_map", argument, tile=index.TensorTile(inner, box, swizzle))

    constant = expression.constant
    parameters = (
        index.Parameter("pointer", SCALE_B, constant(0)),
        index.Parameter("i64", 0, constant(0)),  # of grouped GEMMs
        *map(integer, (["size", OUT, 0], constant(n), constant(k))),
        matrix(A, 1, (GROUP, tile.block_m), GROUP),
        matrix(B, 0, (GROUP, tile.block_n), GROUP),
        matrix(OUT, 1, (tile.swizzle // 2, tile.block_m), tile.swizzle),
        matrix(SCALE_A, 0, (tile.block_m, 1), 0),
    )
    return index.Kernel(
        signature=0,
        config=key_of(config),
        source=source,
        cubin=cubin,
        symbol=symbol,
        warps=tile.warps,
        ctas=tile.clusters,
        shared=tile.shared(k),
        pdl=True,
        parameters=parameters,
        grid=(constant(MULTIPROCESSORS // tile.clusters), constant(1), constant(1)),
        # Weights' scales are read one row after the other.
        assumptions=(
            index.Assumption("equal", k // GROUP, ["stride", SCALE_B, 0]),
            index.Assumption("divisible", SCALE_STEP, ["stride", SCALE_A, 1]),
        ),
    )
