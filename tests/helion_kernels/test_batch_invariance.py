# SPDX-License-Identifier: Apache-2.0
"""A token's bits do not depend on the batch that it is in: generated Triton, tile by tile.

With the config that batch invariance chooses. What a GPU's tensor core makes of it: tests/gpu.
"""

import pytest
from dims import GEMMS, SMALL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helion_kernels import OPS, plan, select
from helion_kernels.qwen3 import MODELS, dims_of

GPUS = ("NVIDIA H100 80GB HBM3", "some other GPU")
DIMS = SMALL | {
    "rms_norm_per_block_quant": (640, True),
    "scaled_mm": (72, 2048),
    "scaled_mm_blockwise": (72, 2048),
    "scaled_mm_groupwise": (72, 2048),
}


def count(name):
    """Of different tokens, and of tokens in a batch at most: those of a GEMM take several tiles."""
    return (12, 150) if name in GEMMS else (4, 6)


def invariant(name, dims, gpu=GPUS[0]):
    op = OPS[name]
    (choice,) = select.choose(op, op.dims(*dims), 8192, gpu, frozenset(OPS), invariant=True)
    return choice


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("name", OPS)
def test_one_config_serves_all(name, gpu):
    op = OPS[name]
    for dims in {dims for model in MODELS.values() for dims in dims_of(model, name)}:
        choice = invariant(name, dims, gpu)
        assert choice.config is not None  # nor stock, though it is offered for every op
        assert op.serves(op.dims(*dims), choice.config, select.UNBOUNDED)
        assert choice.reason.startswith("batch invariance: ")
        assert choice.upto == 8192
        usual = select.choose(op, op.dims(*dims), select.UNBOUNDED, gpu)
        assert choice.config in [each.config for each in usual]


def test_decoding_has_the_say(monkeypatch):
    """The config of most numbers of tokens up to 64, unless it cannot serve more."""
    op, dims = OPS["scaled_mm"], OPS["scaled_mm"].dims(4096, 4096)
    configs = {upto: op.default_config(dims, upto) | {"num_stages": upto} for upto in (8, 64, 512)}
    layer = [{"upto": upto, "config": config} for upto, config in configs.items()]
    monkeypatch.setattr(select, "_layers", lambda *_: [select._Layer("exact", "tuned", layer)])
    choice = invariant("scaled_mm", dims)
    assert (choice.source, choice.config) == ("exact", configs[64])
    assert choice.reason == "batch invariance: one config for all, that of 9-64 tokens; tuned"
    configs[64]["block_sizes"] = [16, 64, 1024]
    assert invariant("scaled_mm", dims).config == configs[8]
    configs[8]["block_sizes"] = [16, 64, 1024]
    assert invariant("scaled_mm", dims).config == configs[512]


def test_the_interpreter_promises_nothing(no_plans, monkeypatch):
    monkeypatch.setattr(plan, "_invariant", True)
    (draft,) = plan.dry_run([(OPS["scaled_mm"], (96, 256))], 64, plan.torch.device("cpu"))
    assert draft.choices[0].reason == "cpu tensors: not batch invariant"


def test_plans_obey(monkeypatch):
    asked = []
    monkeypatch.setattr(plan.torch.cuda, "get_device_name", lambda device: GPUS[0])
    monkeypatch.setattr(plan.select, "choose", lambda *args: asked.append(args[5]) or [None])
    monkeypatch.setattr(plan, "_invariant", False)
    for on in (True, False):
        plan.use_batch_invariance(on)
        plan._choices(OPS["scaled_mm"], (4096, 4096), 64, plan.torch.device("cuda", 0), [])
    assert asked == [True, False]


@pytest.mark.parametrize("name", OPS)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_batch(name, triton, data):
    tokens, most = count(name)
    batch = data.draw(st.lists(st.integers(0, tokens - 1), min_size=1, max_size=most))
    config = invariant(name, DIMS[name]).config
    assert triton.ask("batch", name, DIMS[name], tokens, config, config, batch) == []


@pytest.mark.parametrize("name", GEMMS)
def test_another_order_of_adding_is_noticed(name, triton):
    config = invariant(name, DIMS[name]).config
    split = config | {"block_sizes": [*config["block_sizes"][:2], 512]}
    batch = list(range(12))
    assert len(triton.ask("batch", name, DIMS[name], 12, config, split, batch)) == 12
