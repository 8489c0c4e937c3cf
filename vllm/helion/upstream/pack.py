# SPDX-License-Identifier: Apache-2.0
"""Machine code of upstream's kernels: cubins, and what Triton found out compiling them.

A tar.xz, for kernels resemble each other: 173 KB where a zip, which compresses each alone, has 310.
With the settings of `helion_kernels.aot.pack`, for instructions of 16 bytes: 5 % less.

A kernel is named by everything that its code depends on, as Triton hashes it: source with all that
it calls, specialisation, options, compiler. What was built from anything else is not found.
"""

import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm.helion.upstream.kernel import Kernel

INDEX = "index.json"


def path(capability: tuple[int, int]) -> Path:
    """Where the wheel has the pack of a GPU; an editable install, the checkout."""
    major, minor = capability
    return Path(__file__).resolve().with_name(f"sm_{major}{minor}.tar.xz")


@dataclass(frozen=True)
class Built:
    """A compiled kernel."""

    identity: str
    cubin: bytes
    metadata: dict[str, Any]
    """Of Triton's, what neither its options nor the place of the build say."""


def identity(kernel: Kernel, function: Any, backend: Any) -> str:
    """Hash of what the machine code of kernel depends on."""
    import triton

    options = backend.parse_options(dict(kernel.options))
    parts = (triton.__version__, kernel.source(function).hash(), backend.hash(), options.hash())
    return hashlib.sha256("-".join(parts).encode()).hexdigest()


def write(built: Iterable[Built], file: Path) -> None:
    """The same bytes from the same kernels, in any order."""
    from helion_kernels.aot.pack import XZ

    ordered = sorted(built, key=lambda each: each.identity)
    digests = {each.identity: hashlib.sha256(each.cubin).hexdigest() for each in ordered}
    index = {
        each.identity: {"cubin": digests[each.identity], "metadata": each.metadata}
        for each in ordered
    }
    contents = {digests[each.identity]: each.cubin for each in ordered}
    contents[INDEX] = json.dumps(index, sort_keys=True, indent=1).encode()
    with (
        lzma.open(file, "w", filters=XZ) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for name in sorted(contents):
            member = tarfile.TarInfo(name)
            member.size = len(contents[name])
            archive.addfile(member, io.BytesIO(contents[name]))


class Pack:
    """An opened pack. Raises what tarfile, lzma and json raise for a damaged one."""

    def __init__(self, file: Path) -> None:
        with tarfile.open(file, "r:xz") as archive:
            members = {member.name: archive.extractfile(member) for member in archive}
            self.contents = {name: data.read() for name, data in members.items() if data}
        self.index = json.loads(self.contents[INDEX])

    def seed(self, kernel: Kernel, function: Any, backend: Any) -> bool:
        """Put kernel where Triton's cache finds it, unless it is there; False if it is not ours.

        Raises ValueError for machine code that is damaged.
        """
        import triton
        from triton.compiler.compiler import get_cache_invalidating_env_vars, get_cache_key
        from triton.runtime.cache import get_cache_manager

        found = self.index.get(identity(kernel, function, backend))
        if found is None or (environment := get_cache_invalidating_env_vars()):
            return False
        options = backend.parse_options(dict(kernel.options))
        source = kernel.source(function)
        key = get_cache_key(source, backend, options, env_vars=environment)
        digest = hashlib.sha256(key.encode()).hexdigest()
        cache = get_cache_manager(digest)
        name = source.name[:150]
        if cache.get_group(f"{name}.json"):
            return True
        cubin = self.contents[found["cubin"]]
        if hashlib.sha256(cubin).hexdigest() != found["cubin"]:
            raise ValueError(f"the machine code of {kernel.function} is damaged")
        metadata = {
            "hash": digest,
            "target": backend.target,
            **options.__dict__,
            "triton_version": triton.__version__,
            **found["metadata"],
        }
        group = {
            f"{name}.cubin": cache.put(cubin, f"{name}.cubin"),
            f"{name}.json": cache.put(json.dumps(metadata, default=vars), f"{name}.json"),
        }
        cache.put_group(f"{name}.json", group)  # last: without it there is no hit
        return True
