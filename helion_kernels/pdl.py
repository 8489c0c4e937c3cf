# SPDX-License-Identifier: Apache-2.0
"""Programmatic dependent launch: where a kernel waits for the one ahead of it and lets the next in.

A kernel that says `hl.pdl_wait()` or `hl.pdl_launch_dependents()` on the host may be launched while
the one ahead of it still runs, as soon as all programs of that one have said
`hl.pdl_launch_dependents()` or ended. Helion places both at a kernel's entry or exit only; these
two stand anywhere in its body.

Rules, for all kernels here:
- Every program waits, once, before it reads anything but weights, positions, block tables and the
  lengths of sequences, and before it writes; one that does neither may end at once, if another of
  its kernel waits. A kernel that ends has therefore seen all before it end, so that waiting for the
  one ahead is waiting for all. Positions, tables and lengths are a step's input: whatever writes
  them must end before a kernel that is launched normally, or that waits before it lets others in,
  as the GEMM ahead does.
- It may ask for (`prefetch.global.L2`) whatever it likes: L2 is where all writes arrive.
- Kernels between GEMMs let the next one in at their entry, GEMMs after their loop over K: the
  fastest of the places that were tried (docs/performance-log.md). `gemv` does so at its entry, as
  its programs are small, and those of the next begin where they end. What GEMMs say again at their
  exit is for Helion, which looks for it there.
"""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import helion.language as hl


def wait() -> None:
    """Wait until the kernel ahead has ended and its writes are visible (inlined by Helion)."""
    hl.inline_triton("tl.extra.cuda.gdc_wait()", args=(), output_like=None)


def launch_dependents() -> None:
    """Let the next kernel start, once every program has said so (inlined by Helion)."""
    hl.inline_triton("tl.extra.cuda.gdc_launch_dependents()", args=(), output_like=None)


def prefetch(weight: torch.Tensor, rows: torch.Tensor, k: int, begin: int) -> None:
    """Ask for the first 256 bytes from column begin of each row of weight [N, k] (inlined).

    weight: FP8, rows k apart. Before `wait`, so that they arrive in L2 while the kernel ahead ends.
    H100, Qwen3-8B: 60 to 89 us of a step of 3.2 to 4.4 ms; 1024 bytes gain less, and one bulk
    request a row costs (docs/performance-log.md).
    """
    hl.inline_triton(
        "tl.inline_asm_elementwise('prefetch.global.L2 [$1]; mov.u32 $0, 0;', '=r,l', "
        "[{0} + ({1}[:, None] * {2} + ({3} + tl.arange(0, 2)[None, :] * 128) % {2})], "
        "dtype=tl.int32, is_pure=False, pack=1)",
        args=(weight, rows, k, begin),
        output_like=None,
    )


def prefetch_rows(flat: torch.Tensor, base: torch.Tensor, width: int) -> None:
    """Ask for `width` elements of 2 bytes at each of base [T, 1] of flat (inlined by Helion).

    Before `wait`, as `prefetch`. H100, Qwen3-8B, keys and values of attention's first tile: 6 to 55
    us of a step of 3.2 to 8.2 ms (docs/performance-log.md).
    """
    hl.inline_triton(
        "tl.inline_asm_elementwise('prefetch.global.L2 [$1]; mov.u32 $0, 0;', '=r,l', "
        "[{0} + ({1} + tl.arange(0, {2} // 64)[None, :] * 64)], "
        "dtype=tl.int32, is_pure=False, pack=1)",
        args=(flat, base, width),
        output_like=None,
    )
