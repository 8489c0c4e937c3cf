# SPDX-License-Identifier: Apache-2.0
"""The C++ dispatcher (csrc/), from Python: packs in, plan numbers out, launches without Python.

    native.load(OPS.values())                          # once; raises Unavailable, with the reason
    kernels = native.Pack.open(path, device)           # raises aot.index.PackError
    number = kernels.plan("scaled_mm", dims, [(choice.key, choice.upto), ...])
    native.prepare(number, device)                     # before capture; no launch loads anything
    torch.ops.helion_kernels_native.scaled_mm(*args, number)

The operators have the schemas of `torch.ops.helion_kernels.*`; `plan` is a number from here.
"""

import ctypes
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from helion_kernels.aot import index, pack
from helion_kernels.aot.expression import LEAVES, Expression
from helion_kernels.op import Op

_LIBRARY = Path(__file__).with_name("helion_kernels_native.so")
NAMESPACE = "helion_kernels_native"

_CODES = ("size", "stride", "const", "+", "*", "//", "%", "min", "max")
_KINDS = ("none", "tensor", "float")
_loaded: ctypes.CDLL | None = None
_meta: list[torch.library.Library] = []


class Unavailable(RuntimeError):
    """The dispatcher cannot be used here. One line: why."""


def load(ops: Iterable[Op], path: Path | str | None = None) -> None:
    """Load the library and define `torch.ops.helion_kernels_native.*`; idempotent.

    path: of the library; else $HELION_KERNELS_NATIVE, else beside this file.
    """
    global _loaded
    if _loaded is not None:
        return
    path = path or os.environ.get("HELION_KERNELS_NATIVE") or _LIBRARY
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"no C++ dispatcher: {error}") from None
    number, text, many = ctypes.c_int64, ctypes.c_char_p, ctypes.c_uint64
    words = ctypes.c_void_p
    for name, result, arguments in (
        ("error", text, []),
        ("define_op", number, [text, text]),
        ("devices", number, []),
        ("capability", number, [ctypes.c_int]),
        ("signature", number, [text, text, words, many]),
        ("kernel", number, [number, text, many, text, words, many]),
        ("plan", number, [words, words, many]),
        ("prepare", number, [number, ctypes.c_int]),
        ("set_pdl", None, [ctypes.c_int]),
    ):
        function = getattr(library, f"helion_kernels_{name}")
        function.restype, function.argtypes = result, arguments
    _loaded = library
    fakes = torch.library.Library(NAMESPACE, "FRAGMENT")
    _meta.append(fakes)
    for op in ops:
        _call("define_op", (op.name + op.schema).encode(), _kinds(op).encode())
        fakes.impl(op.name, _described(op), "Meta")


def _described(op: Op) -> Callable[..., None]:
    """The op for tools that describe tensors on meta: it launches nothing.

    PyTorch calls it where any tensor is on meta. With real ones among them that is a mistake.
    """

    def fake(*args: Any) -> None:
        named = zip(op.arguments, args, strict=False)  # The last of args is the plan.
        tensors = [(argument.name, arg) for argument, arg in named if torch.is_tensor(arg)]
        meta = [name for name, tensor in tensors if tensor.is_meta]
        if len(meta) < len(tensors):
            raise RuntimeError(f"helion_kernels.{op.name}: {', '.join(meta)} has no memory (meta)")

    return fake


def _kinds(op: Op) -> str:
    """T tensor, O tensor or None, F float: how each argument lies on PyTorch's stack."""
    kinds = {"Tensor": "T", "Optional[Tensor]": "O", "float": "F"}
    return "".join(kinds[str(argument.type)] for argument in op.arguments)


def _call(name: str, *args: Any) -> int:
    if _loaded is None:
        raise Unavailable("no C++ dispatcher: native.load() was not called")
    result = getattr(_loaded, f"helion_kernels_{name}")(*args)
    if result < 0:
        raise Unavailable(_loaded.helion_kernels_error().decode(errors="replace"))
    return result


def devices() -> int:
    """How many CUDA devices the driver has."""
    return _call("devices")


def prepare(plan: int, device: int) -> None:
    """Load a plan's kernels on a device; idempotent. No launch after it loads or allocates."""
    _call("prepare", plan, device)


def operator(op: str) -> torch._ops.OpOverload:
    """`torch.ops.helion_kernels_native.<op>`, called with a plan's number as last argument."""
    overload: torch._ops.OpOverload = getattr(getattr(torch.ops, NAMESPACE), op).default
    return overload


def launcher(
    op: Op, dims: tuple[Any, ...], kernel: index.Kernel, cubin: bytes
) -> Callable[..., None]:
    """What launches a kernel on the current device, for any num_tokens.

    kernel: its signature is the first of a pack.
    """
    from helion_kernels.aot import describe

    signature = describe.signature(op, dims)
    alone = Pack(pack.Pack("", "", {}, [signature], [kernel], {kernel.cubin: cubin}))
    number = alone.plan(op.name, dims, [(kernel.config, 1)])
    assert number is not None
    prepare(number, torch.cuda.current_device())
    function = operator(op.name)
    return lambda *args: function(*args, number)


