# SPDX-License-Identifier: Apache-2.0
"""A GEMM that leaves all of K to the tensor core: what the kernels must not do."""

import torch
import triton
import triton.language as tl

ROWS, COLUMNS, STEP = 64, 16, 128


@triton.jit
def kernel(
    out, a, b, scale_a, scale_b, m, k: tl.constexpr, n: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """out[m, n] of weights b [N, K] and tokens a [M, K], operands swapped as in scaled_mm."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    along = tl.arange(0, STEP)
    there = columns < m
    acc = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in tl.range(0, k, STEP, num_stages=3):
        weight = tl.load(b + rows[:, None] * k + start + along[None, :])
        token = tl.load(a + columns[None, :] * k + start + along[:, None], mask=there[None, :])
        acc = tl.dot(weight, token, acc)
    scale = tl.load(scale_b + rows)[:, None] * tl.load(scale_a + columns, mask=there)[None, :]
    to = out + columns[None, :] * n + rows[:, None]
    tl.store(to, (acc * scale).to(tl.bfloat16), mask=there[None, :])


def scaled_mm(
    out: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor,
    scale_b: torch.Tensor, workspace: torch.Tensor,
) -> None:  # fmt: skip
    """As the op of that name; N is a multiple of ROWS."""
    (m, k), n = a.shape, b.shape[1]
    assert n % ROWS == 0 and k % STEP == 0
    grid = (n // ROWS, triton.cdiv(m, COLUMNS))
    kernel[grid](out, a, b.t(), scale_a, scale_b, m, k, n, ROWS, COLUMNS, STEP, num_warps=4)
