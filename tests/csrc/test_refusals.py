# SPDX-License-Identifier: Apache-2.0
"""Whatever is wrong is an exception that names op and argument; nothing crashes or is launched."""

import contextlib
import ctypes
import subprocess
import sys

import pytest
import torch
from calls import call, choices_of, planned, signature_of
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import SMALL, arguments

from helion_kernels import OPS, native
from helion_kernels.aot.index import PackError

CACHE = "fused_qk_norm_rope_kv_write"
ATTENTION = "fused_qk_norm_rope_paged_attention"
NORM = "rms_norm_dynamic_per_token_quant"


def column_major(x):
    return x.t().contiguous().t()


def moved(x):
    """The same sizes, 2 bytes off."""
    flat = torch.empty(x.numel() + 8, dtype=x.dtype)
    return flat[16 // x.element_size() - 1 :][: x.numel()].view(x.shape)


WRONG = [
    ("scaled_mm", "out", lambda x: x.float(), "out has dtype"),
    ("scaled_mm", "a", lambda x: x[:-1], "a has 4 rows in dimension 0, out has 5"),
    ("scaled_mm", "a", column_major, "a must have stride 1 in dimension 1"),
    ("scaled_mm", "b", lambda x: x[:, :-1], "b has size 255 in dimension 1 instead of 256"),
    ("scaled_mm", "b", lambda x: x.t().contiguous(), "b has size 256 in dimension 0 instead of"),
    ("scaled_mm", "scale_a", lambda x: x[:, 0], "scale_a has 1 dimensions instead of 2"),
    ("scaled_mm", "out", lambda x: moved(x), "out must be aligned to 16 bytes"),
    ("scaled_mm", "a", lambda x: x.to("meta"), "a has no memory"),
    (CACHE, "slot_mapping", lambda x: torch.cat([x, x]), "slot_mapping has 10 entries for 5"),
    (CACHE, "slot_mapping", lambda x: x.int(), "slot_mapping has dtype"),
    (CACHE, "positions", lambda x: x[:4], "positions has 4 rows"),
    (CACHE, "kv_cache", lambda x: x[:, :1], "kv_cache has size 1 in dimension 1 instead of 2"),
    (CACHE, "cos_sin_cache", lambda x: x.float(), "cos_sin_cache has dtype"),
    (ATTENTION, "block_table", lambda x: x.long(), "block_table has dtype"),
    (ATTENTION, "block_table", lambda x: x[:4], "block_table has 4 rows"),
    (ATTENTION, "block_table", lambda x: x[0], "block_table has 1 dimensions instead of 2"),
    (ATTENTION, "seq_lens", lambda x: x.long(), "seq_lens has dtype"),
    (ATTENTION, "seq_lens", lambda x: torch.cat([x, x]), "seq_lens has 10 rows"),
    (ATTENTION, "qkv", lambda x: x.float(), "qkv has dtype"),
    (ATTENTION, "slot_mapping", lambda x: x[:4], "slot_mapping has 4 rows"),
    (ATTENTION, "kv_cache", lambda x: x.half(), "kv_cache has dtype"),
    (ATTENTION, "kv_cache", lambda x: x[:, :, :8], "kv_cache has size 8 in dimension 2 instead of"),
    (ATTENTION, "kv_cache", lambda x: x[:, :1], "kv_cache has size 1 in dimension 1 instead of 2"),
    (
        ATTENTION,
        "kv_cache",
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        "kv_cache must have stride 1 in dimension 3",
    ),
    (ATTENTION, "workspace", lambda x: x[:-1], "workspace has size"),
    (NORM, "residual", lambda x: None, "residual must be a tensor in this plan"),
]


@pytest.mark.parametrize(("name", "argument", "change", "message"), WRONG)
def test_a_wrong_argument_is_named(name, argument, change, message, kernels, mock):
    number, found, _ = planned(kernels, name)
    signature = signature_of(kernels, found[0])
    args = arguments(signature, 5, 0, "cpu")
    position = [a.name for a in signature.arguments].index(argument)
    args[position] = change(args[position])
    before = mock.launches
    with pytest.raises(RuntimeError, match=f"helion_kernels.{name}: {message}"):
        call(name, args, number)
    assert mock.launches == before


def test_strides_that_the_code_was_not_compiled_for(kernels, mock):
    number, found, _ = planned(kernels, "scaled_mm")
    args = arguments(signature_of(kernels, found[0]), 5, 0, "cpu")
    args[1] = torch.empty_strided((5, 512), (520, 1), dtype=args[1].dtype)
    with pytest.raises(RuntimeError, match=r"a has a size or stride of 520; .* multiples of 16"):
        call("scaled_mm", args, number)


@pytest.mark.parametrize("dimension", [0, 1, 2])
def test_a_cache_whose_rows_are_not_aligned(dimension, kernels, mock):
    """Its strides are divided by 8 before the code sees them."""
    number, found, _ = planned(kernels, ATTENTION)
    args = arguments(signature_of(kernels, found[0]), 5, 0, "cpu")
    cache = [argument.name for argument in OPS[ATTENTION].arguments].index("kv_cache")
    blocks, heads, slots, width = args[cache].shape
    # Multiples of 128, as the code was compiled for, but for one that only its quotient is.
    strides = [2 * heads * slots * width, 2 * slots * width, width, 1]
    whole = torch.empty(blocks * strides[0] + 64, dtype=torch.bfloat16)
    args[cache] = whole.as_strided(args[cache].shape, strides)
    before = mock.launches
    call(ATTENTION, args, number)
    assert mock.launches == before + 1
    strides[dimension] += 4
    args[cache] = whole.as_strided(args[cache].shape, strides)
    message = f"kv_cache has a size or stride of {strides[dimension]}; .* multiples of 8"
    with pytest.raises(RuntimeError, match=message):
        call(ATTENTION, args, number)
    assert mock.launches == before + 1


def test_more_elements_than_32_bits_count(kernels, mock):
    """Of a tensor over memory that is reserved, never touched."""
    number, found, _ = planned(kernels, "scaled_mm")
    args = arguments(signature_of(kernels, found[0]), 5, 0, "cpu")
    args[1] = torch.empty(2**31 + 1024, dtype=args[1].dtype).as_strided((5, 512), (2**29, 1))
    with pytest.raises(RuntimeError, match=r"a spans more than 2\^31 elements"):
        call("scaled_mm", args, number)


@pytest.mark.parametrize("number", [-1, 10**6, -(2**63), 2**63 - 1])
def test_a_plan_that_is_not(number, kernels, mock):
    _, found, _ = planned(kernels, "scaled_mm")
    args = arguments(signature_of(kernels, found[0]), 5, 0, "cpu")
    with pytest.raises(RuntimeError, match="scaled_mm: there is no plan"):
        call("scaled_mm", args, number)


def test_a_plan_of_another_op(kernels, mock):
    number, _, _ = planned(kernels, "scaled_mm_blockwise")
    _, found, _ = planned(kernels, "scaled_mm")
    args = arguments(signature_of(kernels, found[0]), 5, 0, "cpu")
    with pytest.raises(RuntimeError, match=f"there is no plan {number} of this op"):
        call("scaled_mm", args, number)


def test_an_unprepared_device(fresh, mock):
    number = fresh.plan("scaled_mm", SMALL["scaled_mm"], choices_of("scaled_mm"))
    kernel = fresh.pack.find("scaled_mm", SMALL["scaled_mm"], choices_of("scaled_mm")[0][0])
    args = arguments(signature_of(fresh, kernel), 5, 0, "cpu")
    with pytest.raises(RuntimeError, match="scaled_mm: not prepared on device 0"):
        call("scaled_mm", args, number)


def test_a_pack_without_the_config_makes_no_plan(kernels):
    assert kernels.plan("scaled_mm", SMALL["scaled_mm"], [("{}", 16)]) is None
    assert kernels.plan("scaled_mm", (1, 2), choices_of("scaled_mm")) is None
    assert kernels.plan("scaled_mm", SMALL["scaled_mm"], []) is None


def test_another_architecture(pack_path, mock):
    mock.library.mock_set_capability(100)
    with pytest.raises(PackError, match="is for sm_90, this device is sm_100"):
        native.Pack.open(pack_path, 0)


@pytest.mark.parametrize("step", ["cuModuleLoadData", "cuModuleGetFunction"])
def test_the_drivers_errors_are_told_and_may_pass(step, fresh, mock):
    number = fresh.plan("scaled_mm", SMALL["scaled_mm"], choices_of("scaled_mm"))
    mock.fail(step, 2)
    with pytest.raises(native.Unavailable, match=rf"{step}: CUDA error 2 \(out of memory\)"):
        native.prepare(number, 0)
    mock.fail(step, 0)
    native.prepare(number, 0)
    kernel = fresh.pack.find("scaled_mm", SMALL["scaled_mm"], choices_of("scaled_mm")[0][0])
    args = arguments(signature_of(fresh, kernel), 5, 0, "cpu")
    mock.fail("cuLaunchKernelEx", 2)
    with pytest.raises(RuntimeError, match="cuLaunchKernelEx: CUDA error 2"):
        call("scaled_mm", args, number)


def test_no_such_device(kernels, mock):
    number, _, _ = planned(kernels, "scaled_mm")
    for device in (-1, 2, 64, 1 << 20):
        with pytest.raises(native.Unavailable):
            native.prepare(number, device)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_descriptions_of_anything_are_refused_or_taken(data, kernels, mock):
    """The words that Python hands to C++: nothing in them leads out of bounds."""
    name = data.draw(st.sampled_from(sorted(SMALL)))
    kernel = kernels.pack.find(name, SMALL[name], choices_of(name)[0][0])
    signature = signature_of(kernels, kernel)
    words = native.kernel_words(kernel, signature.arguments)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(words) - 1))
        words[position] = data.draw(st.integers(-3, 20) | st.integers(-(2**63), 2**63 - 1))
    words = words[: data.draw(st.integers(0, len(words)))] if data.draw(st.booleans()) else words
    words += data.draw(st.lists(st.integers(-3, 20), max_size=3))
    with contextlib.suppress(RuntimeError):
        number = native._call(
            "kernel", kernels._signature(kernel.signature), kernels.pack.cubins[kernel.cubin],
            len(kernels.pack.cubins[kernel.cubin]), kernel.symbol.encode(),
            native._words(words), len(words),
        )  # fmt: skip
        plan = native._call("plan", native._words([number]), native._words([64]), 1)
        # With other parameters than the cubin has, the mock would read what is not there.
        if words[4] == len(kernel.parameters):
            native.prepare(plan, 0)
            call(name, arguments(signature, 5, 0, "cpu"), plan)


