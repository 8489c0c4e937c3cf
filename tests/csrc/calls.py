# SPDX-License-Identifier: Apache-2.0
"""Plans of the small pack, and calls of them."""

import torch
from samples import SMALL

from helion_kernels import OPS, native, select


def choices_of(name):
    op = OPS[name]
    chosen = select.choose(op, op.dims(*SMALL[name]), 16384, "NVIDIA H100", frozenset(OPS))
    return [(choice.key, choice.upto) for choice in chosen if choice.config is not None]


def planned(kernels, name):
    """(plan's number, its kernels, bounds), on both devices."""
    choices = choices_of(name)
    number = kernels.plan(name, SMALL[name], choices)
    for device in (0, 1):
        native.prepare(number, device)
    found = [kernels.pack.find(name, SMALL[name], key) for key, _ in choices]
    return number, found, [upto for _, upto in choices]


def call(name, args, number):
    getattr(torch.ops.helion_kernels_native, name).default(*args, number)


def signature_of(kernels, kernel):
    return kernels.pack.signatures[kernel.signature]
