# SPDX-License-Identifier: Apache-2.0
"""Builds a pack with no GPU: Helion -> Triton -> cubin, in parallel processes, with a cache."""

import hashlib
import importlib.metadata
import itertools
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from helion_kernels import launch, registry, select
from helion_kernels.aot import deep_gemm, describe, index, nvrtc, pack
from helion_kernels.aot.index import Kernel, Signature
from helion_kernels.aot.target import TARGETS, pretend
from helion_kernels.deep_gemm import OP, names
from helion_kernels.op import Config

MAX_NUM_TOKENS = 16384


@dataclass(frozen=True)
class Job:
    """One kernel to build. Plain data: it travels to another process."""

    op: str
    dims: tuple[Any, ...]
    config: str
    """`select.Choice.key`."""
    target: str


def jobs(
    wanted: Iterable[tuple[str, tuple[Any, ...]]],
    target: str,
    gpu: str | None = None,
    libraries: bool = False,
) -> list[Job]:
    """Every distinct config that select chooses for any num_tokens on gpu; by default on target's.

    With and without batch invariance, which is chosen when an engine starts. libraries: DeepGEMM's
    too, whose headers are there.
    """
    libraries = libraries and target == deep_gemm.TARGET
    gpus = [gpu] if gpu else [TARGETS[target].gpu, *TARGETS[target].others]
    found: dict[Job, None] = {}
    # Each once: models share sizes, and numbers of guesses all but attention.
    for name, given in dict.fromkeys(wanted):
        op = registry.OPS[name]
        dims = op.dims(*given)
        stock = frozenset(registry.OPS)  # Where stock wins there, nothing is to be built.
        for each, invariant in itertools.product(gpus, (False, True)):
            for choice in select.choose(
                op, dims, MAX_NUM_TOKENS, each, stock, invariant, lambda key: libraries
            ):
                if choice.config is not None:
                    found[Job(name, tuple(dims), choice.key, target)] = None
    return list(found)


def build(
    todo: Sequence[Job],
    target: str,
    cache_dir: Path,
    workers: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    headers: Path | None = None,
) -> pack.Pack:
    """Compile todo. headers: DeepGEMM's. Raises what Helion, Triton, ptxas or NVRTC raise."""
    signatures: list[Signature] = []
    kernels: list[Kernel] = []
    cubins: dict[str, bytes] = {}
    groups: dict[tuple[str, tuple[Any, ...]], list[Job]] = {}
    for job in todo:
        groups.setdefault((job.op, job.dims), []).append(job)
    context = multiprocessing.get_context("spawn")  # Not forked: PyTorch has threads.
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        tasks = [
            [pool.submit(_compile_group, part, cache_dir, headers) for part in _parts(group)]
            for group in groups.values()
        ]
        for number, (parts, (op, dims)) in enumerate(zip(tasks, groups, strict=True)):
            signatures.append(describe.signature(registry.OPS[op], dims))
            for kernel, cubin in itertools.chain.from_iterable(task.result() for task in parts):
                kernels.append(replace(kernel, signature=number))
                cubins[kernel.cubin] = cubin
            progress(len(kernels), len(todo))
    return pack.Pack(target, pack.fingerprint(), toolchain(), signatures, kernels, cubins)


def _parts(group: Sequence[Job]) -> list[list[Job]]:
    """Of one op and dims, what shares Helion's analysis together, each of DeepGEMM's alone."""
    apart = [job for job in group if names(json.loads(job.config))]
    together = [job for job in group if job not in apart]
    return [part for part in (together, *([job] for job in apart)) if part]


def _compile_group(
    group: Sequence[Job], cache_dir: Path, headers: Path | None
) -> list[tuple[Kernel, bytes]]:
    return [compile_job(job, cache_dir, headers) for job in group]