@settings(max_examples=200, deadline=None)
@given(words=st.lists(st.integers(-3, 10) | st.integers(-(2**63), 2**63 - 1), max_size=40))
def test_signatures_of_anything_are_refused_or_taken(words, mock):
    with contextlib.suppress(native.Unavailable):
        native._call("signature", b"op", b"a,b,c", native._words(words), len(words))


def test_without_a_driver_the_library_loads_and_says_so(built):
    program = f"""
import os
os.environ["HELION_KERNELS_CUDA_DRIVER"] = "/nowhere/libcuda.so.1"
from helion_kernels import OPS, native
native.load(OPS.values(), {str(built / "helion_kernels_native.so")!r})
try:
    native.devices()
except native.Unavailable as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no CUDA driver: /nowhere/libcuda.so.1")


def test_without_the_library():
    program = """
from helion_kernels import OPS, native
try:
    native.load(OPS.values(), "/nowhere/native.so")
except native.Unavailable as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("no C++ dispatcher: /nowhere/native.so"), done.stderr


def test_the_c_interface_takes_null_and_nonsense(mock):
    library = native._loaded
    assert library.helion_kernels_plan(None, None, 0) == -1
    assert library.helion_kernels_prepare(-5, 0) == -1
    assert library.helion_kernels_kernel(1 << 40, b"", 0, b"", ctypes.c_void_p(), 0) == -1
    assert library.helion_kernels_define_op(b"not a schema", b"T") == -1
    assert library.helion_kernels_error()
