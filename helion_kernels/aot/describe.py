# SPDX-License-Identifier: Apache-2.0
"""A compiled kernel -> its entry in a pack: how a call of its op becomes its launch."""

from typing import Any

import torch

from helion_kernels import launch
from helion_kernels.aot import expression, index, trace
from helion_kernels.aot.expression import Expression, Inexpressible
from helion_kernels.op import Op
from helion_kernels.sample import Symbolic

_FLOATS = ("fp32", "fp64")
_INTEGERS = ("i32", "i64")


def signature(op: Op, dims: tuple[Any, ...]) -> index.Signature:
    """How op is called at dims: what its sample is like, but for the sizes that are open."""
    sampled = Symbolic()
    with sampled.mode:
        args = op.sample(op.dims(*dims), sampled.num_tokens, sampled)
    arguments = []
    for argument, arg in zip(op.arguments, args, strict=True):
        name = argument.name
        if isinstance(arg, torch.Tensor):
            arguments.append(
                index.Argument(
                    name,
                    "tensor",
                    str(arg.dtype).removeprefix("torch."),
                    tuple(_size(op, name, d, arg, sampled.num_tokens) for d in range(arg.dim())),
                    tuple(isinstance(s, int) and s == 1 for s in arg.stride()),
                    name in trace.WIDE,
                )
            )
        else:
            arguments.append(index.Argument(name, "none" if arg is None else "float"))
    return index.Signature(op.name, tuple(dims), tuple(arguments))


def _size(
    op: Op, name: str, d: int, arg: torch.Tensor, num_tokens: torch.SymInt
) -> int | str | None:
    if trace.is_open(op, name, d):
        return index.AT_MOST_NUM_TOKENS if trace.OPEN[name, d] else None
    size = arg.shape[d]
    return index.NUM_TOKENS if trace.is_num_tokens(size, num_tokens) else int(size)


def kernel(
    op: Op,
    dims: tuple[Any, ...],
    specialised: launch.Specialised,
    compiled: Any,
    config: str,
    source: str,
    cubin: str,
) -> index.Kernel:
    """compiled: what Triton made of specialised; the kernel's signature is the pack's first.

    Raises Inexpressible where a launch needs more than a pack can say.
    """
    traced = trace.trace(op, dims, specialised.function)
    metadata = compiled.metadata
    for need in ("global_scratch_size", "profile_scratch_size", "tmem_size"):
        if getattr(metadata, need, 0):
            raise Inexpressible(f"the kernel needs {need.replace('_', ' ')}")
    if metadata.launch_cooperative_grid or metadata.tensordesc_meta:
        raise Inexpressible("the kernel needs a cooperative launch or tensor descriptors")
    parameters, assumptions = _parameters(traced, compiled.src)
    grid = [*traced.grid, *[expression.constant(1)] * (3 - len(traced.grid))]
    return index.Kernel(
        signature=0,
        config=config,
        source=source,
        cubin=cubin,
        symbol=metadata.name,
        warps=metadata.num_warps,
        ctas=metadata.num_ctas,
        shared=metadata.shared,
        pdl="griddepcontrol.wait" in compiled.asm["ptx"],
        parameters=tuple(parameters),
        grid=tuple(grid),
        assumptions=(*_multiples(op, traced.args), *assumptions),
    )


def _multiples(op: Op, args: tuple[Any, ...]) -> list[index.Assumption]:
    """What `Op.kernel_args` takes for granted when it divides strides."""
    names = [argument.name for argument in op.arguments]
    return [
        index.Assumption("divisible", number, ["stride", i, d])
        for i, number in [(names.index(name), number) for name, number in op.multiples]
        for d, stride in enumerate(args[i].stride())
        if not (isinstance(stride, int) and stride == 1)
    ]


def _parameters(
    traced: trace.Trace, source: Any
) -> tuple[list[index.Parameter], list[index.Assumption]]:
    """Parameters in the order of the machine code, constexprs left out as Triton does."""
    parameters: list[index.Parameter] = []
    assumptions: list[index.Assumption] = []
    for i, (name, form) in enumerate(source.signature.items()):
        origin = traced.origins[i]
        if form == "constexpr":
            _assume(assumptions, "equal", source.constants[(i,)], origin)
            continue
        if isinstance(origin, trace.Pointer) and form.startswith("*"):
            parameters.append(index.Parameter("pointer", origin.argument, origin.offset))
        elif isinstance(origin, trace.Scalar) and form in _FLOATS:
            parameters.append(index.Parameter(form, origin.argument))
        elif isinstance(origin, list) and form in _INTEGERS:
            parameters.append(index.Parameter(form, 0, origin))
        else:
            raise Inexpressible(f"parameter {name} of type {form} is {origin}")
        for attribute, value in source.attrs.get((i,), []):
            if attribute != "tt.divisibility":
                raise Inexpressible(f"parameter {name} is assumed to have {attribute}")
            _assume(assumptions, "divisible", value, origin)
    return parameters, assumptions


def _assume(to: list[index.Assumption], rule: str, number: Any, origin: trace.Origin) -> None:
    """Write down what is not true of every call."""
    if isinstance(origin, trace.Pointer):
        assumption = index.Assumption("aligned", number, origin.offset, origin.argument)
    elif isinstance(origin, list) and isinstance(number, int):
        known = expression.value_of(origin)
        if known is not None:
            if not _holds(rule, number, origin):
                raise Inexpressible(f"the code assumes {rule} {number} of {known}")
            return
        assumption = index.Assumption(rule, number, origin)
    else:
        raise Inexpressible(f"the code assumes {rule} {number} of {origin}")
    if assumption not in to:
        to.append(assumption)


def _holds(rule: str, number: int, words: Expression) -> bool:
    value = words[1]
    return value == number if rule == "equal" else value % number == 0
