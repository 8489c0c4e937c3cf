# SPDX-License-Identifier: Apache-2.0
"""Device code inside a CUDA library: the section .nv_fatbin, its containers and their entries.

The section is a row of containers (magic 0xBA55ED50), one per translation unit; each holds
entries: cubins (machine code of one architecture) and PTX (which the driver compiles when no cubin
fits). A container may be rewritten in place as long as it grows no longer: code refers to where
containers begin, and to nothing inside them.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from . import elf
from .errors import BuildError

SECTION = ".nv_fatbin"
MAGIC = 0xBA55ED50
PTX, CUBIN = 1, 2
_CONTAINER = struct.Struct("<IHHQ")  # magic, version, header size, size of the entries
_ENTRY = struct.Struct("<HHIQ")  # kind, version, header size, payload size
_SIZE_AT, _ARCH_AT, _FLAGS_AT, _ENTRY_MINIMUM = 0x08, 0x1C, 0x28, 0x40


@dataclass(frozen=True)
class Entry:
    """A cubin or PTX in a container: its place in the file, header included, and where in there
    the payload begins."""

    kind: int
    arch: int
    flags: int
    start: int
    payload: int
    end: int


@dataclass(frozen=True)
class Container:
    """A container's place in the file, and its entries."""

    start: int
    body: int
    end: int
    entries: list[Entry]


def containers(data: bytes | bytearray, name: str) -> Iterator[Container]:
    """The containers of all .nv_fatbin sections of the ELF file ``data``."""
    for section in elf.sections(data, name):
        if section.name == SECTION:
            yield from walk(data, section.offset, section.offset + section.size, name)


def walk(data: bytes | bytearray, start: int, end: int, name: str) -> Iterator[Container]:
    """The containers between two places of the file; ``name`` is for messages."""
    while start < end:
        if not any(data[start : min(start + 8, end)]):  # between containers lies zero padding
            start += 8
            continue
        if end - start < _CONTAINER.size:
            raise _broken(name, start)
        magic, _, header, size = _CONTAINER.unpack_from(data, start)
        body = start + header
        if magic != MAGIC or header < _CONTAINER.size or body + size > end:
            raise _broken(name, start)
        yield Container(start, body, body + size, list(_entries(data, body, body + size, name)))
        start = body + size


def _entries(data: bytes | bytearray, start: int, end: int, name: str) -> Iterator[Entry]:
    while start < end:
        if end - start < _ENTRY_MINIMUM:
            raise _broken(name, start)
        kind, _, header, payload = _ENTRY.unpack_from(data, start)
        (arch,) = struct.unpack_from("<I", data, start + _ARCH_AT)
        (flags,) = struct.unpack_from("<Q", data, start + _FLAGS_AT)
        stop = start + header + payload
        if header < _ENTRY_MINIMUM or stop > end:
            raise _broken(name, start)
        yield Entry(kind, arch, flags, start, start + header, stop)
        start = stop


def refill(data: bytearray, container: Container, entries: Iterable[bytes]) -> int:
    """Put ``entries`` at the front of ``container``, zero what is left, and return their size."""
    body = b"".join(entries)
    length = container.end - container.body
    if len(body) > length:
        raise ValueError(f"{len(body)} bytes do not fit into a container of {length}")
    struct.pack_into("<Q", data, container.start + _SIZE_AT, len(body))
    data[container.body : container.end] = body.ljust(length, b"\0")
    return len(body)


def _broken(name: str, offset: int) -> BuildError:
    return BuildError(
        f"{name}: no fatbin that this build knows at byte {offset}; unset"
        " VLLM_HELION_CUDA_ARCH_LIST to build without pruning"
    )
