# SPDX-License-Identifier: Apache-2.0
"""DeepGEMM's block-FP8 GEMM as configs of ours, for where it is the fastest: many tokens.

    {"deep_gemm": {"block_m": 128, "block_n": 128, "multicast": "a"}}

Upstream's wheel has it as CUDA source (vllm/third_party/deep_gemm, MIT) that upstream compiles with
nvcc when an engine starts, for minutes. Ours is compiled when a pack is made (`aot/deep_gemm.py`)
and launched like every kernel of a pack; scales stay as they are, where upstream rounds them to
powers of two.

The kernel is https://github.com/deepseek-ai/DeepGEMM, `sm90_fp8_gemm_1d2d`: a persistent grid, one
warpgroup that copies, one or two that multiply, sums promoted to float32 after every 128 of K.
"""

from dataclasses import asdict, dataclass
from typing import Any

from helion_kernels.fp8 import GROUP
from helion_kernels.hopper import MULTIPROCESSORS, SHARED
from helion_kernels.op import Config

KEY = "deep_gemm"
OP = "scaled_mm_blockwise"
LEAST_M = 64
"""Rows of a WGMMA."""
MOST_SUMS = 128
"""Of a thread, in registers."""
MOST_STAGES = 16
MOST_K = 32768
"""Of any model's row; decides how much room the scales of weights are left."""


@dataclass(frozen=True)
class Tile:
    block_m: int
    block_n: int
    multicast: str = ""
    """Of which operand two neighbouring blocks share copies: a, b, or none."""

    @property
    def config(self) -> Config:
        return {KEY: asdict(self)}

    @property
    def math_threads(self) -> int:
        return 128 if self.block_m <= 64 else 256

    @property
    def warps(self) -> int:
        """With the warpgroup that copies."""
        return (128 + self.math_threads) // 32

    @property
    def sums(self) -> int:
        """Outputs of a thread."""
        return self.block_m * self.block_n // self.math_threads

    @property
    def clusters(self) -> int:
        return 2 if self.multicast else 1

    @property
    def swizzle(self) -> int:
        """Bytes, of the output's tile: the largest that cuts a row of it evenly."""
        return next(b for b in (128, 64, 32, 16) if 2 * self.block_n % b == 0)

    @property
    def stages(self) -> int:
        """As many as fit."""
        rest = SHARED - self._output - _scales(MOST_K)
        return min(MOST_STAGES, rest // (self._stage + 16))

    def shared(self, k: int) -> int:
        """Bytes of shared memory."""
        return self._output + self.stages * (self._stage + 16) + _scales(k)

    @property
    def _output(self) -> int:
        return -(-2 * self.block_m * self.block_n // 1024) * 1024

    @property
    def _stage(self) -> int:
        return (self.block_m + self.block_n) * GROUP + -(-4 * self.block_m // 128) * 128


def _scales(k: int) -> int:
    """Bytes of the weights' scales, of two rows of blocks."""
    return 2 * 4 * -(-k // GROUP)


def _tiles() -> list[Tile]:
    """Sharing b's copies helps where many rows of tiles read it, a's only the tallest.

    Without those that were never the fastest in 165 cases on an H200: 256 rows of fewer columns,
    and 128 rows of 112 (docs/performance-log.md).
    """
    widths = (*range(16, 97, 16), 128, 160, 192)
    flat = [Tile(64, n) for n in (*widths, 112)]
    square = [Tile(128, n, share) for n in widths for share in (("", "b") if n >= 64 else ("",))]
    return [*flat, *square, *(Tile(256, 128, share) for share in ("", "a", "b"))]


TILES = _tiles()
"""Of which a search looks at `likely` ones."""
FEWEST = 33
"""Tokens from which on the rule takes a tile: at 64 the tuner did for 24 of 24 sizes (H200)."""
SUMS_OF_64_ROWS = 1.4
"""What an output takes where there are no more rows, to one of a larger tile."""
COPIES = 24
"""What a row or column of operands takes, in outputs."""
NEAR = 1.5
"""Of the least cost: none of the tiles that the tuner took costs more."""
MOST_LIKELY = 10
"""Of which all of H200's are among so many, and 185 of H100's 188; each takes 2 to 5 s to compile,
for each N and K."""


def cost(tile: Tile, n: int, num_tokens: int) -> float:
    """What a tile takes of the multiprocessors' time, in outputs, but for K.

    Rounds of tiles over 132 multiprocessors, each the multiplication of its outputs and, where they
    overlap with nothing, the copies of its edges; 64 rows keep one warpgroup busy, which waits for
    its own promotions. Of 165 cases that an H200 timed with most of the tiles, the least costs were
    the fastest in 95 and among its three best in 143 (docs/performance-log.md).
    """
    tiles = -(-num_tokens // tile.block_m) * -(-n // tile.block_n)
    rounds = -(-tiles // MULTIPROCESSORS)
    outputs = tile.block_m * tile.block_n * (SUMS_OF_64_ROWS if tile.block_m == LEAST_M else 1.0)
    return rounds * (outputs + COPIES * (tile.block_m + tile.block_n))


def likely(n: int, num_tokens: int) -> list[Tile]:
    """Tiles that may be the fastest, the likeliest first."""
    costs = {tile: cost(tile, n, num_tokens) for tile in TILES}
    most = NEAR * min(costs.values())
    near = [tile for tile in TILES if costs[tile] <= most]
    return sorted(near, key=costs.__getitem__)[:MOST_LIKELY]


def rule(dims: Any, num_tokens: int) -> Config | None:
    """For sizes that nothing is tuned for; None where Triton's kernels are as good, or the only."""
    if num_tokens < FEWEST:
        return None
    config = likely(dims[0], num_tokens)[0].config
    return config if serves(dims, config, num_tokens) else None


def names(config: Config | str) -> bool:
    """Whether a config is one of DeepGEMM's."""
    return isinstance(config, dict) and KEY in config


def tile_of(config: Config) -> Tile:
    """Raises ValueError for a config that the kernel cannot have."""
    given = config[KEY]
    if len(config) != 1 or not isinstance(given, dict):
        raise ValueError(f"{KEY} stands alone and has block_m, block_n and multicast")
    try:
        tile = Tile(**given)
    except TypeError as error:
        raise ValueError(f"{KEY}: {error}") from None
    numbers = (tile.block_m, tile.block_n)
    if not all(type(n) is int for n in numbers) or tile.multicast not in ("", "a", "b"):
        raise ValueError(f"{KEY} has two integers and a, b or nothing, not {given}")
    known = tile.block_m in (64, 128, 256) and _is_block_n(tile.block_n)
    if not known or tile.sums > MOST_SUMS or tile.stages < 2:
        raise ValueError(f"{KEY} has no tiles of {tile.block_m} x {tile.block_n}")
    return tile


def _is_block_n(block_n: int) -> bool:
    """Of one width of a WGMMA, whose columns have at most two scales."""
    return block_n % 16 == 0 and (16 <= block_n <= 128 or block_n in (144, 160, 192))


def serves(dims: Any, config: Config, num_tokens: int) -> bool:
    """Whether the copy engine can address rows of the output and of the operands."""
    n, k = dims
    return n % 8 == 0 and k % GROUP == 0 and k <= MOST_K
