# SPDX-License-Identifier: Apache-2.0
"""The files of a distribution while it is built: a mapping from path to member.

A member knows its content, its digest as RECORD writes it, and whether it is executable. Members
that no step touches are never unpacked: they are copied from wheel to wheel as they are stored.
"""

import base64
import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


def record_digest(data: bytes) -> str:
    """The digest of a file as RECORD writes it."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"


class Member(Protocol):
    """One file of a tree."""

    @property
    def executable(self) -> bool: ...
    def read(self) -> bytes: ...
    def record(self) -> tuple[str, int]:
        """Digest and size, as RECORD has them."""
        ...


@dataclass(frozen=True)
class Data:
    """A file made or changed by the build."""

    content: bytes
    executable: bool = False

    def read(self) -> bytes:
        return self.content

    def record(self) -> tuple[str, int]:
        return record_digest(self.content), len(self.content)


@dataclass(frozen=True)
class OnDisk:
    """A file in a folder: an overlay file of ours, or one of an unpacked tree."""

    path: Path

    @property
    def executable(self) -> bool:
        return os.access(self.path, os.X_OK)

    def read(self) -> bytes:
        return self.path.read_bytes()

    def record(self) -> tuple[str, int]:
        data = self.read()
        return record_digest(data), len(data)


@dataclass(frozen=True)
class Zipped:
    """A member of a wheel, as it is stored there; its digest is the one in that wheel's RECORD."""

    wheel: Path
    data_offset: int
    method: int
    crc: int
    stored_size: int
    size: int
    executable: bool
    digest: str

    def read(self) -> bytes:
        data = self.stored()
        return zlib.decompress(data, -zlib.MAX_WBITS, self.size) if self.method else data

    def stored(self) -> bytes:
        """The bytes as they lie in the wheel, still compressed."""
        with self.wheel.open("rb") as file:
            file.seek(self.data_offset)
            return file.read(self.stored_size)

    def record(self) -> tuple[str, int]:
        return self.digest or record_digest(self.read()), self.size


Tree = dict[str, Member]


def unpack(tree: Tree, target: Path) -> None:
    """Write a tree below ``target``; members that lie on disk become symbolic links to there."""
    for name, member in tree.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(member, OnDisk):
            path.symlink_to(member.path.resolve())
        else:
            write(path, member)


def write(path: Path, member: Member) -> None:
    """Write one member to ``path``."""
    path.write_bytes(member.read())
    path.chmod(0o755 if member.executable else 0o644)