def compile_job(job: Job, cache_dir: Path, headers: Path | None = None) -> tuple[Kernel, bytes]:
    """The kernel, as if its signature were the pack's first."""
    from triton import knobs

    op, config = registry.OPS[job.op], json.loads(job.config)
    if names(config):
        return compile_deep_gemm(config, job.dims, cache_dir, headers)
    signature = describe.signature(op, job.dims)
    # Generating the source takes half a second: a build that changes nothing is to ask for none.
    unchanged = cache_dir / "jobs" / _job_digest(job)
    if (known := _load(unchanged, signature)) is not None:
        return known
    # A knob is an environment variable, too, which whatever runs afterwards would inherit.
    with knobs.compilation.scope(), pretend(TARGETS[job.target]):
        # Paths and line numbers would make three quarters of the bytes, and differ from place to
        # place.
        knobs.compilation.disable_line_info = True
        specialised = launch.generate(op, job.dims, config)
        source = _digest(job, specialised)
        known = _load(cache_dir / source, signature)
        if known is None:
            compiled = specialised.compile()
            cubin = compiled.asm["cubin"]
            digest = hashlib.sha256(cubin).hexdigest()
            made = describe.kernel(op, job.dims, specialised, compiled, job.config, source, digest)
            known = made, cubin
            _store(cache_dir / source, *known)
    _store(unchanged, *known)
    return known


def compile_deep_gemm(
    config: Config, dims: Any, cache_dir: Path, headers: Path | None
) -> tuple[Kernel, bytes]:
    """DeepGEMM's kernel of a config, as if its signature were the pack's first."""
    if headers is None:
        raise nvrtc.CompileError(f"{select.key_of(config)} needs the headers of DeepGEMM")
    recipe = deep_gemm.recipe(config, dims, headers)
    made_of = f"{recipe} {nvrtc.version()} {_headers_digest(headers)} {_own_sources()}"
    source = hashlib.sha256(made_of.encode()).hexdigest()
    if (known := _load(cache_dir / source, describe.signature(registry.OPS[OP], dims))) is not None:
        return known
    cubin, symbol = recipe.compile()
    digest = hashlib.sha256(cubin).hexdigest()
    kernel = deep_gemm.kernel(config, dims, source, digest, symbol)
    _store(cache_dir / source, kernel, cubin)
    return kernel, cubin


@cache
def _headers_digest(folder: Path) -> str:
    return pack.digest_of(path for path in folder.rglob("*") if path.is_file())


def _job_digest(job: Job) -> str:
    """Of all that the source generated for a job may depend on."""
    settings = [
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith("HELION_") and not name.startswith("HELION_KERNELS_")  # Helion's own
    ]
    made_of = f"{job} {toolchain()} {settings} {_all_sources()}"
    return hashlib.sha256(made_of.encode()).hexdigest()


@cache
def _all_sources() -> str:
    return pack.digest_of(Path(launch.__file__).parent.rglob("*.py"))


def _digest(job: Job, specialised: launch.Specialised) -> str:
    text = json.dumps(
        [
            specialised.kernel.src,
            specialised.options,
            job.op,
            job.dims,
            job.config,
            job.target,
            registry.OPS[job.op].multiples,
            toolchain(),
            _own_sources(),
        ],
        sort_keys=True,
        default=str,
    )
    return hashlib.sha256(text.encode()).hexdigest()


def toolchain() -> dict[str, str]:
    return {
        name: importlib.metadata.version(name).split("+")[0]
        for name in ("helion", "torch", "triton")
    }


@cache
def _own_sources() -> str:
    """What describes kernels: its results are cached too."""
    return pack.digest_of(Path(__file__).parent.glob("*.py"))


def _load(path: Path, signature: Signature) -> tuple[Kernel, bytes] | None:
    """What was stored, unless it was damaged since."""
    try:
        head, cubin = path.read_bytes().split(b"\n", 1)
        kernel = index.decode_kernel(json.loads(head), str(path), [signature])
    except (OSError, ValueError):
        return None
    return (kernel, cubin) if hashlib.sha256(cubin).hexdigest() == kernel.cubin else None


def _store(path: Path, kernel: Kernel, cubin: bytes) -> None:
    """Whole or not at all: others may build at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(json.dumps(index.encode(kernel)).encode() + b"\n" + cubin)
    Path(name).replace(path)
