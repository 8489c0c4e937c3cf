# SPDX-License-Identifier: Apache-2.0
"""A million launches leave no memory behind, nor do the calls among them that are refused."""

import contextlib
import ctypes
import gc
from itertools import chain, cycle, islice

import torch
from calls import planned, signature_of
from samples import arguments

from helion_kernels import native

LIBC = ctypes.CDLL(None)
LAUNCHES = 1_000_000
REFUSED_OF = 10
"""One call in so many is refused besides."""
MOST_GROWTH = 1 << 20
HOLES = 1 << 19
"""Allocations of 32 bytes that fill whatever is free between others."""
NAMES = (
    "rms_norm_dynamic_per_token_quant",  # It has an optional tensor.
    "fused_qk_norm_rope_kv_write",  # It has the most arguments.
    "scaled_mm_blockwise",
)


def grown(work):
    """Bytes that the process holds after work and did not hold before."""

    def resident():
        gc.collect()
        LIBC.malloc_trim(0)
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    # Else what earlier tests have freed would hold what is leaked here: trimming gives back whole
    # pages only.
    for _ in range(HOLES):
        LIBC.malloc(16)
    before = resident()
    work()
    return resident() - before


def calls_of(kernels, name):
    """[(operator, arguments), ...]: a number of tokens in each bucket, and two that are refused."""
    number, found, bounds = planned(kernels, name)
    signature, operator = signature_of(kernels, found[0]), native.operator(name)
    good = [
        (operator, (*arguments(signature, tokens, 0, "cpu"), number))
        for tokens in (1, *(min(upto, 600) for upto in bounds))
    ]
    first, *rest = good[0][1]
    bad = [(operator, (first.double(), *rest)), (operator, (first, *rest[:-1], -1))]
    return good, bad


def test_memory_does_not_grow(kernels, mock):
    made = [calls_of(kernels, name) for name in NAMES]
    good = cycle(chain.from_iterable(zip(*(cycle(calls) for calls, _ in made), strict=False)))
    good = cycle(list(islice(good, 60)))
    bad = cycle([call for _, calls in made for call in calls])
    grids = set()

    def work(launches):
        for i, (operator, args) in enumerate(islice(good, launches)):
            operator(*args)
            if i % REFUSED_OF == 0:
                operator, args = next(bad)
                with contextlib.suppress(RuntimeError):
                    operator(*args)
                    raise AssertionError("a wrong call was launched")

    for operator, args in islice(good, 60):
        operator(*args)
        grids.add(tuple(mock.last().grid))
    assert len(grids) > len(NAMES)
    work(LAUNCHES // 20)
    before = mock.launches
    growth = grown(lambda: work(LAUNCHES))
    assert mock.launches - before == LAUNCHES
    assert growth < MOST_GROWTH


def test_what_a_refused_call_may_leak_would_be_noticed():
    """The least that malloc gives, never freed, as often as a call is refused above."""
    malloc = LIBC.malloc
    malloc.restype = ctypes.c_void_p
    assert grown(lambda: [malloc(16) for _ in range(LAUNCHES // REFUSED_OF)] and None) > MOST_GROWTH


def test_a_reference_that_is_not_given_back_would_be_noticed(kernels):
    """A tensor that the dispatcher is handed and does not delete, in one call of 100."""

    def work():
        for _ in range(LAUNCHES // 100):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(torch.empty(0)))

    assert grown(work) > MOST_GROWTH
