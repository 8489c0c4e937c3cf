# SPDX-License-Identifier: Apache-2.0
"""Leave out device code for other GPUs: VLLM_HELION_CUDA_ARCH_LIST="9.0a" and the like.

A CUDA library keeps its device code in the section .nv_fatbin, as a row of containers (magic
0xBA55ED50), one per translation unit; each holds entries: cubins (machine code of one
architecture) and PTX (which the driver compiles when no cubin fits). Pruning moves the entries
that stay to the front of their container, byte for byte as they were, sets the container's length
to what is left, and zeroes the rest, which then compresses to nothing. No address in the file
changes, and neither the driver nor cuobjdump meets a trace of what went.

Of the cubins, those stay that a GPU of the architectures asked for would run. PTX stays only where
no such cubin is and it is for that very architecture; with "+PTX" ("9.0a+PTX") also PTX for older
ones, which upstream's FlashAttention 2 and Marlin kernels need on Hopper.
"""

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from . import elf
from .errors import BuildError
from .progress import megabytes, say, step
from .tree import Data, Tree

SECTION = ".nv_fatbin"
MAGIC = 0xBA55ED50
PTX, CUBIN = 1, 2
_CONTAINER = struct.Struct("<IHHQ")  # magic, version, header size, size of the entries
_ENTRY = struct.Struct("<HHIQ")  # kind, version, header size, payload size
_ARCH_AT, _FLAGS_AT, _ENTRY_MINIMUM = 0x1C, 0x28, 0x40
# Code for one architecture alone (sm_90a), or for one family (sm_100f): the driver prefers it.
_ARCH_SPECIFIC, _FAMILY_SPECIFIC = 0x100000, 0x200000


@dataclass(frozen=True)
class Arch:
    """One architecture asked for: 90 for "9.0" or "9.0a", and whether older PTX may stay."""

    number: int
    ptx: bool = False


@dataclass(frozen=True)
class Entry:
    """A cubin or PTX in a container: its place in the file, header included."""

    kind: int
    arch: int
    flags: int
    start: int
    end: int


@dataclass(frozen=True)
class Container:
    """A container's place in the file, and its entries."""

    start: int
    body: int
    end: int
    entries: list[Entry]


def wanted() -> list[str]:
    """The architectures that VLLM_HELION_CUDA_ARCH_LIST names; none means all of upstream's."""
    names = re.split(r"[\s,;]+", os.environ.get("VLLM_HELION_CUDA_ARCH_LIST", "").strip())
    names = sorted({name for name in names if name})
    for name in names:
        parse(name)
    return names


def parse(name: str) -> Arch:
    """Read one architecture: "9.0", "9.0a", "9.0a+PTX". The letter makes no difference: what
    runs on a GPU stays, and every GPU of compute capability 9.0 runs sm_90a."""
    match = re.fullmatch(r"(\d+)\.(\d)[af]?(\+PTX)?", name)
    if not match:
        raise BuildError(
            f"VLLM_HELION_CUDA_ARCH_LIST names {name!r}; write it like 9.0a or 9.0a+PTX"
        )
    return Arch(int(match[1]) * 10 + int(match[2]), bool(match[3]))


def containers(data: bytes | bytearray, name: str) -> Iterator[Container]:
    """The containers of all .nv_fatbin sections of the ELF file ``data``."""
    for section in elf.sections(data, name):
        if section.name == SECTION:
            yield from _walk(data, section.offset, section.offset + section.size, name)


def _walk(data: bytes | bytearray, start: int, end: int, name: str) -> Iterator[Container]:
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
        yield Entry(kind, arch, flags, start, stop)
        start = stop


def _broken(name: str, offset: int) -> BuildError:
    return BuildError(
        f"{name}: no fatbin that this build knows at byte {offset}; unset"
        " VLLM_HELION_CUDA_ARCH_LIST to build without pruning"
    )


def kept(entries: list[Entry], arches: list[Arch]) -> list[Entry]:
    """The entries that stay, in their order."""
    stay = [entry for arch in arches for entry in _kept_for(entries, arch)]
    return [entry for entry in entries if entry in stay]


def _kept_for(entries: list[Entry], arch: Arch) -> list[Entry]:
    """What a GPU of ``arch`` would take: per sort of cubin the newest that it can run."""
    newest: dict[int, list[Entry]] = {}
    for entry in entries:
        sort = entry.flags & (_ARCH_SPECIFIC | _FAMILY_SPECIFIC)
        runs = arch.number // 10 * 10 <= entry.arch <= arch.number
        if entry.kind != CUBIN or not runs or (sort & _ARCH_SPECIFIC and entry.arch != arch.number):
            continue
        best = newest.setdefault(sort, [])
        if not best or entry.arch >= best[0].arch:
            newest[sort] = [e for e in best if e.arch == entry.arch] + [entry]
    if newest:
        return [entry for best in newest.values() for entry in best]
    ptx = [e for e in entries if e.kind == PTX and e.arch <= arch.number]
    best_ptx = max((e.arch for e in ptx), default=0)
    if not arch.ptx and best_ptx != arch.number:
        return []
    return [e for e in ptx if e.arch == best_ptx]


@dataclass
class Report:
    """What pruning did to one file: bytes of device code, and containers left with none."""

    kept: int = 0
    dropped: int = 0
    containers: int = 0
    emptied: int = 0


def prune(data: bytes, arches: list[Arch], name: str) -> tuple[bytes, Report]:
    """``data`` with the device code of other architectures left out, and what that came to."""
    result, report = bytearray(data), Report()
    for container in containers(data, name):
        stay = kept(container.entries, arches)
        body = b"".join(data[entry.start : entry.end] for entry in stay)
        length = container.end - container.body
        struct.pack_into("<Q", result, container.start + 8, len(body))
        result[container.body : container.end] = body.ljust(length, b"\0")
        report.kept += len(body)
        report.dropped += length - len(body)
        report.containers += 1
        report.emptied += not stay
    return bytes(result), report


def prune_tree(tree: Tree, names: list[str]) -> None:
    """Prune every CUDA library of ``tree`` to the architectures ``names``, and say what went."""
    if not names:
        return
    arches = [parse(name) for name in names]
    with step("prune") as details:
        total = Report()
        for name in sorted(name for name in tree if name.endswith(".so")):
            data, report = prune(tree[name].read(), arches, name)
            if report.dropped:
                tree[name] = Data(data, tree[name].executable)
            if report.containers:
                say("prune", f"{name}: {_told(report)}")
            total.kept += report.kept
            total.dropped += report.dropped
        details += [" ".join(names), _told(total)]


def _told(report: Report) -> str:
    text = f"kept {megabytes(report.kept)}, dropped {megabytes(report.dropped)}"
    if report.emptied:
        text += f"; {report.emptied} of {report.containers} kernel files have no code left"
    return text
