# SPDX-License-Identifier: Apache-2.0
"""Compress device code as ``nvcc --compress-mode=size`` does, where upstream's build did not.

nvcc's default leaves cubins plain if that loads faster by its own measure: so FlashAttention 3's
192 are 119 MB that a wheel's deflate takes to 31.5 MB. As zstd of level 19 they are 15.4 MB. The
driver unpacks such entries when a kernel is first used, as it does for all of upstream's other
libraries, whose entries nvcc made in just this way.

An entry is byte for byte what nvcc would have written (tests/distribution/test_recode.py compares):
the payload a zstd frame with its content's size and no checksum, padded to 8 bytes; its true size
at 0x10 of the header; a flag; the cubin's size at 0x38. Each is unpacked again and compared here.
"""

import os
import struct
from concurrent.futures import ThreadPoolExecutor

from . import fatbin
from .errors import BuildError
from .fatbin import CUBIN, Container, Entry

LEVEL = 19
"""nvcc's for --compress-mode=size; 22 would save another 0.03 %."""
LZ4, ZSTD = 0x2000, 0x8000
_PAYLOAD_AT, _STORED_AT, _FLAGS_AT, _UNPACKED_AT = 0x08, 0x10, 0x28, 0x38


def recode(data: bytes, name: str) -> bytes:
    """``data`` with every plain cubin compressed in its place; nothing else moves."""
    result = bytearray(data)

    def entries(container: Container) -> tuple[Container, list[bytes]]:
        return container, [_compressed(data, entry, name) for entry in container.entries]

    # zstd lets go of the interpreter: 119 MB take 8 s on two cores.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for container, made in pool.map(entries, list(fatbin.containers(data, name))):
            fatbin.refill(result, container, made)
    return bytes(result)


def _compressed(data: bytes, entry: Entry, name: str) -> bytes:
    plain = data[entry.payload : entry.end]
    if entry.kind != CUBIN or entry.flags & (LZ4 | ZSTD) or not plain:
        return data[entry.start : entry.end]
    frame = _zstandard().ZstdCompressor(level=LEVEL, write_checksum=False).compress(plain)
    payload = frame + bytes(-len(frame) % 8)
    if len(payload) >= len(plain):
        return data[entry.start : entry.end]
    header = bytearray(data[entry.start : entry.payload])
    struct.pack_into("<Q", header, _PAYLOAD_AT, len(payload))
    struct.pack_into("<I", header, _STORED_AT, len(frame))
    struct.pack_into("<Q", header, _FLAGS_AT, entry.flags | ZSTD)
    struct.pack_into("<Q", header, _UNPACKED_AT, len(plain))
    made = bytes(header) + payload
    if unpacked(made) != plain:
        raise BuildError(f"{name}: the code at byte {entry.start} does not survive compression")
    return made


def unpacked(entry: bytes) -> bytes:
    """The cubin or PTX that the bytes of one entry stand for, header included."""
    (header,) = struct.unpack_from("<I", entry, 4)
    (stored,) = struct.unpack_from("<I", entry, _STORED_AT)
    (flags,) = struct.unpack_from("<Q", entry, _FLAGS_AT)
    (size,) = struct.unpack_from("<Q", entry, _UNPACKED_AT)
    if flags & LZ4:
        raise ValueError("the entry is compressed with LZ4, which this build does not unpack")
    if not flags & ZSTD:
        return entry[header:]
    frame = entry[header : header + stored]
    return _zstandard().ZstdDecompressor().decompress(frame, max_output_size=size)


def _zstandard():  # type: ignore[no-untyped-def]
    try:
        import zstandard
    except ImportError:
        raise BuildError(
            "zstandard is not installed; pip install what upstream.toml lists as requires.prune"
        ) from None
    return zstandard
