# SPDX-License-Identifier: Apache-2.0
"""Wheels as zip files: read without unpacking, written byte for byte the same every time.

The standard library's zipfile cannot copy a member without recompressing it, and 730 MB of them
take minutes on a small machine; hence the few records of the format that a wheel needs are
written here. zipfile still does the reading.
"""

import csv
import io
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from .errors import BuildError
from .squeeze import squeezed
from .tree import Member, Tree, Zipped

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_DATE = 1 << 5 | 1  # 1980-01-01: the build's time must not show in its bytes
_UTF8 = 1 << 11
_LIMIT = 1 << 32


def read(wheel: Path) -> Tree:
    """The tree of a wheel, less its RECORD; members stay in the wheel until they are read."""
    try:
        with zipfile.ZipFile(wheel) as archive, wheel.open("rb") as raw:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            records = [i.filename for i in infos if i.filename.endswith(".dist-info/RECORD")]
            text = archive.read(records[0]).decode() if records else ""
            lines = csv.reader(io.StringIO(text))
            digests = {line[0]: line[1] for line in lines if len(line) == 3}
            return {
                info.filename: _member(wheel, raw, info, digests.get(info.filename, ""))
                for info in infos
                if info.filename not in records
            }
    except (zipfile.BadZipFile, struct.error, EOFError) as error:
        raise BuildError(f"{wheel} is no whole wheel ({error}); fetch it anew") from None


def _member(wheel: Path, raw: io.BufferedReader, info: zipfile.ZipInfo, digest: str) -> Zipped:
    raw.seek(info.header_offset)
    *_, name_size, extra_size = _LOCAL.unpack(raw.read(_LOCAL.size))
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BuildError(f"{wheel}: {info.filename} is neither stored nor deflated; repack it")
    return Zipped(
        wheel,
        info.header_offset + _LOCAL.size + name_size + extra_size,
        info.compress_type,
        info.CRC,
        info.compress_size,
        info.file_size,
        bool(info.external_attr >> 16 & 0o111),
        digest,
    )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place only if all goes well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".vllm-helion-", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write(path: Path, tree: Tree, small: bool = False) -> None:
    """Write ``tree`` to the wheel ``path``, dist-info last, as the wheel's standard advises;
    ``small`` deflates all of it anew, as far as deflate goes."""
    directory = []
    names = sorted(tree, key=lambda name: (".dist-info/" in name, name))
    with replacing(path) as temporary, temporary.open("wb") as file, ThreadPoolExecutor(2) as pool:
        # libdeflate lets go of the interpreter, so two threads are twice as fast.
        members = (tree[name] for name in names)
        stored_as = pool.map(_squeezed, members) if small else map(_stored, members)
        for name, (method, crc, stored, size) in zip(names, stored_as, strict=True):
            offset = file.tell()
            if max(offset, len(stored), size) >= _LIMIT:
                raise BuildError(f"{path.name}: {name} passes 4 GiB; this build writes no zip64")
            encoded = name.encode()
            common = (_UTF8, method, 0, _DATE, crc, len(stored), size, len(encoded), 0)
            file.write(_LOCAL.pack(b"PK\3\4", 20, *common))
            file.write(encoded)
            file.write(stored)
            mode = 0o100755 if tree[name].executable else 0o100644
            # Made by version 2.0 on Unix (3), where the attributes' upper half is the file mode.
            fields = (3 << 8 | 20, 20, *common, 0, 0, 0, mode << 16, offset)
            directory.append(_CENTRAL.pack(b"PK\1\2", *fields) + encoded)
        start = file.tell()
        file.writelines(directory)
        count, size = len(directory), file.tell() - start
        file.write(_END.pack(b"PK\5\6", 0, 0, count, count, size, start, 0))


def _squeezed(member: Member) -> tuple[int, int, bytes, int]:
    """As _stored, with the smaller of the member's own deflate and squeeze's."""
    data = member.read()
    crc, stream = zlib.crc32(data), squeezed(data)
    if isinstance(member, Zipped):
        if crc != member.crc:
            raise BuildError(f"{member.wheel}: a file in it is damaged; fetch it anew")
        if member.stored_size <= len(stream):
            return member.method, crc, member.stored(), len(data)
    return zipfile.ZIP_DEFLATED, crc, stream, len(data)


def _stored(member: Member) -> tuple[int, int, bytes, int]:
    """Method, checksum, bytes as stored and size of a member."""
    if isinstance(member, Zipped):
        return member.method, member.crc, member.stored(), member.size
    data = member.read()
    deflate = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    return (
        zipfile.ZIP_DEFLATED,
        zlib.crc32(data),
        deflate.compress(data) + deflate.flush(),
        len(data),
    )
