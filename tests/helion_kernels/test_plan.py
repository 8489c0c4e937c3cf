# SPDX-License-Identifier: Apache-2.0
"""Plans and the registered ops: calls of every form, tracing, and what is decided when."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from helion_kernels import OPS, launch, plan, registry
from helion_kernels.accuracy import expect, fresh_outputs, problems
from helion_kernels.sample import Random

CPU = torch.device("cpu")
DIMS = {
    "dynamic_per_token_scaled_fp8_quant": (256,),
    "per_token_group_fp8_quant": (256,),
    "rms_norm_dynamic_per_token_quant": (256, True),
    "rms_norm_per_block_quant": (256, True),
    "silu_and_mul_dynamic_per_token_quant": (256,),
    "silu_and_mul_per_block_quant": (256,),
    "fused_qk_norm_rope": (4, 2, 64),
    "fused_qk_norm_rope_kv_write": (4, 2, 64),
    "fused_qk_norm_rope_paged_attention": (4, 2, 64, 16, False),
    "scaled_mm": (96, 256),
    "scaled_mm_blockwise": (96, 256),
    "scaled_mm_groupwise": (96, 256),
}


def call(name):
    return getattr(torch.ops.helion_kernels, name)


def sample(name, num_tokens=5):
    op = OPS[name]
    return op.sample(op.dims(*DIMS[name]), num_tokens, Random("cpu", num_tokens))


def assert_right(name, args, run):
    op = OPS[name]
    expected, actual = expect(op, args), fresh_outputs(op, args)
    run(*actual)
    assert problems(op, expected, actual) == []


@pytest.mark.parametrize("name", OPS)
def test_planned_and_unplanned_calls(name, no_plans):
    op = OPS[name]
    (plan_id,) = plan.prepare([(op, DIMS[name])], 16, CPU)
    assert_right(name, sample(name), lambda *args: call(name)(*args, plan=plan_id))
    assert_right(name, sample(name), lambda *args: call(name)(*args, plan_id))
    assert_right(name, sample(name), call(name))
    assert len(plan.PLANS) == 1  # the unplanned call found the plan of its dims


@pytest.mark.parametrize("name", OPS)
def test_calls_by_name(name):
    names = [argument.name for argument in OPS[name].arguments]
    assert_right(
        name, sample(name), lambda *args: call(name)(**dict(zip(names, args, strict=True)))
    )


def test_residual_may_be_left_out():
    op = OPS["rms_norm_dynamic_per_token_quant"]
    args = op.sample(op.dims(256, False), 5, Random("cpu"))
    assert_right(op.name, args, lambda *args: call(op.name)(*args[:-1]))


@pytest.mark.parametrize("name", OPS)
def test_no_tokens(name):
    call(name)(*sample(name, 0))


@pytest.mark.parametrize("name", OPS)
def test_beyond_max_num_tokens(name, no_plans):
    (plan_id,) = plan.prepare([(OPS[name], DIMS[name])], 4, CPU)
    assert_right(name, sample(name, 9), lambda *args: call(name)(*args, plan=plan_id))


def test_prepare_is_idempotent(no_plans):
    wanted = [(OPS[name], DIMS[name]) for name in OPS]
    first = plan.prepare(wanted * 2, 64, CPU)
    assert first[: len(OPS)] == first[len(OPS) :] == list(range(len(OPS)))
    assert plan.prepare(wanted, 64, CPU) == first[: len(OPS)]
    assert len(plan.PLANS) == len(OPS)


def test_progress_reaches_the_total(no_plans):
    seen = []
    plan.prepare(
        [(OPS[n], DIMS[n]) for n in OPS], 64, CPU, lambda done, total: seen.append((done, total))
    )
    assert seen == [(i + 1, len(OPS)) for i in range(len(OPS))]


def test_nothing_is_chosen_or_compiled_after_prepare(no_plans, monkeypatch):
    ids = {n: plan.prepare([(OPS[n], DIMS[n])], 64, CPU)[0] for n in OPS}

    def refuse(*_, **__):
        raise AssertionError("chosen at run time")

    for owner, name in (
        (plan, "prepare"),
        (plan.select, "choose"),
        (launch, "generate"),
        (launch, "build"),
        (launch, "interpret"),
    ):
        monkeypatch.setattr(owner, name, refuse)
    for name, plan_id in ids.items():
        call(name)(*sample(name), plan=plan_id)


def test_run_takes_the_launcher_of_the_bucket(no_plans, monkeypatch):
    """Bounds belong to the lower bucket; the last bucket serves everything larger."""
    op, met = OPS["scaled_mm"], []
    choices = [plan.select.Choice("exact", None, upto, "") for upto in (2, 5, 9)]
    launchers = [lambda *_, i=i: met.append(i) for i in range(3)]
    monkeypatch.setattr(plan, "_choices", lambda *_: choices)
    (plan_id,) = plan.prepare([(op, DIMS[op.name])], 9, CPU)
    plan.PLANS[plan_id].launchers[:] = launchers
    for num_tokens in (1, 2, 3, 5, 6, 9, 10, 1000):
        plan.run(op, plan_id, (torch.empty(num_tokens, 1),))
    assert met == [0, 0, 1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("name", OPS)
def test_opcheck(name):
    """Fake implementation and dispatch under AOT. (Its schema test cannot compare float8.)"""
    torch.library.opcheck(
        call(name).default,
        sample(name),
        test_utils=("test_faketensor", "test_aot_dispatch_dynamic"),
    )


@pytest.mark.parametrize("name", OPS)
def test_what_is_written_is_what_the_schema_declares(name):
    args = sample(name)
    before = [x.clone() if isinstance(x, torch.Tensor) else x for x in args]
    call(name)(*args)
    changed = [
        i
        for i, (x, y) in enumerate(zip(args, before, strict=True))
        if isinstance(x, torch.Tensor)
        and not torch.equal(*(t.contiguous().view(torch.uint8) for t in (x, y)))
    ]
    assert changed == [i for i in OPS[name].outputs if args[i] is not None]


@pytest.mark.parametrize("name", OPS)
def test_fake_tensors(name):
    with FakeTensorMode() as mode:
        args = [mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in sample(name)]
        assert call(name)(*args) is None


@pytest.mark.parametrize("name", OPS)
def test_traced_whole_by_torch_compile(name):
    torch.compiler.reset()
    compiled = torch.compile(call(name), fullgraph=True, backend="aot_eager")
    assert_right(name, sample(name), compiled)


def test_registering_again_changes_nothing():
    registry.register()
    assert_right("scaled_mm", sample("scaled_mm"), call("scaled_mm"))


@pytest.mark.parametrize("name", OPS)
def test_dims_are_read_off_the_arguments(name):
    op = OPS[name]
    assert op.dims_of(*sample(name)) == op.dims(*DIMS[name])


@pytest.mark.parametrize("name", OPS)
def test_outputs_come_first_but_for_the_residual_and_the_scale(name):
    """`plan.run` takes num_tokens from the first argument."""
    op = OPS[name]
    assert op.outputs[0] == 0
    assert sample(name, 7)[0].shape[0] == 7
