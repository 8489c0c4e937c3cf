# SPDX-License-Identifier: Apache-2.0
"""Which ops there are, and their registration with PyTorch."""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import torch

from helion_kernels import ops, plan
from helion_kernels.op import Op

OPS: dict[str, Op] = {
    module.name: importlib.import_module(f"{ops.__name__}.{module.name}").OP
    for module in pkgutil.iter_modules(ops.__path__)
}

_LIBRARY = torch.library.Library("helion_kernels", "FRAGMENT")
_registered = False


def _implementation(op: Op) -> Callable[..., None]:
    def call(*args: Any, **kwargs: Any) -> None:
        plan_id, args = _bind(op, args, kwargs)
        plan.run(op, plan_id, args)

    return call


def _bind(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, tuple[Any, ...]]:
    """Positional arguments and plan; the dispatcher leaves out trailing defaults."""
    if len(args) == len(op.arguments) + 1:
        return args[-1], args[:-1]
    names = (*(argument.name for argument in op.arguments), "plan")
    given = dict(zip(names, args, strict=False)) | kwargs
    full = tuple(
        given.get(argument.name, argument.default_value if argument.has_default_value() else None)
        for argument in op.arguments
    )
    return given.get("plan", plan.UNPLANNED), full


def register() -> None:
    """Define `torch.ops.helion_kernels.*` with CPU, CUDA and fake implementations; idempotent."""
    global _registered
    if _registered:
        return
    _registered = True
    for op in OPS.values():
        _LIBRARY.define(op.name + op.schema, tags=(torch.Tag.pt2_compliant_tag,))
        implementation = _implementation(op)
        _LIBRARY.impl(op.name, implementation, "CPU")
        _LIBRARY.impl(op.name, implementation, "CUDA")
        _LIBRARY.impl(op.name, lambda *args, **kwargs: None, "Meta")
