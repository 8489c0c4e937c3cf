# SPDX-License-Identifier: Apache-2.0
"""A kernel that waits for the one ahead of it may start before that ends, unless told not to."""

import contextlib
import hashlib
from dataclasses import replace
from types import SimpleNamespace

import helion
import helion.language as hl
import pytest
import torch
from samples import SMALL, arguments

from helion_kernels import OPS, launch, native
from helion_kernels.aot import describe, pack
from helion_kernels.aot.target import TARGETS, pretend

NAME = "dynamic_per_token_scaled_fp8_quant"
PROGRAMMATIC_STREAM_SERIALIZATION = 6


def kernel(out: torch.Tensor, input: torch.Tensor, scale: torch.Tensor) -> None:
    num_tokens, hidden_size = input.size()
    hl.specialize(hidden_size)
    for tile_m in hl.tile(num_tokens):
        x = input[tile_m, :].to(torch.float32)
        s = torch.amax(torch.abs(x), dim=-1)
        scale[tile_m, 0] = s
        out[tile_m, :] = (x / s[:, None]).to(out.dtype)


WAITING = OPS[NAME]
ALONE = replace(WAITING, kernel=kernel)
"""The same op, by a kernel that knows of no other."""


def generate(op):
    dims = op.dims(*SMALL[NAME])
    launch.bind.cache_clear()
    return launch.generate(op, dims, op.default_config(dims, 16))


def packed(op):
    dims = op.dims(*SMALL[NAME])
    with pretend(TARGETS["sm_90"]):
        specialised = generate(op)
        compiled = specialised.compile()
        cubin = compiled.asm["cubin"]
        digest = hashlib.sha256(cubin).hexdigest()
        entry = describe.kernel(op, dims, specialised, compiled, "it", "", digest)
    signature = describe.signature(op, dims)
    return pack.Pack("sm_90", pack.fingerprint(), {}, [signature], [entry], {digest: cubin})


@pytest.mark.parametrize("waits", [False, True])
def test_the_attribute_is_set_for_kernels_that_wait(waits, mock):
    op = WAITING if waits else ALONE
    made = pack.from_bytes(pack.to_bytes(packed(op)))
    assert made.kernels[0].pdl == waits
    number = native.Pack(made).plan(NAME, SMALL[NAME], [("it", 64)])
    native.prepare(number, 0)
    args = arguments(made.signatures[0], 5, 0, "cpu")
    try:
        for on in (True, False, True):
            native.set_pdl(on)
            native.operator(NAME)(*args, number)
            seen = mock.last()
            attributes = list(seen.attribute_ids[: seen.num_attributes])
            assert attributes == [PROGRAMMATIC_STREAM_SERIALIZATION] * (waits and on)
    finally:
        native.set_pdl(True)


@pytest.mark.parametrize("on", [False, True])
def test_compiled_kernels_obey_the_switch_too(on, monkeypatch):
    launches = []
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(
        helion.runtime, "default_launcher", lambda *_, **options: launches.append(options)
    )
    with pretend(TARGETS["sm_90"]):
        specialised = generate(WAITING)
        compiled_with = []
        monkeypatch.setattr(
            specialised,
            "compile",
            lambda: (
                compiled_with.append(dict(specialised.options))
                or SimpleNamespace(_init_handles=lambda: None)
            ),
        )
        function = launch.build(specialised, torch.device("cuda", 0), pdl=on)
        # The generated module has bound Helion's launcher already, ours looks it up.
        given = {"_launcher": helion.runtime.default_launcher} if on else {}
        function(*call_args(), **given)
    assert [options.get("launch_pdl", False) for options in compiled_with] == [on]
    assert [options.get("launch_pdl", False) for options in launches] == [on]


def call_args():
    signature = describe.signature(WAITING, WAITING.dims(*SMALL[NAME]))
    return arguments(signature, 5, 0, "cpu")
