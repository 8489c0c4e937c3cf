# SPDX-License-Identifier: Apache-2.0
"""What reaches the driver: the right kernel, grid, stream and parameters, byte for byte."""

import struct
import threading

import pytest
import torch
from calls import call, choices_of, planned, signature_of
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import SMALL, arguments

from helion_kernels import native
from helion_kernels.aot import expression

FORMATS = {"pointer": "Q", "i32": "i", "i64": "q", "fp32": "f", "fp64": "d"}


def expected(kernel, args):
    """(grid, parameter bytes) from the index, in Python; two scratch pointers at the end."""
    sizes = [None if not isinstance(a, torch.Tensor) else a.shape for a in args]
    strides = [None if not isinstance(a, torch.Tensor) else a.stride() for a in args]

    def value(words):
        return expression.evaluate(words, sizes, strides)

    data = b""
    for parameter in kernel.parameters:
        form = FORMATS[parameter.form]
        data += bytes(-len(data) % struct.calcsize(form))
        if parameter.form == "pointer":
            word = args[parameter.argument].data_ptr() + value(parameter.value)
        elif parameter.value is None:
            word = args[parameter.argument]
        else:
            word = value(parameter.value)
        data += struct.pack(form, word)
    return [value(extent) for extent in kernel.grid], data + bytes(-len(data) % 8 + 16)


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=40, deadline=None)
@given(num_tokens=st.integers(1, 600), pad=st.integers(0, 20))
def test_a_call_becomes_its_launch(name, kernels, mock, num_tokens, pad):
    number, found, bounds = planned(kernels, name)
    args = arguments(signature_of(kernels, found[0]), num_tokens, pad, "cpu")
    call(name, args, number)
    wanted = next(i for i, upto in enumerate(bounds) if num_tokens <= upto)
    grid, data = expected(found[wanted], args)
    launch = mock.last()
    assert list(launch.grid) == grid
    assert list(launch.block) == [32 * found[wanted].warps, 1, 1]
    assert launch.shared == found[wanted].shared
    assert (launch.device, launch.stream) == (0, 0x5000)
    assert bytes(launch.bytes[: launch.size]) == data


@pytest.mark.parametrize("name", SMALL)
def test_bounds_decide_and_the_last_kernel_serves_all_beyond(name, kernels, mock):
    number, found, bounds = planned(kernels, name)
    signature = signature_of(kernels, found[0])
    for upto in bounds:
        for num_tokens in (min(upto, 700), min(upto + 1, 701)):
            args = arguments(signature, num_tokens, 0, "cpu")
            wanted = next(k for k, u in zip(found, bounds, strict=True) if num_tokens <= u)
            call(name, args, number)
            assert list(mock.last().grid) == expected(wanted, args)[0]
    small = kernels.plan(name, SMALL[name], [(choices_of(name)[0][0], 4)])
    native.prepare(small, 0)
    args = arguments(signature, 300, 0, "cpu")
    call(name, args, small)
    assert list(mock.last().grid) == expected(found[0], args)[0]


def test_no_tokens_no_launch(kernels, mock):
    number, found, _ = planned(kernels, "scaled_mm")
    before = mock.launches
    call("scaled_mm", arguments(signature_of(kernels, found[0]), 0, 0, "cpu"), number)
    assert mock.launches == before


def test_preparing_loads_once_per_device_and_launching_never(kernels, mock):
    number, found, _ = planned(kernels, "scaled_mm_blockwise")
    loads = mock.loads
    planned(kernels, "scaled_mm_blockwise")
    args = arguments(signature_of(kernels, found[0]), 5, 0, "cpu")
    call("scaled_mm_blockwise", args, number)
    assert mock.loads == loads


def test_another_devices_context_may_be_current(kernels, mock):
    number, found, _ = planned(kernels, "scaled_mm")
    args = arguments(signature_of(kernels, found[0]), 5, 0, "cpu")
    for current in (1, 0, -1):
        mock.library.mock_set_current(current)
        call("scaled_mm", args, number)
        assert mock.last().device == 0


def test_eight_threads_launch_and_prepare_at_once(kernels, mock):
    names, errors = list(SMALL), []

    def work(seed):
        try:
            for i in range(60):
                name = names[(seed + i) % len(names)]
                number = plans[name][0]
                native.prepare(number, i % 2)
                call(name, args[name], number)
        except Exception as error:
            errors.append(error)

    plans = {name: planned(kernels, name) for name in names}
    args = {
        name: arguments(signature_of(kernels, found[0]), 33, 1, "cpu")
        for name, (_, found, _) in plans.items()
    }
    before = mock.launches
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert mock.launches == before + 8 * 60


def test_compiling_tools_see_an_op_that_writes_its_outputs(kernels, mock):
    op = torch.ops.helion_kernels_native.scaled_mm.default
    assert [a.alias_info is not None for a in op._schema.arguments][:2] == [True, False]
    meta = [torch.empty(4, 4, device="meta") for _ in range(6)]
    assert op(*meta, 0) is None