def set_pdl(on: bool) -> None:
    """Programmatic dependent launch, for kernels that are made for it; on at first."""
    if _loaded is not None:
        _loaded.helion_kernels_set_pdl(int(on))


class Pack:
    """A verified pack, whose kernels the dispatcher can launch. Not thread-safe; plans are."""

    def __init__(self, verified: pack.Pack, path: Path | str = "") -> None:
        self.pack, self.path = verified, Path(path)
        self._signatures: dict[int, int] = {}
        self._kernels: dict[int, int] = {}
        self._numbers = {id(kernel): i for i, kernel in enumerate(verified.kernels)}

    @classmethod
    def open(cls, path: Path | str, device: int) -> "Pack":
        """Raises PackError for a pack that is damaged, stale or for another architecture."""
        return cls(pack.read(path, f"sm_{_call('capability', device)}"), path)

    def plan(
        self, op: str, dims: tuple[Any, ...], choices: Sequence[tuple[str, int]]
    ) -> int | None:
        """A plan's number; None unless the pack has the kernel of every choice.

        choices: (`Choice.key`, `Choice.upto`), ascending; the last serves every num_tokens beyond.
        """
        found = [self.pack.find(op, tuple(dims), key) for key, _ in choices]
        if not found or any(kernel is None for kernel in found):
            return None
        numbers = _words(self._kernel(kernel) for kernel in found if kernel is not None)
        bounds = _words(upto for _, upto in choices)
        return _call("plan", numbers, bounds, len(bounds))

    def _kernel(self, kernel: index.Kernel) -> int:
        key = self._numbers[id(kernel)]
        if key not in self._kernels:
            arguments = self.pack.signatures[kernel.signature].arguments
            code, words = self.pack.cubins[kernel.cubin], _words(kernel_words(kernel, arguments))
            signature = self._signature(kernel.signature)
            symbol = kernel.symbol.encode()
            self._kernels[key] = _call(
                "kernel", signature, code, len(code), symbol, words, len(words)
            )
        return self._kernels[key]

    def _signature(self, number: int) -> int:
        if number not in self._signatures:
            signature = self.pack.signatures[number]
            names = ",".join(argument.name for argument in signature.arguments)
            words = _words(signature_words(signature))
            self._signatures[number] = _call(
                "signature", signature.op.encode(), names.encode(), words, len(words)
            )
        return self._signatures[number]


def _words(values: Iterable[int]) -> Any:
    values = list(values)
    return (ctypes.c_int64 * len(values))(*values)


def signature_words(signature: index.Signature) -> list[int]:
    """As csrc/signature.cpp reads them."""
    words = []
    for argument in signature.arguments:
        words.append(_KINDS.index(argument.kind))
        if argument.kind != "tensor":
            continue
        words += [index.DTYPES.index(argument.dtype), int(argument.wide), len(argument.sizes)]
        for size, unit in zip(argument.sizes, argument.unit_strides, strict=True):
            if isinstance(size, int):
                words += [0, size, int(unit)]
            else:
                rule = {index.NUM_TOKENS: 1, None: 2, index.AT_MOST_NUM_TOKENS: 3}[size]
                words += [rule, 0, int(unit)]
    return words


def kernel_words(kernel: index.Kernel, arguments: Sequence[index.Argument]) -> list[int]:
    """As csrc/kernel.cpp reads them; arguments: the signature's."""
    words = [kernel.warps, kernel.shared, kernel.ctas, int(kernel.pdl), len(kernel.parameters)]
    for parameter in kernel.parameters:
        words.append(index.FORMS.index(parameter.form))
        if parameter.form not in ("i32", "i64"):
            words.append(parameter.argument)
        if parameter.tile is not None:
            words.append(index.DTYPES.index(arguments[parameter.argument].dtype))
            words += [parameter.tile.inner, *parameter.tile.box]
            words.append(index.SWIZZLES.index(parameter.tile.swizzle))
        if parameter.value is not None:
            words += _expression_words(parameter.value)
    for extent in kernel.grid:
        words += _expression_words(extent)
    words.append(len(kernel.assumptions))
    for assumption in kernel.assumptions:
        words += [index.RULES.index(assumption.rule), assumption.number]
        if assumption.rule == "aligned":
            words.append(assumption.argument)
        words += _expression_words(assumption.value)
    return words


def _expression_words(expression: Expression) -> list[int]:
    """The number of steps, then each: a code, and the operands of one that pushes."""
    steps, words, rest = 0, [], iter(expression)
    for word in rest:
        steps += 1
        words.append(_CODES.index(word))
        words += [next(rest) for _ in range(LEAVES.get(word, 0))]
    return [steps, *words]
