# SPDX-License-Identifier: Apache-2.0
"""A Triton kernel of upstream's as it is specialised where it runs: data, in `kernels.json`.

An argument is a type as Triton writes it, with `:16` where it is a multiple of 16, or the value
that is compiled in. `for` says who needs it: `warm-up`, upstream's own before the engine is ready,
or `request`, the first request of a kind.
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

RECORDED = Path(__file__).with_name("kernels.json")
DIVISIBLE = ":16"
LOGITS = ("bf16", "fp32")
"""Types of logits, upstream's first: the recorded one. No other argument is in bf16, but where
upstream passes the logits for want of a top-k or top-p."""


@dataclass(frozen=True)
class Kernel:
    """One specialisation of a jitted function."""

    function: str
    arguments: dict[str, Any]
    options: dict[str, Any]
    warm_up: bool
    """Whether upstream's warm-up runs it."""

    def on(self, logits: str) -> "Kernel":
        """The same for logits of a type of `LOGITS`."""
        recorded, wanted = f"*{LOGITS[0]}", f"*{logits}"
        arguments = {
            name: value.replace(recorded, wanted) if isinstance(value, str) else value
            for name, value in self.arguments.items()
        }
        return replace(self, arguments=arguments)

    @property
    def module(self) -> str:
        return self.function.rpartition(".")[0]

    def find(self) -> Any:
        """The jitted function, if its module is imported and it takes these arguments, else None.

        Nothing is imported: what the engine uses it has imported, and the rest need not be ready.
        """
        from triton import JITFunction

        module: ModuleType | None = sys.modules.get(self.module)
        found = getattr(module, self.function.rpartition(".")[2], None)
        fits = isinstance(found, JITFunction) and found.arg_names == list(self.arguments)
        return found if fits else None

    def signature(self) -> dict[str, str]:
        return {
            name: value.removesuffix(DIVISIBLE) if isinstance(value, str) else "constexpr"
            for name, value in self.arguments.items()
        }

    def constants(self) -> dict[tuple[int], Any]:
        values = enumerate(self.arguments.values())
        return {(i,): value for i, value in values if not isinstance(value, str)}

    def attributes(self, function: Any) -> dict[tuple[int], list[Any]]:
        """What Triton knows of the values of arguments; of some it is told not to ask."""
        return {
            (i,): [["tt.divisibility", 16]] if value.endswith(DIVISIBLE) else []
            for i, value in enumerate(self.arguments.values())
            if isinstance(value, str)
            and value.startswith(("*", "i", "u"))
            and not function.params[i].do_not_specialize
        }

    def source(self, function: Any) -> Any:
        """What Triton compiles."""
        from triton.compiler import ASTSource

        return ASTSource(function, self.signature(), self.constants(), self.attributes(function))

    def preload_data(self, function: Any) -> str:
        """What `JITFunction.preload` takes: the launch that it prepares is found by its key."""
        from triton import knobs

        constants, attributes = self.constants(), self.attributes(function)
        marks = {path: "D" if known else "" for path, known in attributes.items()}
        specialised = [
            (kind, constants[i,] if (i,) in constants else marks.get((i,)))
            for i, kind in enumerate(self.signature().values())
        ]
        debug = function.debug or knobs.runtime.debug
        options = {
            **self.options,
            "debug": debug,
            "instrumentation_mode": knobs.compilation.instrumentation_mode,
        }
        return json.dumps(
            {
                "name": self.function,
                "signature": self.signature(),
                "constant_keys": list(constants),
                "constant_vals": list(constants.values()),
                "attrs_keys": list(attributes),
                "attrs_vals": list(attributes.values()),
                "options": options,
                "key": str(specialised) + str(options),
            }
        )


def read(*logits: str, path: Path = RECORDED) -> list[Kernel]:
    """The recorded kernels for logits of these types, else of `LOGITS[0]`, each once.

    In the order in which they are first needed.
    """
    recorded = [
        Kernel(item["function"], item["arguments"], item.get("options", {}), _warm_up(item))
        for item in json.loads(path.read_text())["kernels"]
    ]
    kernels: list[Kernel] = []
    for kernel in (each.on(kind) for kind in logits or LOGITS[:1] for each in recorded):
        if kernel not in kernels:
            kernels.append(kernel)
    return kernels


def _warm_up(item: dict[str, Any]) -> bool:
    return {"warm-up": True, "request": False}[item["for"]]
