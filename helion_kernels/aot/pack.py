# SPDX-License-Identifier: Apache-2.0
"""The pack: one file of machine code for one target, with its index. Reading verifies all of it.

    8   magic            32  sha256 of all that follows
    8   length of index  8   length of code
    index: JSON, in xz   code: the distinct cubins one after the other, in xz

Hashes guard against damage and against packs that no longer fit this package; they do not say who
made a pack. Install packs as you install code.
"""

import hashlib
import json
import lzma
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from helion_kernels.aot import index
from helion_kernels.aot.index import Kernel, PackError, Signature

MAGIC = b"HELIONK\x02"
MOST_BYTES = 1 << 30
"""Of code."""
MOST_INDEX = 1 << 26
_UNPACKING = 1 << 27
"""Bytes of memory to unpack with, twice what preset 9 takes: a header may ask for 4 GiB."""
XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 4, "pb": 4}]
"""Of instructions of 16 bytes, as a GPU's are: 4 % smaller than with settings for text."""
_SHARED = (
    *("attention.py", "fp8.py", "kv_cache.py", "launch.py", "pdl.py", "split_k.py"),
    *("deep_gemm.py", "aot/deep_gemm.py", "hopper.py"),
)
"""What ops have in common: inlined code, where in a workspace things lie, DeepGEMM's launches."""
_HEADER = struct.Struct("<8s32sQQ")
_PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Pack:
    target: str
    """`sm_90`."""
    fingerprint: str
    """`fingerprint()` of the package that it was made from."""
    toolchain: dict[str, str]
    signatures: list[Signature]
    kernels: list[Kernel]
    cubins: dict[str, bytes]
    """By sha256."""

    def find(self, op: str, dims: tuple[Any, ...], config: str) -> Kernel | None:
        """The kernel for a config (`select.Choice.key`), if the pack has it."""
        return self._by_key.get((op, tuple(map(int, dims)), config))

    @cached_property
    def _by_key(self) -> dict[tuple[str, tuple[Any, ...], str], Kernel]:
        signatures = [(s.op, tuple(map(int, s.dims))) for s in self.signatures]
        return {(*signatures[kernel.signature], kernel.config): kernel for kernel in self.kernels}


@cache
def fingerprint() -> str:
    """Hash of the sources that decide what a kernel computes: a pack of other ones is stale."""
    return digest_of([*(_PACKAGE / "ops").glob("*.py"), *(_PACKAGE / name for name in _SHARED)])


def digest_of(files: Iterable[Path]) -> str:
    """Of their names and what they hold."""
    digest = hashlib.sha256()
    for file in sorted(files):
        text = file.read_bytes()
        digest.update(f"{file.name} {len(text)}\n".encode() + text)
    return digest.hexdigest()


def to_bytes(pack: Pack) -> bytes:
    """Equal packs are equal bytes, with one version of liblzma."""
    # One config's of an op beside each other: 4 % smaller than one size's, 8 than by hash.
    like = sorted(pack.kernels, key=lambda k: (pack.signatures[k.signature].op, k.config))
    order = list(dict.fromkeys(kernel.cubin for kernel in like))
    document = {
        "target": pack.target,
        "fingerprint": pack.fingerprint,
        "toolchain": pack.toolchain,
        "cubins": [[digest, len(pack.cubins[digest])] for digest in order],
        "signatures": [index.encode(signature) for signature in pack.signatures],
        "kernels": [index.encode(kernel) for kernel in pack.kernels],
    }
    table = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    code = lzma.compress(
        b"".join(pack.cubins[digest] for digest in order), format=lzma.FORMAT_XZ, filters=XZ
    )
    return seal(lzma.compress(table), code)


def seal(table: bytes, code: bytes) -> bytes:
    """Both as they are stored."""
    lengths = struct.pack("<QQ", len(table), len(code))
    return MAGIC + hashlib.sha256(lengths + table + code).digest() + lengths + table + code


def read(path: Path | str, target: str | None = None) -> Pack:
    """The pack at path, verified. Raises PackError; target: the one that it must be for."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise PackError(f"{path}: {error.strerror}") from None
    try:
        pack = from_bytes(data)
        if target is not None and pack.target != target:
            raise PackError(f"is for {pack.target}, this device is {target}")
        if pack.fingerprint != fingerprint():
            raise PackError("is stale: made from other kernel sources")
    except PackError as error:
        raise PackError(f"{path}: {error}") from None
    return pack


def from_bytes(data: bytes) -> Pack:
    """Any bytes become a Pack or a PackError."""
    if data[: len(MAGIC)] != MAGIC:
        raise PackError("is no pack of this version")
    if len(data) < _HEADER.size:
        raise PackError("is truncated")
    _, digest, table_size, code_size = _HEADER.unpack_from(data)
    if len(data) != _HEADER.size + table_size + code_size:
        raise PackError("is truncated, or has grown")
    if hashlib.sha256(data[len(MAGIC) + 32 :]).digest() != digest:
        raise PackError("is damaged or edited: its hash is wrong")
    table = _unpack(data[_HEADER.size : _HEADER.size + table_size], MOST_INDEX, "an index")
    if len(table) > MOST_INDEX:
        raise PackError("has an index longer than any GPU's")
    try:
        document = json.loads(table)
    except (ValueError, RecursionError):
        raise PackError("has an index that is no JSON") from None
    return _decode(document, data[_HEADER.size + table_size :])


def _unpack(data: bytes, most: int, what: str) -> bytes:
    """At most one byte more than most, which is too much; less if data ends early."""
    try:
        return lzma.LZMADecompressor(memlimit=_UNPACKING).decompress(data, most + 1)
    except lzma.LZMAError:
        raise PackError(f"has {what} that does not unpack") from None


def _decode(document: Any, code: bytes) -> Pack:
    read = index._Reader(document, "the index")
    signatures = [
        index.decode_signature(item.data, item.what) for item in read.each("signatures", 1 << 14)
    ]
    kernels = [
        index.decode_kernel(item.data, item.what, signatures)
        for item in read.each("kernels", 1 << 14)
    ]
    cubins = _cubins(read.get("cubins", list), code)
    for kernel in kernels:
        read.require(kernel.cubin in cubins, "names machine code that is not there")
    toolchain = read.get("toolchain", dict)
    read.require(all(isinstance(v, str) for v in toolchain.values()), "has a bad toolchain")
    # An identifier: it is told to the user, on one line.
    target, made_from = read.get("target", str, str.isidentifier), read.get("fingerprint", str)
    return Pack(target, made_from, toolchain, signatures, kernels, cubins)


def _cubins(table: list[Any], code: bytes) -> dict[str, bytes]:
    for entry in table:
        if not (
            isinstance(entry, list)
            and len(entry) == 2
            and isinstance(entry[0], str)
            and type(entry[1]) is int
            and 0 <= entry[1] <= MOST_BYTES
        ):
            raise PackError("has a bad table of machine code")
    total = sum(size for _, size in table)
    if total > MOST_BYTES:
        raise PackError("has more machine code than any GPU needs")
    unpacked = _unpack(code, total, "machine code")
    if len(unpacked) != total:
        raise PackError("has more or less machine code than its index says")
    cubins, start = {}, 0
    for digest, size in table:
        cubin = unpacked[start : start + size]
        if hashlib.sha256(cubin).hexdigest() != digest:
            raise PackError("has machine code whose hash is wrong")
        cubins[digest], start = cubin, start + size
    return cubins
