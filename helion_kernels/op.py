# SPDX-License-Identifier: Apache-2.0
"""What an op is made of. One `Op` per file under `ops/`; everything else is derived from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch

Config = dict[str, Any]
"""What `helion.Config` is made of; plain data, for importing Helion takes seconds."""

CONFIG_KEYS = frozenset(
    (
        "block_sizes",
        "epilogue_subtile",
        "flatten_loops",
        "indexing",
        "l2_groupings",
        "load_cache_modifiers",
        "load_eviction_policies",
        "loop_orders",
        "maxnreg",
        "num_ctas",
        "num_sm_multiplier",
        "num_stages",
        "num_warps",
        "pid_type",
        "range_flattens",
        "range_multi_buffers",
        "range_num_stages",
        "range_unroll_factors",
        "range_warp_specializes",
        "reduction_loops",
        "static_ranges",
        "store_cache_modifiers",
    )
)
"""What a config for NVIDIA GPUs may hold."""


class Sample(Protocol):
    """Makes an op's arguments: random tensors (`sample.Random`) or shapes (`sample.Symbolic`)."""

    def empty(self, shape: Sequence[int], dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        """A tensor that the op must write in full; random ones are poisoned."""

    def zeros(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A workspace, as kernels expect and leave it."""

    def randn(
        self, shape: Sequence[int], dtype: torch.dtype, mean: float = 0.0, std: float = 1.0
    ) -> torch.Tensor: ...

    def uniform(self, shape: Sequence[int], low: float, high: float) -> torch.Tensor: ...

    def integers(self, shape: Sequence[int], low: int, high: int) -> torch.Tensor: ...

    def permutation(self, count: int, high: int) -> torch.Tensor:
        """int64 [count'] of distinct values below high; count' may differ from count."""

    def table(self, rows: int, columns: int, high: int) -> torch.Tensor:
        """int32 [rows, columns'] of values below high; columns' may differ from columns."""


@dataclass(frozen=True)
class Op:
    """A kernel, what it must compute, and how it may be configured.

    `dims` holds what is fixed when a model is loaded; num_tokens is what varies from step to step.
    `kernel` is a plain function: Helion compiles it for CUDA tensors and interprets it on CPU ones.
    """

    name: str
    schema: str
    kernel: Callable[..., None]
    reference: Callable[..., None]
    dims: type[tuple[Any, ...]]
    dims_of: Callable[..., tuple[Any, ...]]
    sample: Callable[[Any, int, Sample], tuple[Any, ...]]
    default_config: Callable[[Any, int], Config]
    space: Callable[[Any, int], list[Config]]
    bytes_moved: Callable[[Any, int], int]
    flops: Callable[[Any, int], int] = lambda dims, num_tokens: 0
    kernel_args: Callable[..., tuple[Any, ...]] = lambda *args: args
    serves: Callable[[Any, Config, int], bool] = lambda dims, config, num_tokens: True
    """Whether a config may serve up to num_tokens."""
    multiples: tuple[tuple[str, int], ...] = ()
    """(argument, what its strides but those of 1 are multiples of): `kernel_args` divides them."""
    kernel_for: Callable[[Config], Callable[..., None]] | None = None
    """Which of several kernels, all of `kernel`'s arguments, a config is for; default: `kernel`."""
    index_dtype: torch.dtype | None = None
    """What the kernels compute addresses in, where it is not what Helion takes by itself."""
    buckets: tuple[int, ...] = (16, 32, 64, 256)
    """Numbers of tokens at which `default_config` may change."""
    library: Callable[[Any, int], Config | None] = lambda dims, num_tokens: None
    """What the rule prefers to `default_config` where a pack has it: a library's kernel."""
    most_tokens: int | None = None
    """Beyond which no layer calls the op often enough to tune or time it."""

    def kernel_of(self, config: Config) -> Callable[..., None]:
        """The kernel that a config is for."""
        return self.kernel_for(config) if self.kernel_for else self.kernel

    @cached_property
    def arguments(self) -> list[torch.Argument]:
        """The schema's arguments without `plan`."""
        return list(torch._C.parse_schema(self.name + self.schema).arguments)[:-1]

    @cached_property
    def outputs(self) -> list[int]:
        """Positions of the arguments that the op writes."""
        return [
            i
            for i, argument in enumerate(self.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]


def power_of_2(n: int) -> int:
    """The smallest that is no less than n."""
    return 1 << (n - 1).bit_length()


def row_reduction_config(row: int, num_tokens: int) -> Config:
    """One row per program, held in registers: a row is read once and reduced without a second pass.

    Warps: 16 elements a thread is two 16-byte loads in flight; more warps than that only adds
    to the cost of the cross-warp reduction.
    """
    warps = min(32, max(1, power_of_2(row) // (32 * 16)))
    return Config(block_sizes=[1], reduction_loops=[None], num_warps=warps, num_stages=1)


def row_reduction_space(row: int, num_tokens: int) -> list[Config]:
    """Rows per program x warps."""
    return [
        Config(block_sizes=[rows], reduction_loops=[None], num_warps=warps, num_stages=1)
        for rows in (1, 2, 4)
        for warps in (1, 2, 4, 8, 16, 32)
        if 4 <= rows * power_of_2(row) // (32 * warps) <= 128
    ]


def group_config(row: int, num_tokens: int) -> Config:
    """Groups of 128 are independent: few per program while programs are scarce.

    As the tuner has it for other sizes with as many groups in all: 4 to a program up to some 6000,
    16 in two rows beyond (9728 to 25600, H100 and H200). 16 of one row took 4.3 us at 3072 and 128
    to 512 tokens (H200), where 6144 takes 2.3 at 64 and 3.7 at 256: 24 groups are half a program
    too many.
    """
    rows, groups, warps = 1, 4, 4
    if num_tokens <= 64:
        rows, groups, warps = 1, 2, 1
    elif num_tokens * row // 128 > 6144:
        rows, groups, warps = 2, 8, 8
    return Config(
        block_sizes=[rows, min(power_of_2(row // 128), groups)],
        reduction_loops=[None],
        num_warps=warps,
        num_stages=1,
    )


def group_space(row: int, num_tokens: int) -> list[Config]:
    """Rows x groups per program x warps."""
    return [
        Config(block_sizes=[rows, groups], reduction_loops=[None], num_warps=warps, num_stages=1)
        for rows in (1, 2, 4)
        for groups in (1, 2, 4, 8, 16, 32)
        for warps in (1, 2, 4, 8)
        if groups <= power_of_2(row // 128) and 2 <= rows * groups * 128 // (32 * warps) <= 64
    ]


def head_config(num_q_heads: int, num_kv_heads: int, num_tokens: int) -> Config:
    """A few heads per program; the query and the key-value loop share one launch."""
    per_program = 1 if num_tokens <= 16 else 4
    q, kv = (min(per_program, power_of_2(n)) for n in (num_q_heads, num_kv_heads))
    return Config(
        block_sizes=[1, q, 1, kv],
        reduction_loops=[None],
        num_warps=1 if per_program == 1 else 4,
        num_stages=1,
    )


def head_space(num_q_heads: int, num_kv_heads: int, num_tokens: int) -> list[Config]:
    """Tokens x heads per program x warps."""
    return [
        Config(
            block_sizes=[
                tokens,
                min(heads, power_of_2(num_q_heads)),
                tokens,
                min(heads, power_of_2(num_kv_heads)),
            ],
            reduction_loops=[None],
            num_warps=warps,
            num_stages=1,
        )
        for tokens in (1, 2, 4)
        for heads in (1, 2, 4, 8)
        for warps in (1, 2, 4, 8)
        if 1 <= tokens * heads * 64 // (32 * warps) <= 16
    ]
