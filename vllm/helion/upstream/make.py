# SPDX-License-Identifier: Apache-2.0
"""Compile upstream's kernels into a pack: python make.py --tree DIR --out FILE

DIR holds upstream's files, as they will be installed. The build runs this by its path, with no GPU
and without vLLM's dependencies: of `vllm` only the kernels' modules and this package are real, and
all else that they import is an empty class. A kernel that would need more does not get the identity
that it has in the engine, which then compiles it.
"""

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import time
import types
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = "vllm.helion.upstream"


class _StandIn(types.ModuleType):
    """A module that has whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *_, **__: None})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """`vllm` as the kernels' modules need it."""

    def __init__(self, files: dict[str, Path]) -> None:
        self.files = files

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] != "vllm":
            return None
        if (file := self.files.get(name)) is None:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        if file.name != "__init__.py":
            return importlib.util.spec_from_file_location(name, file)
        folders = [str(file.parent)]
        return importlib.util.spec_from_file_location(
            name, file, submodule_search_locations=folders
        )

    def create_module(self, spec: Any) -> types.ModuleType:
        module = _StandIn(spec.name)
        if spec.name == "vllm.triton_utils":
            import triton

            module.triton, module.tl, module.HAS_TRITON = triton, triton.language, True
            module.tldevice = importlib.import_module("triton.language.extra.libdevice")
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def kernel_modules() -> list[str]:
    """The modules in which the recorded kernels are."""
    kernels = json.loads(Path(__file__).with_name("kernels.json").read_text())["kernels"]
    return sorted({each["function"].rpartition(".")[0] for each in kernels})


def stand_in(tree: Path) -> None:
    """Let `vllm` be the kernels' modules in tree and this package, from here on."""
    here = Path(__file__).parent
    places = {name: tree / (name.replace(".", "/") + ".py") for name in kernel_modules()}
    files = {name: file for name, file in places.items() if file.exists()}
    files[PACKAGE] = here / "__init__.py"
    files |= {f"{PACKAGE}.{each}": here / f"{each}.py" for each in ("kernel", "pack")}
    sys.meta_path.insert(0, _Finder(files))
    for name in kernel_modules():
        importlib.import_module(name)


def compile_one(kernel: Any) -> Any:
    """kernel, a `Kernel`, as a `Built`; None where upstream has no such function. For sm_90."""
    import triton
    from triton.compiler.compiler import get_cache_invalidating_env_vars, make_backend
    from triton.runtime import driver

    from vllm.helion.upstream import pack

    function = kernel.find()
    if function is None:
        return None
    backend = make_backend(driver.active.get_current_target())
    options = backend.parse_options(dict(kernel.options))
    compiled = triton.compile(
        kernel.source(function), target=backend.target, options=options.__dict__
    )
    known = json.loads(json.dumps(options.__dict__))
    # Of what is the same elsewhere, too, Triton's cache may remember another installation's paths.
    local = {"hash", "target", "triton_version", "extern_libs", *get_cache_invalidating_env_vars()}
    metadata = {
        name: value
        for name, value in json.loads(json.dumps(compiled.metadata._asdict(), default=vars)).items()
        if name not in local and (name not in known or known[name] != value)
    }
    identity = pack.identity(kernel, function, backend)
    return pack.Built(identity, compiled.asm["cubin"], metadata)


def make(
    tree: Path,
    target: str,
    out: Path,
    workers: int,
    logits: Sequence[str] = (),
    only: Sequence[str] = (),
) -> None:
    """Write out; progress on stderr. logits: types of `kernel.LOGITS`; only: names of functions;
    all where none is named."""
    from triton import knobs

    from helion_kernels.aot.make import cache_folder
    from helion_kernels.aot.target import TARGETS, pretend

    stand_in(tree)
    from vllm.helion.upstream import kernel, pack

    # Line numbers would bring paths into the code; Triton's cache does not tell it from other code.
    knobs.compilation.disable_line_info = True
    knobs.cache.dir = str(cache_folder() / "triton")
    started = time.monotonic()
    names = [
        (each, each.function.rpartition(".")[2]) for each in kernel.read(*(logits or kernel.LOGITS))
    ]
    kernels = [each for each, name in names if not only or name in only]
    with pretend(TARGETS[target]), ThreadPoolExecutor(workers) as pool:
        tasks = [pool.submit(compile_one, each) for each in kernels]
        for done, _ in enumerate(as_completed(tasks), 1):
            print(f"{done}/{len(tasks)} of upstream's kernels", file=sys.stderr, flush=True)
        built = [task.result() for task in tasks]
    for each, result in zip(kernels, built, strict=True):
        if result is None:
            print(f"left out, as upstream has changed it: {each.function}", file=sys.stderr)
    pack.write(filter(None, built), out)
    print(
        f"{out}: {sum(each is not None for each in built)} of upstream's kernels, "
        f"{out.stat().st_size / 1024:.0f} KiB, {time.monotonic() - started:.0f} s",
        file=sys.stderr,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", type=Path, required=True, metavar="DIR")
    parser.add_argument("--target", default="sm_90")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    parser.add_argument("--logits", nargs="+", default=(), metavar="TYPE", help="bf16, fp32; both")
    parser.add_argument("--only", nargs="+", default=(), metavar="FUNCTION", help="for trials")
    options = parser.parse_args()
    sys.path[0] = str(ROOT)  # not this folder, whose modules are of a package
    make(options.tree, options.target, options.out, options.jobs, options.logits, options.only)


if __name__ == "__main__":
    main()
