# SPDX-License-Identifier: Apache-2.0
"""Small wheels: the same files, deflated anew."""

import sys
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniature import UPSTREAM_FILES, dist_info, make_wheel

from distribution import archive
from distribution.errors import BuildError
from distribution.squeeze import squeezed
from distribution.tree import Data


@given(st.binary(max_size=5000), st.integers(1, 200))
def test_zlib_reads_it(data: bytes, times: int) -> None:
    stream = squeezed(data * times)
    assert zlib.decompress(stream, -zlib.MAX_WBITS) == data * times
    assert squeezed(data * times) == stream


def test_a_small_archive_holds_the_same_files(tmp_path: Path) -> None:
    source = tmp_path / "source.whl"
    make_wheel(source, UPSTREAM_FILES | dist_info("vllm", ""))
    files = archive.read(source) | {"vllm/more.py": Data(b"x = 1\n" * 900)}
    plain, small = tmp_path / "plain.whl", tmp_path / "small.whl"
    archive.write(plain, files)
    archive.write(small, files, small=True)
    with zipfile.ZipFile(plain) as one, zipfile.ZipFile(small) as other:
        assert other.testzip() is None
        assert one.namelist() == other.namelist()
        for before, after in zip(one.infolist(), other.infolist(), strict=True):
            assert one.read(before) == other.read(after)
            assert after.compress_size <= before.compress_size
            assert after.external_attr == before.external_attr
            assert after.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def test_a_damaged_member_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "source.whl"
    with zipfile.ZipFile(source, "w") as file:
        file.writestr("vllm/a.py", b"some text")
    source.write_bytes(source.read_bytes().replace(b"some text", b"same text"))
    with pytest.raises(BuildError, match=r"^[^\n]*source\.whl[^\n]*damaged[^\n]*$"):
        archive.write(tmp_path / "small.whl", archive.read(source), small=True)
    assert [path.name for path in tmp_path.iterdir()] == ["source.whl"]


def test_without_deflate_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deflate", None)
    with pytest.raises(BuildError, match=r"^deflate is not installed; [^\n]*requires\.prune"):
        squeezed(b"text")
