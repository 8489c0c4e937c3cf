# SPDX-License-Identifier: Apache-2.0
"""DeepGEMM's kernels: what the copy engine is told of each matrix, and what is refused."""

import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from calls import call
from hypothesis import given, settings
from hypothesis import strategies as st

from distribution import tree, upstream, variant
from helion_kernels import deep_gemm, native, select, split_k
from helion_kernels.aot import index
from helion_kernels.aot.deep_gemm import INCLUDE
from helion_kernels.deep_gemm import Tile

ROOT = Path(__file__).parents[2]
N, K = 384, 512
TILE = Tile(128, 96, "b")
BYTES, FLOAT32, BFLOAT16 = 0, 7, 9
"""CU_TENSOR_MAP_DATA_TYPE_*."""
PROMOTION = 3
"""CU_TENSOR_MAP_L2_PROMOTION_L2_256B."""
PROGRAM = f"""
import sys
from pathlib import Path
from helion_kernels import OPS
from helion_kernels.aot import build, describe, pack
out, headers = map(Path, sys.argv[1:])
job = build.Job("scaled_mm_blockwise", ({N}, {K}), {select.key_of(TILE.config)!r}, "sm_90")
made, *others = [build.compile_job(job, out / name, headers) for name in ("a", "a", "b")]
assert others == [made, made], "not the same out of the cache, or made anew"
(kernel, cubin), signature = made, describe.signature(OPS[job.op], job.dims)
whole = pack.Pack("sm_90", pack.fingerprint(), {{}}, [signature], [kernel], {{kernel.cubin: cubin}})
(out / "sm_90.pack").write_bytes(pack.to_bytes(whole))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory, mock):
    """A pack with one of DeepGEMM's kernels; compiled elsewhere, for the mock is no driver for
    NVRTC."""
    out = tmp_path_factory.mktemp("deep_gemm")
    for name, member in variant.foundation(upstream.read(ROOT), "cuda").items():
        if name.startswith(f"vllm/{INCLUDE}/"):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            tree.write(out / name, member)
    command = [sys.executable, "-c", PROGRAM, str(out), str(out / "vllm" / INCLUDE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return native.Pack.open(out / "sm_90.pack", 0)


@pytest.fixture(scope="module")
def number(library):
    made = library.plan(deep_gemm.OP, (N, K), [(select.key_of(TILE.config), 8192)])
    native.prepare(made, 0)
    return made


def arguments(num_tokens, pad=0):
    """Rows of a and out padded by 16 * pad, of scales by 4 * pad."""
    stride = -(-num_tokens // 4) * 4 + 4 * pad

    def matrix(rows, columns, dtype):
        row = columns + 16 * pad
        return torch.empty_strided((rows, columns), (row, 1), dtype=dtype)

    return [
        matrix(num_tokens, N, torch.bfloat16),
        matrix(num_tokens, K, torch.float8_e4m3fn),
        matrix(N, K, torch.float8_e4m3fn).t(),
        torch.empty_strided((num_tokens, K // 128), (1, stride)),
        torch.empty(-(-N // 128), K // 128),
        torch.empty(split_k.SIZE),
    ]


def tile(type_, tensor, inner, box, swizzle):
    """What the mock writes down of a call of cuTensorMapEncodeTiled."""
    stride = tensor.stride(1 - inner) * tensor.element_size() if tensor.shape[1 - inner] > 1 else 16
    words = (type_, 2, tensor.data_ptr(), tensor.shape[inner], tensor.shape[1 - inner], stride)
    return struct.pack("<16Q", *words, *box, 1, 1, 0, swizzle, PROMOTION, 0, 0, 0)


@settings(max_examples=60, deadline=None)
@given(num_tokens=st.integers(1, 9000), pad=st.integers(0, 9))
def test_a_call_becomes_its_launch(number, mock, num_tokens, pad):
    args = out, a, b, scale_a, scale_b, _ = arguments(num_tokens, pad)
    call(deep_gemm.OP, args, number)
    launch = mock.last()
    assert list(launch.grid) == [132, 1, 1]
    assert list(launch.block) == [384, 1, 1]
    assert launch.shared == TILE.shared(K)
    assert sorted(launch.attribute_ids[: launch.num_attributes]) == [4, 6]  # cluster, dependence
    data = struct.pack("<QQIII", scale_b.data_ptr(), 0, num_tokens, N, K)
    # Aligned to 64 bytes where they lie, in a bank whose parameters begin at 0x210.
    data += bytes(48 - len(data))
    data += tile(BYTES, a, 1, (128, 128), 3)
    data += tile(BYTES, b, 0, (128, 96), 3)
    data += tile(BFLOAT16, out, 1, (32, 128), 2)
    data += tile(FLOAT32, scale_a, 0, (128, 1), 0)
    assert bytes(launch.bytes[: launch.size]) == data


@pytest.mark.parametrize(
    ("position", "change", "why"),
    [
        (1, lambda x: torch.empty(x.numel() + 1, dtype=torch.uint8)[1:].view(x.dtype).view(x.shape),
         "a must be aligned to 16 bytes"),
        (1, lambda x: torch.empty_strided(x.shape, (K + 8, 1), dtype=x.dtype),
         "a has rows of 520 bytes, not a multiple of 16"),
        (3, lambda x: torch.empty_strided(x.shape, (1, 37)), "scale_a has a size or stride of 37"),
        (4, lambda x: torch.empty_strided(x.shape, (8, 1)), "scale_b has a size or stride of 8"),
    ],
)  # fmt: skip
def test_what_the_copy_engine_cannot_address_is_refused(number, mock, position, change, why):
    args = arguments(35)
    args[position] = change(args[position])
    before = mock.launches
    with pytest.raises(RuntimeError, match=why):
        call(deep_gemm.OP, args, number)
    assert mock.launches == before


def test_the_drivers_refusal_is_told(number, mock):
    mock.fail("cuTensorMapEncodeTiled", 1)
    try:
        with pytest.raises(RuntimeError, match="cuTensorMapEncodeTiled: CUDA error 1"):
            call(deep_gemm.OP, arguments(35), number)
    finally:
        mock.fail("cuTensorMapEncodeTiled", 0)


def test_nothing_is_launched_for_no_tokens(number, mock):
    before = mock.launches
    call(deep_gemm.OP, arguments(0), number)
    assert mock.launches == before


def test_another_tile_or_op_is_not_found(library):
    other = select.key_of(Tile(64, 64).config)
    assert library.pack.find(deep_gemm.OP, (N, K), other) is None
    assert library.pack.find("scaled_mm", (N, K), select.key_of(TILE.config)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"inner": 2}, {"inner": 0}, {"box": [128]}, {"box": [0, 128]}, {"box": [128, 257]},
        {"box": [128, True]}, {"swizzle": 100}, {"swizzle": None},
    ],
)  # fmt: skip
def test_tiles_of_anything_are_refused(library, change):
    made = library.pack.kernels[0]
    document = json.loads(json.dumps(index.encode(made)))
    index.decode_kernel(document, "the kernel", library.pack.signatures)
    document["parameters"][5]["tile"] |= change
    with pytest.raises(index.PackError, match="parameters 5"):
        index.decode_kernel(document, "the kernel", library.pack.signatures)


def test_wide_rows_do_not_swizzle(library, mock):
    """C++ does not trust what Python hands it: rows of a swizzled tile are as long at most."""
    kernel, arguments_ = library.pack.kernels[0], library.pack.signatures[0].arguments
    wide = replace(kernel.parameters[5].tile, box=(256, 128))
    parameters = list(kernel.parameters)
    parameters[5] = replace(parameters[5], tile=wide)
    words = native.kernel_words(replace(kernel, parameters=tuple(parameters)), arguments_)
    with pytest.raises(native.Unavailable, match="a has tiles of 256 bytes a row"):
        native._call("kernel", library._signature(0), b"", 0, b"", native._words(words), len(words))
