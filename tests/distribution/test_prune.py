# SPDX-License-Identifier: Apache-2.0
"""Pruning: what stays is what the GPU would run, byte for byte; nothing else moves."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniature import DEVICE_CODE, elf, fatbin

from distribution import elf as elf_reader
from distribution import fatbin as fatbin_format
from distribution import prune
from distribution.errors import BuildError
from distribution.fatbin import CUBIN, PTX

PLAIN, ARCH, FAMILY = 0x8011, 0x108011, 0x1208011
ENTRIES = st.lists(
    st.tuples(
        st.sampled_from([CUBIN, PTX]),
        st.sampled_from([75, 80, 86, 89, 90, 100, 103, 120]),
        st.sampled_from([PLAIN, ARCH, FAMILY]),
        st.binary(max_size=40).map(lambda data: data + bytes(-len(data) % 8)),
    ),
    max_size=8,
)
NAMES = st.lists(st.sampled_from(["8.0", "8.9", "9.0a", "9.0a+PTX", "10.0", "12.0+PTX"]))


def listed(data: bytes) -> list[list[tuple[int, int, int]]]:
    """Kind, architecture and flags of the entries in every container."""
    found = fatbin_format.containers(data, "a.so")
    return [[(e.kind, e.arch, e.flags) for e in container.entries] for container in found]


def pruned(data: bytes, *names: str) -> tuple[bytes, prune.Report]:
    return prune.prune(data, [prune.parse(name) for name in names], "a.so")


def after(names: str, *entries: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """What is left of one container."""
    data = elf([], fatbin([(*entry, bytes(8)) for entry in entries]))
    (container,) = listed(pruned(data, *names.split())[0])
    return container


def test_hopper_keeps_plain_and_specific_cubins() -> None:
    plain, specific = (CUBIN, 90, PLAIN), (CUBIN, 90, ARCH)
    others = [(CUBIN, 80, PLAIN), (PTX, 90, PLAIN), (PTX, 80, PLAIN), (CUBIN, 100, FAMILY)]
    for name in ("9.0", "9.0a"):
        assert after(name, specific, *others, plain) == [specific, plain]


def test_ptx_stays_only_without_a_cubin() -> None:
    own, older = (PTX, 90, PLAIN), (PTX, 80, PLAIN)
    assert after("9.0a", own, older, (CUBIN, 80, PLAIN)) == [own]
    assert after("9.0a", older, (CUBIN, 80, PLAIN)) == []
    assert after("9.0a+PTX", older, (PTX, 75, PLAIN), (CUBIN, 80, PLAIN)) == [older]
    assert after("9.0a+PTX", older, (CUBIN, 90, PLAIN)) == [(CUBIN, 90, PLAIN)]


def test_an_older_cubin_of_the_same_generation_runs_too() -> None:
    sm80, sm86 = (CUBIN, 80, PLAIN), (CUBIN, 86, PLAIN)
    assert after("8.9", sm80, sm86, (CUBIN, 75, PLAIN)) == [sm86]
    assert after("10.3", (CUBIN, 100, FAMILY), (CUBIN, 100, ARCH)) == [(CUBIN, 100, FAMILY)]


def test_several_architectures_keep_the_order() -> None:
    entries = [(CUBIN, 100, FAMILY), (CUBIN, 80, PLAIN), (CUBIN, 90, ARCH)]
    assert after("9.0a 10.0", *entries) == [entries[0], entries[2]]


def test_layout_and_everything_outside_the_section_stay() -> None:
    data = elf(["libcudart.so.13"], DEVICE_CODE)
    result, report = pruned(data, "9.0a")
    (section,) = [s for s in elf_reader.sections(data, "a.so") if s.name == fatbin_format.SECTION]
    end = section.offset + section.size
    assert len(result) == len(data)
    assert (result[: section.offset], result[end:]) == (data[: section.offset], data[end:])
    assert b"H" * 64 in result and b"A" * 64 not in result and b"P" * 64 not in result
    assert (report.kept, report.dropped) == (128, 384)
    assert (report.containers, report.emptied) == (2, 1)


@given(st.lists(ENTRIES, max_size=4), NAMES)
def test_any_section(containers: list, names: list[str]) -> None:
    data = elf([], fatbin(*containers))
    result, report = pruned(data, *names)
    assert len(result) == len(data)
    before, left = (
        list(fatbin_format.containers(data, "a")),
        list(fatbin_format.containers(result, "a")),
    )
    assert [c.start for c in left] == [c.start for c in before]
    for container, origin in zip(left, before, strict=True):
        payloads = [data[e.start : e.end] for e in origin.entries]
        for entry in container.entries:
            assert result[entry.start : entry.end] in payloads
    assert report.kept == sum(e.end - e.start for c in left for e in c.entries)
    assert report.kept + report.dropped == sum(c.end - c.body for c in before)
    assert pruned(result, *names)[0] == result, "a second time changes nothing"


@given(st.binary(max_size=200), st.integers(0, 200))
def test_broken_device_code_is_an_error_in_one_line(junk: bytes, cut: int) -> None:
    for section in (DEVICE_CODE[:cut] + junk, junk):
        broken = elf([], section)
        try:
            pruned(broken, "9.0a")  # junk may be whole by chance
        except BuildError:
            with pytest.raises(BuildError, match=r"^[^\n]*a\.so[^\n]*$"):
                pruned(broken, "9.0a")


@given(st.binary(max_size=300))
def test_broken_elf_is_an_error_in_one_line(data: bytes) -> None:
    with pytest.raises(BuildError, match=r"^a\.so: [^\n]+$"):
        pruned(b"\x7fELF\2\1\1" + data, "9.0a")


@given(st.text(max_size=12))
def test_architecture_names(name: str) -> None:
    try:
        arch = prune.parse(name)
    except BuildError:
        return
    assert re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", name) and arch.number >= 0


def test_a_linked_library_still_loads(tmp_path: Path) -> None:
    """A real ELF file, with dynamic symbols and relocations, from the system's own linker."""
    if not shutil.which("gcc"):
        pytest.skip("no gcc here")
    words = ",".join(str(byte) for byte in DEVICE_CODE)
    source = tmp_path / "a.c"
    source.write_text(
        '__attribute__((section(".nv_fatbin"),aligned(8),used)) static const unsigned char f[] = {'
        f"{words}}};\nint answer(void) {{ return 42; }}\n"
    )
    library = tmp_path / "a.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    data, report = pruned(library.read_bytes(), "9.0a")
    assert report.dropped == 384
    tables = ["-W", "--dyn-syms", "--sections", "--segments", "--relocs", "--symbols"]
    before = subprocess.check_output(["readelf", *tables, "a.so"], cwd=tmp_path)
    library.write_bytes(data)
    assert subprocess.check_output(["readelf", *tables, "a.so"], cwd=tmp_path) == before
    assert ctypes.CDLL(str(library)).answer() == 42
