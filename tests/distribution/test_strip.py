# SPDX-License-Identifier: Apache-2.0
"""Stripping: real ELF files of the system's own linker run as before, without their names."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniature import DEVICE_CODE, elf

from distribution import elf as elf_reader
from distribution.errors import BuildError
from distribution.strip import strip

SOURCE = """
static int hidden_helper(int x) { return x * 6; }
int answer(void) { return hidden_helper(7); }
int main(void) { return answer() - 42; }
"""


@pytest.fixture
def build(tmp_path: Path):
    if not shutil.which("gcc") or not shutil.which("readelf"):
        pytest.skip("no gcc or no readelf here")

    def compiled(*options: str) -> Path:
        (tmp_path / "a.c").write_text(SOURCE)
        path = tmp_path / "a.out"
        subprocess.run(["gcc", *options, "-o", path, tmp_path / "a.c"], check=True)
        return path

    return compiled


def told(path: Path, *options: str) -> str:
    """What readelf says of the file, and that it has nothing to complain of."""
    run = subprocess.run(["readelf", "-W", *options, path], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


def test_a_library_loads_as_before(build) -> None:
    path = build("-shared", "-fPIC", "-g")
    loaded = ["--dyn-syms", "--relocs", "--dynamic", "--program-headers"]
    before, data = told(path, *loaded), path.read_bytes()
    result = strip(data, "a.so")
    assert b"hidden_helper" in data and b"hidden_helper\0" not in result[-2000:]
    path.write_bytes(result)
    names = {section.name for section in elf_reader.sections(result, "a")}
    gone = {section.name for section in elf_reader.sections(data, "a")} - names
    assert gone == {".symtab", ".strtab"}
    assert told(path, *loaded) == before
    told(path, "--all")
    assert ctypes.CDLL(str(path)).answer() == 42
    assert strip(result, "a.so") == result


def test_a_program_runs_as_before(build) -> None:
    path = build()
    data = path.read_bytes()
    path.write_bytes(strip(data, "a"))
    assert path.stat().st_size < len(data)
    assert subprocess.run([path], check=False).returncode == 0


def test_the_sections_are_those_that_binutils_leaves(build, tmp_path: Path) -> None:
    if not shutil.which("strip"):
        pytest.skip("no strip here")
    path = build("-shared", "-fPIC")
    data = path.read_bytes()
    subprocess.run(["strip", path], check=True)
    ours = elf_reader.sections(strip(data, "a"), "a")
    theirs = elf_reader.sections(path.read_bytes(), "a")
    assert [(s.name, s.size, s.link, s.type) for s in ours if s.name != ".shstrtab"] == [
        (s.name, s.size, s.link, s.type) for s in theirs if s.name != ".shstrtab"
    ]


def test_what_others_refer_to_stays(build) -> None:
    data = build("-c").read_bytes()  # its relocations are by symbol
    assert strip(data, "a.o") == data


def test_a_file_without_symbols_stays() -> None:
    data = elf(["libc.so.6"], DEVICE_CODE)
    assert strip(data, "a.so") == data


@given(st.binary(max_size=300), st.binary(max_size=64))
def test_broken_files_are_an_error_in_one_line(junk: bytes, tail: bytes) -> None:
    whole = elf([], DEVICE_CODE)
    for data in (b"\x7fELF\2\1\1" + junk, whole[: len(whole) - 192] + tail.ljust(192, b"\2")):
        try:
            strip(data, "a.so")  # junk may be whole by chance
        except BuildError:
            with pytest.raises(BuildError, match=r"^a\.so: [^\n]+$"):
                strip(data, "a.so")
