# SPDX-License-Identifier: Apache-2.0
"""Compressing device code: entries stand for the same bytes, and are what nvcc makes."""

import random
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniature import elf, fatbin

from distribution import elf as elf_reader
from distribution import fatbin as fatbin_format
from distribution import recode
from distribution.errors import BuildError
from distribution.fatbin import CUBIN, PTX

PLAIN = 0x100011
# From all alike to all different; an entry's payload is a multiple of 8 bytes long.
PAYLOADS = st.builds(
    lambda seed, letters, words: random.Random(seed).choices(range(letters), k=8 * words),
    st.integers(0, 1000),
    st.sampled_from([1, 4, 256]),
    st.integers(0, 600),
).map(bytes)
ENTRIES = st.lists(
    st.tuples(st.sampled_from([CUBIN, PTX]), st.just(90), st.just(PLAIN), PAYLOADS), max_size=4
)


def entries(data: bytes) -> list[bytes]:
    found = fatbin_format.containers(data, "a.so")
    return [data[e.start : e.end] for container in found for e in container.entries]


@given(st.lists(ENTRIES, max_size=3))
def test_every_entry_stands_for_the_same_bytes(containers: list) -> None:
    data = elf([], fatbin(*containers))
    result = recode.recode(data, "a.so")
    assert len(result) == len(data)
    for section in (s for s in elf_reader.sections(data, "a") if s.name == fatbin_format.SECTION):
        assert result[: section.offset] == data[: section.offset]
        assert result[section.offset + section.size :] == data[section.offset + section.size :]
    before = list(fatbin_format.containers(data, "a"))
    after = list(fatbin_format.containers(result, "a"))
    assert [c.start for c in before] == [c.start for c in after]
    for old, new in zip(before, after, strict=True):
        assert not any(result[new.end : old.end])
        for one, other in zip(old.entries, new.entries, strict=True):
            plain = data[one.payload : one.end]
            made = result[other.start : other.end]
            assert recode.unpacked(made) == plain
            assert len(made) % 8 == 0 and len(made) <= one.end - one.start
            if one.kind == PTX or other.flags == one.flags:
                assert made == data[one.start : one.end]
            else:
                assert other.flags == one.flags | recode.ZSTD
                assert struct.unpack_from("<Q", made, 0x38) == (len(plain),)
    assert recode.recode(data, "a.so") == result, "the same bytes every time"
    assert recode.recode(result, "a.so") == result, "a second time changes nothing"


def test_what_compresses_is_compressed_and_what_does_not_is_left() -> None:
    alike, noise = bytes(8000), random.Random(1).randbytes(8000)
    data = elf([], fatbin([(CUBIN, 90, PLAIN, alike), (CUBIN, 90, PLAIN, noise)]))
    first, second = entries(recode.recode(data, "a.so"))
    assert len(first) < 200
    assert second == entries(data)[1]


def test_what_is_compressed_already_is_left() -> None:
    for flag in (recode.ZSTD, recode.LZ4):
        data = elf([], fatbin([(CUBIN, 90, PLAIN | flag, bytes(800))]))
        assert recode.recode(data, "a.so") == data


def test_an_entry_that_does_not_survive_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recode, "unpacked", lambda entry: b"")
    data = elf([], fatbin([(CUBIN, 90, PLAIN, bytes(800))]))
    with pytest.raises(BuildError, match=r"^a\.so: [^\n]+$"):
        recode.recode(data, "a.so")


def test_without_zstandard_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(BuildError, match=r"^zstandard is not installed; [^\n]*requires\.prune"):
        recode.recode(elf([], fatbin([(CUBIN, 90, PLAIN, bytes(800))])), "a.so")


def test_the_same_bytes_as_nvcc(tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    found = nvcc and re.search(r"release (\d+)\.(\d+)", subprocess.getoutput(f"{nvcc} --version"))
    if not found or (int(found[1]), int(found[2])) < (12, 8):
        pytest.skip("no nvcc here that knows --compress-mode")
    (tmp_path / "a.cu").write_text(
        "template<int n> __global__ void f(float* x) {\n"
        "  float a = x[threadIdx.x];\n"
        "  #pragma unroll\n  for (int i = 0; i < n; i++) a = a * a + x[i * threadIdx.x];\n"
        "  x[threadIdx.x] = a;\n}\n"
        "void g(float* x) { f<100><<<1, 32>>>(x); f<200><<<1, 32>>>(x); }\n"
    )

    def made(mode: str) -> bytes:
        options = ["-gencode=arch=compute_90a,code=sm_90a", f"--compress-mode={mode}"]
        command = [nvcc, *options, "-fatbin", "-o", mode, "a.cu"]
        subprocess.run(command, cwd=tmp_path, check=True)
        return (tmp_path / mode).read_bytes()

    plain, small = elf([], made("none")), elf([], made("size"))
    assert len(entries(small)[0]) < len(entries(plain)[0])
    assert entries(recode.recode(plain, "a.so")) == entries(small)
    assert recode.unpacked(entries(small)[0]) == recode.unpacked(entries(plain)[0])
