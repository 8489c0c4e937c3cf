# SPDX-License-Identifier: Apache-2.0
"""Cut the symbol table off a linked ELF file, as ``strip`` does: 2.8 MB of the wheel for Hopper.

The loader reads the dynamic symbols, which stay, as does all that is loaded; of 42.8 MB of vllm-rs
7 are names for debuggers. What is cut costs those names in native backtraces, and nothing else.
Done here, as not every machine has binutils.
"""

import struct

from . import elf
from .errors import BuildError

PROGRAMS = ("vllm/vllm-rs",)
"""Executables, beside the shared objects."""
_SYMTAB, _RELA, _REL, _NOBITS = 2, 4, 9, 8
_ALLOCATED, _INFO_IS_SECTION = 0x2, 0x40


def strip(data: bytes, name: str) -> bytes:
    """``data`` without .symtab and the names that only it uses; as it is where that is not plain:
    where another section refers to it, or something that is loaded lies behind it."""
    try:
        return _stripped(data, elf.sections(data, name))
    except (struct.error, IndexError, KeyError) as error:
        raise BuildError(
            f"{name}: no sound ELF file ({error}); fetch upstream's wheel anew"
        ) from None


def _stripped(data: bytes, sections: list[elf.Section]) -> bytes:
    gone = {i for i, section in enumerate(sections) if section.type == _SYMTAB}
    (names,) = struct.unpack_from("<H", data, elf.COUNT_AT + 2)
    gone |= {sections[i].link for i in gone} - {names}
    stay = [i for i in range(len(sections)) if i not in gone]
    start = min((sections[i].offset for i in gone), default=0)
    tail = [i for i in stay if sections[i].offset >= start and sections[i].type != _NOBITS]
    (table,) = struct.unpack_from("<Q", data, elf.TABLE_AT)
    if (
        not gone
        or table < start
        or any(sections[i].link in gone for i in stay)
        or any(sections[i].flags & _ALLOCATED for i in {*tail, *gone})
        or _loaded_end(data) > start
    ):
        return data
    result = bytearray(data[:start])
    moved = {}
    for i in sorted(tail, key=lambda i: sections[i].offset):
        result += bytes(-len(result) % 16)
        moved[i] = len(result)
        result += data[sections[i].offset : sections[i].offset + sections[i].size]
    result += bytes(-len(result) % 8)
    index = {old: new for new, old in enumerate(stay)}
    struct.pack_into("<Q", result, elf.TABLE_AT, len(result))
    struct.pack_into("<HH", result, elf.COUNT_AT, len(stay), index[names])
    for i in stay:
        header = list(elf.SECTION.unpack_from(data, table + i * elf.SECTION.size))
        header[4] = moved.get(i, header[4])
        header[6] = index[header[6]]
        if header[1] in (_RELA, _REL) or header[2] & _INFO_IS_SECTION:
            header[7] = index.get(header[7], 0)
        result += elf.SECTION.pack(*header)
    return bytes(result)


def _loaded_end(data: bytes) -> int:
    """Where the last byte ends that the program headers name."""
    (table,) = struct.unpack_from("<Q", data, 0x20)
    size, count = struct.unpack_from("<HH", data, 0x36)
    ends = [0]
    for i in range(count):
        _, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", data, table + i * size)
        ends.append(offset + length)
    return max(ends)
