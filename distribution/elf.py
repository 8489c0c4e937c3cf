# SPDX-License-Identifier: Apache-2.0
"""The little of ELF that the build reads: sections, and the libraries that a file needs."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import BuildError

SECTION = struct.Struct("<IIQQQQIIQQ")
"""A section header: name, type, flags, address, offset, size, link, info, alignment, entry size."""
TABLE_AT, COUNT_AT = 0x28, 0x3C
"""Where the file header has the place of the section headers, and their number; behind that number
is the index of the section with their names."""
_DYNAMIC = struct.Struct("<qQ")
_DT_NEEDED = 1
_SHT_NOBITS = 8


@dataclass(frozen=True)
class Section:
    """A section's name and its place in the file; ``link`` is the index of a related section."""

    name: str
    offset: int
    size: int
    link: int
    type: int
    flags: int


def is_elf(data: bytes) -> bool:
    """Whether ``data`` begins as an ELF file."""
    return data[:4] == b"\x7fELF"


def sections(data: bytes | bytearray, name: str) -> list[Section]:
    """The sections of the 64-bit little-endian ELF file ``data``; ``name`` is for messages."""
    try:
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError("no 64-bit little-endian ELF file")
        (table,) = struct.unpack_from("<Q", data, TABLE_AT)
        entry_size, count, names = struct.unpack_from("<HHH", data, 0x3A)
        entries = [SECTION.unpack_from(data, table + i * entry_size) for i in range(count)]
        if any(e[1] != _SHT_NOBITS and e[4] + e[5] > len(data) for e in entries):
            raise ValueError("a section reaches past the end of the file")
        return [Section(_string(data, entries[names][4] + e[0]), *e[4:7], *e[1:3]) for e in entries]
    except (struct.error, ValueError, IndexError) as error:
        raise BuildError(f"{name}: {error}; fetch upstream's wheel anew") from None


def needed(data: bytes, name: str) -> Iterator[str]:
    """The file names of the libraries that an ELF file is linked against."""
    table = sections(data, name)
    for section in table:
        if section.name != ".dynamic":
            continue
        strings = table[section.link].offset
        for tag, value in _DYNAMIC.iter_unpack(
            data[section.offset : section.offset + section.size]
        ):
            if tag == _DT_NEEDED:
                yield _string(data, strings + value)


def _string(data: bytes | bytearray, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode("ascii", "replace")
