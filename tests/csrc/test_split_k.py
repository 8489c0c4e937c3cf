# SPDX-License-Identifier: Apache-2.0
"""Split-K through the dispatcher: no workspace but the right one, no more tokens than it is for."""

from dataclasses import replace

import pytest
import torch
from calls import planned, signature_of
from samples import arguments

from helion_kernels import OPS, native, qwen3, select, split_k
from helion_kernels.aot import describe
from helion_kernels.gemm import is_gemv

GEMMS = [name for name in OPS if name.startswith("scaled_mm")]
GPU = "NVIDIA H100"
SPLIT = ("scaled_mm_blockwise", (4096, 12288))
"""Sizes of the 8b model for which a config splits, whatever is tuned next."""

WRONG = [
    (lambda w: w[:-1], f"has size {split_k.SIZE - 1} in dimension 0 instead of {split_k.SIZE}"),
    (lambda w: torch.cat([w, w[:1]]), f"has size {split_k.SIZE + 1} in dimension 0"),
    (lambda w: w[:0], "has size 0 in dimension 0"),
    (lambda w: w.view(2, -1), "has 2 dimensions instead of 1"),
    (lambda w: w.repeat_interleave(2)[::2], "must have stride 1 in dimension 0"),
    (lambda w: w.view(torch.int32), "has dtype"),
    (lambda w: w.bfloat16(), "has dtype"),
    (lambda w: w.to("meta"), "is not on a CUDA device"),
    (lambda w: None, "is no dense tensor"),
]


@pytest.mark.parametrize("name", GEMMS)
@pytest.mark.parametrize(("change", "why"), WRONG)
def test_a_wrong_workspace_is_named(name, change, why, kernels, mock):
    number, found, _ = planned(kernels, name)
    *args, workspace = arguments(signature_of(kernels, found[0]), 5, 0, "cpu")
    before = mock.launches
    # Past PyTorch's own choice by device, which would be that of the meta tensor.
    cpu = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    with pytest.raises(RuntimeError, match=f"helion_kernels.{name}: workspace {why}"):
        native.operator(name).redispatch(cpu, *args, change(workspace), number)
    assert mock.launches == before
    native.operator(name).redispatch(cpu, *args, workspace, number)
    assert mock.launches == before + 1


def cases():
    for block in (False, True):
        for op, dims in dict.fromkeys(qwen3.calls(qwen3.MODELS["8b"], block)):
            if op in GEMMS:
                yield op, dims


def splits(dims, config):
    return not is_gemv(config) and config["block_sizes"][2] < dims[1]


def launched(kernels, mock, name, dims, choices, tokens):
    """{tokens: the config that a plan of choices launches for so many}.

    Of kernels like the small pack's, one for each choice; their shared memory tells which.
    """
    signature = describe.signature(OPS[name], OPS[name].dims(*dims))
    _, (model, *_), _ = planned(kernels, name)
    made = [
        replace(model, signature=0, config=choice.key, shared=i, assumptions=())
        for i, choice in enumerate(choices)
    ]
    pack = native.Pack(replace(kernels.pack, signatures=[signature], kernels=made))
    number = pack.plan(name, dims, [(choice.key, choice.upto) for choice in choices])
    native.prepare(number, 0)
    configs = {}
    for count in tokens:
        native.operator(name)(*arguments(signature, count, 0, "cpu"), number)
        configs[count] = choices[mock.last().shared].config
    return configs


@pytest.mark.parametrize("most", [16, 64, 65, 8192, 16384])
@pytest.mark.parametrize(("name", "dims"), list(cases()))
def test_configs_that_split_never_get_more_tokens_than_they_may(name, dims, most, kernels, mock):
    """The choices for the 8b model on an H100, up to far more tokens than planned for."""
    choices = select.choose(OPS[name], OPS[name].dims(*dims), most, GPU)
    tokens = (*range(1, 2 * split_k.MAX_TOKENS), most, most + 1, 20000)
    configs = launched(kernels, mock, name, dims, choices, tokens)
    split = {count: config for count, config in configs.items() if splits(dims, config)}
    assert max(split, default=0) <= split_k.MAX_TOKENS
    for count, config in split.items():
        block_m, block_n, part = config["block_sizes"]
        counters, parts = split_k.COUNTERS, -(-dims[1] // part)
        assert -(-count // block_m) <= counters[0] and -(-dims[0] // block_n) <= counters[1]
        assert parts * dims[0] * count <= split_k.SIZE - counters[0] * counters[1]
    if (name, dims) == SPLIT:
        assert split


def test_a_config_that_gets_too_many_would_be_seen(kernels, mock):
    """The control: a plan serves all beyond with its last config, and here that one splits."""
    name, dims = SPLIT
    choices = select.choose(OPS[name], OPS[name].dims(*dims), 8192, GPU)
    choice = next(choice for choice in choices if splits(dims, choice.config))
    configs = launched(kernels, mock, name, dims, [choice], [split_k.MAX_TOKENS + 1])
    assert splits(dims, configs[split_k.MAX_TOKENS + 1])
