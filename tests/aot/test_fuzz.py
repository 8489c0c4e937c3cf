# SPDX-License-Identifier: Apache-2.0
"""The target of fuzz_pack.py on mutations of hypothesis's, and on what the fuzzer has found."""

import json
import lzma
import struct
import zlib

import pytest
from fuzz_pack import check, mutated, outcome, parts, seed
from hypothesis import given, settings
from hypothesis import strategies as st

from helion_kernels.aot import pack
from helion_kernels.aot.index import PackError

SEED = seed()


def edited(*path, value):
    """The seed with another value at a place of its index."""
    table, code = parts(SEED)
    place = document = json.loads(table)
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return pack.seal(json.dumps(document).encode(), code)


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


def test_code_that_asks_for_4_gib_to_be_unpacked():
    """Of the machine's memory limits, none may decide whether this is a PackError."""
    table, code = parts(SEED)
    # The header of the first block: its size in words, flags, LZMA2, one byte of properties.
    assert code[12:16] == bytes([2, 0, 0x21, 1])
    header = code[12:16] + bytes([40]) + code[17:20]
    greedy = code[:12] + header + struct.pack("<I", zlib.crc32(header)) + code[24:]
    assert lzma.decompress(code) == lzma.decompress(greedy)
    with pytest.raises(PackError, match="does not unpack"):
        pack.from_bytes(pack.seal(table, greedy))
