# SPDX-License-Identifier: Apache-2.0
"""From an op, its static dims and a config to something that runs: a launcher.

A launcher takes the op's arguments, for any num_tokens. On CPU it is Helion's interpreter; on CUDA
the host function that Helion generates, with its Triton kernel compiled. Both take what
`Op.kernel_args` makes of the op's arguments.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import helion
import helion.language
import torch
import torch.distributed._symmetric_memory as symmetric_memory
from helion.language import _decorators as decorators
from helion.runtime import default_launcher
from helion.runtime.ref_mode import RefMode

from helion_kernels import pdl, split_k
from helion_kernels.op import Config, Op
from helion_kernels.registry import OPS
from helion_kernels.sample import Symbolic

Launcher = Callable[..., None]

for _op in OPS.values():
    # Importing Helion takes seconds: the kernels' files leave it to whoever compiles.
    _op.kernel.__globals__["hl"] = helion.language
for _module in (pdl, split_k):
    _module.hl = helion.language  # type: ignore[attr-defined]


@decorators.ref(helion.language.inline_triton)
def _nothing(triton_source: str, args: Any, output_like: Any) -> None:
    """What is written in Triton orders launches or joins parts: nothing in Helion's interpreter,
    which does not split."""


def _dot(a: torch.Tensor, b: torch.Tensor, acc: Any = None, out_dtype: Any = None) -> Any:
    """hl.dot in Helion's interpreter: PyTorch's bf16 products have no float32 sum on a CPU."""
    if a.dtype != torch.bfloat16:
        return _helion_dot(a, b, acc, out_dtype)
    product = a.float() @ b.float()
    return product if acc is None else acc + product


_helion_dot = helion.language.dot._ref_fn
helion.language.dot._ref_fn = _dot

_SETTINGS: dict[str, Any] = {
    "static_shapes": False,
    # Never search at run time: configs come from `select`.
    "autotune_effort": "none",
    # Views of the arguments in the host part are meant.
    "ignore_warnings": [helion.exc.TensorOperationInWrapper],
}


def interpret(op: Op) -> Launcher:
    """The op's kernel, run by Helion's reference mode on CPU tensors. It ignores configs."""
    return launcher(op, helion.kernel(op.kernel, ref_mode=RefMode.EAGER, **_SETTINGS))


def launcher(op: Op, function: Callable[..., None]) -> Launcher:
    """function, which takes the kernel's arguments, for the op's."""
    return lambda *args: function(*op.kernel_args(*args))


def generate(op: Op, dims: tuple[Any, ...], config: Config) -> "Specialised":
    """Helion -> Triton. Needs no GPU and allocates nothing; not thread-safe.

    Raises helion.exc.InvalidConfig for a config that does not fit the kernel.
    """
    bound = bind(op, op.kernel_of(config), tuple(dims), torch.cuda.get_device_capability())
    with _alone():
        function = bound.compile_config(helion.Config(**config), allow_print=False)
    return Specialised(function, symbolic_args(op, dims))


@lru_cache(maxsize=3)  # an op has three kernels at most
def bind(
    op: Op, kernel: Callable[..., None], dims: tuple[Any, ...], capability: tuple[int, int]
) -> Any:
    """Helion's analysis of a kernel of op at dims.

    It takes some ten times as long as generating code from it, and serves every config: callers
    ask for the configs of one (op, dims) in a row. capability: of the device that is current.
    """
    more = {} if op.index_dtype is None else {"index_dtype": op.index_dtype}
    helion_kernel = helion.kernel(kernel, **_SETTINGS, **more)
    with _alone():
        bound = helion_kernel.bind(symbolic_args(op, dims))
    # Profilers are to tell `_helion_<op>` from another, whatever its function is called.
    helion_kernel.name = bound.host_function.definition.name = op.name
    return bound


_QUESTION = "is_symm_mem_tensor"


@contextmanager
def _alone() -> Iterator[None]:
    """No tensor is another rank's memory.

    Where torch.distributed is initialised, as in each of vLLM's workers, Helion asks PyTorch for
    each tensor; before 2.12, which cannot tell, it takes all for shared, and refuses `pdl`.
    """
    if hasattr(symmetric_memory, _QUESTION):
        yield
        return
    setattr(symmetric_memory, _QUESTION, lambda tensor: False)
    try:
        yield
    finally:
        delattr(symmetric_memory, _QUESTION)


def symbolic_args(op: Op, dims: tuple[Any, ...]) -> tuple[Any, ...]:
    """The kernel's arguments for a symbolic num_tokens."""
    symbolic = Symbolic()
    with symbolic.mode:
        return op.kernel_args(*op.sample(op.dims(*dims), symbolic.num_tokens, symbolic))


class Specialised:
    """A generated host function, its Triton kernel, and what the one passes to the other."""

    options: dict[str, Any]
    """What the kernel is run with besides its arguments, in the launcher's order."""

    def __init__(self, function: Callable[..., None], args: tuple[Any, ...]) -> None:
        """args: symbolic ones. Not thread-safe: they share state that fake tensors keep."""
        self.function = function
        function(*args, _launcher=self._capture)
        self._generalise()

    def _capture(self, kernel: Any, grid: tuple, *args: Any, **options: Any) -> None:
        self.kernel, self.grid, self.args = kernel, grid, args
        # Helion's launcher adds options of its own, and Triton's key is their text: compiled with
        # others, the first launch would compile again.
        default_launcher(_Recorder(self), grid, *args, **options)

    def _generalise(self) -> None:
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

    def compile(self) -> Any:
        """Triton -> machine code for the current device. Thread-safe."""
        # Dtypes stand for aligned tensors, 17 for any num_tokens.
        args = [
            value.dtype
            if isinstance(value, torch.Tensor)
            else 17
            if isinstance(value, torch.SymInt)
            else value
            for value in self.args
        ]
        return self.kernel.warmup(*args, grid=(1,), **self.options)


@dataclass
class _Recorder:
    """In a Triton kernel's place: keeps what it would be run with."""

    specialised: Specialised

    def run(self, *args: Any, grid: tuple, warmup: bool, **options: Any) -> None:
        self.specialised.options = options


def build(specialised: Specialised, device: torch.device, pdl: bool = True) -> Callable[..., None]:
    """The host function, its kernel loaded on device. Thread-safe.

    After this no call JITs, whatever num_tokens: needed for capture, and for vLLM's
    `--jit-monitor-mode error`. pdl: a kernel that waits for the one ahead of it may start early.
    """
    function = specialised.function
    if not pdl and specialised.options.pop("launch_pdl", False):
        function = partial(function, _launcher=_launch_in_order)
    with torch.cuda.device(device):
        specialised.compile()._init_handles()  # now: too much shared memory fails here
    return function


def _launch_in_order(*args: Any, launch_pdl: bool, **options: Any) -> None:
    helion.runtime.default_launcher(*args, **options)
