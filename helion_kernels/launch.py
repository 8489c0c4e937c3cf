# SPDX-License-Identifier: Apache-2.0
"""From an op, its static dims and a config to something that runs: a launcher.

A launcher takes the kernel's arguments (`Op.kernel_args`) for any num_tokens. On CPU it is Helion's
interpreter; on CUDA the host function that Helion generates, with its Triton kernel compiled.
"""

from collections.abc import Callable
from typing import Any

import helion
import torch
from helion.runtime.ref_mode import RefMode

from helion_kernels.op import Op
from helion_kernels.sample import Symbolic

Launcher = Callable[..., None]

_SETTINGS: dict[str, Any] = {
    "static_shapes": False,
    # Never search at run time: configs come from `select`.
    "autotune_effort": "none",
    # Views of the arguments in the host part are meant.
    "ignore_warnings": [helion.exc.TensorOperationInWrapper],
}


def interpret(op: Op) -> Launcher:
    """The op's kernel, run by Helion's reference mode on CPU tensors. It ignores configs."""
    return helion.kernel(op.kernel, ref_mode=RefMode.EAGER, **_SETTINGS)


def generate(op: Op, dims: tuple[Any, ...], config: helion.Config) -> tuple[Launcher, tuple]:
    """Helion -> Triton: the generated host function, and symbolic arguments to call it with.

    Needs no GPU and allocates nothing. Raises helion.exc.InvalidConfig for a config that does not
    fit the kernel.
    """
    symbolic = Symbolic()
    with symbolic.mode:
        args = op.kernel_args(*op.sample(op.dims(*dims), symbolic.num_tokens, symbolic))
    bound = helion.kernel(op.kernel, **_SETTINGS).bind(args)
    return bound.compile_config(config, allow_print=False), args


class Specialised:
    """What a generated host function passes to its launcher, for one set of arguments."""

    def __init__(self, function: Launcher, args: tuple[Any, ...]) -> None:
        self.function = function
        function(*args, _launcher=self._capture)

    def _capture(self, kernel: Any, grid: tuple, *args: Any, **options: Any) -> None:
        self.kernel, self.grid, self.args, self.options = kernel, grid, args, options

    def generalise(self) -> None:
        """Recompile for no value of num_tokens in particular.

        Triton compiles a variant for each of: 1, a multiple of 16, any other integer. The kernels
        do not profit (rows are addressed through strides that are static), and each variant
        costs a compilation before the engine is ready.
        """
        import triton

        symbols = [
            name
            for name, value in zip(self.kernel.arg_names, self.args, strict=False)
            if isinstance(value, torch.SymInt) and not value.node.expr.is_number
        ]
        general = triton.jit(self.kernel.fn, do_not_specialize=symbols)
        self.function.__globals__[self.kernel.fn.__name__] = general
        self.kernel = general

    def mock_args(self) -> list[Any]:
        """The captured arguments for `JITFunction.warmup`: dtypes for tensors, 17 for symbols."""
        return [
            value.dtype
            if isinstance(value, torch.Tensor)
            else 17
            if isinstance(value, torch.SymInt)
            else value
            for value in self.args
        ]


def build(function: Launcher, args: tuple[Any, ...], device: torch.device) -> Launcher:
    """Triton -> machine code for `generate`'s result, loaded on device. Thread-safe.

    After this no call JITs, whatever num_tokens: needed for capture, and for vLLM's
    `--jit-monitor-mode error`.
    """
    specialised = Specialised(function, args)
    specialised.generalise()
    with torch.cuda.device(device):
        compiled = specialised.kernel.warmup(
            *specialised.mock_args(), grid=(1,), **specialised.options
        )
        compiled._init_handles()  # load now: too much shared memory fails here, not in a request
    return function
