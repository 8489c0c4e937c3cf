# SPDX-License-Identifier: Apache-2.0
"""The target of fuzz_pack.py on mutations of hypothesis's, and on what the fuzzer has found."""

import lzma
import struct
import zlib

import pytest
from fuzz_pack import check, document_of, mutated, outcome, parts, sealed, seed
from hypothesis import given, settings
from hypothesis import strategies as st

from helion_kernels.aot import pack
from helion_kernels.aot.index import PackError

SEED = seed()


def edited(*path, value):
    """The seed with another value at a place of its index."""
    place = document = document_of(SEED)
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return sealed(document, parts(SEED)[1])


def test_the_seed_is_a_pack_and_mutations_reach_packs_and_refusals():
    check(SEED)
    assert outcome(pack.from_bytes, SEED) is not None
    shape = edited("kernels", 0, "grid", 1, value=["const", 3])
    assert outcome(pack.from_bytes, shape) is not None
    assert outcome(pack.from_bytes, edited("kernels", 0, "grid", value=[])) is None


@settings(max_examples=1500, deadline=None)
@given(st.integers(1, 4), st.randoms(use_true_random=False))
def test_an_index_of_anything_is_refused_or_read(times, choose):
    data = SEED
    for _ in range(times):
        data = mutated(data, choose)
    check(data)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_bytes_of_anything_are_refused_or_read(draw):
    position = draw.draw(st.integers(0, len(SEED)))
    length = draw.draw(st.integers(0, 64))
    check(SEED[:position] + draw.draw(st.binary(max_size=64)) + SEED[position + length :])


@pytest.mark.parametrize("target", ["a\nb", "\ud800", ""])
def test_a_target_that_would_not_print_on_a_line(target):
    with pytest.raises(PackError, match="the index has a bad target"):
        pack.from_bytes(edited("target", value=target))


@pytest.mark.parametrize("operator", ["//", "%"])
def test_a_division_by_0_is_0_as_in_the_dispatcher(operator):
    words = ["size", 0, 0, "const", 0, operator]
    check(edited("kernels", 0, "grid", 0, value=words))


@pytest.mark.parametrize("part", [0, 1], ids=["index", "code"])
def test_what_asks_for_4_gib_to_be_unpacked(part):
    """Of the machine's memory limits, none may decide whether this is a PackError."""
    stored = list(parts(SEED))
    xz = stored[part]
    # The header of the first block: its size in words, flags, LZMA2, one byte of properties.
    assert xz[12:16] == bytes([2, 0, 0x21, 1])
    header = xz[12:16] + bytes([40]) + xz[17:20]
    stored[part] = xz[:12] + header + struct.pack("<I", zlib.crc32(header)) + xz[24:]
    assert lzma.decompress(xz) == lzma.decompress(stored[part])
    with pytest.raises(PackError, match="does not unpack"):
        pack.from_bytes(pack.seal(*stored))


def test_an_index_that_unpacks_to_more_than_any_has():
    table, code = parts(SEED)
    longer = lzma.decompress(table) + b" " * pack.MOST_INDEX
    with pytest.raises(PackError, match="an index longer"):
        pack.from_bytes(pack.seal(lzma.compress(longer, preset=0), code))
