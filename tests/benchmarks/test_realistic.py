# SPDX-License-Identifier: Apache-2.0
"""Errors on realistic inputs: the whole path, interpreted, and that what is wrong is noticed."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import op_errors, realistic, reference, stack_errors, step, stock
from benchmarks.heavy_tails import MASSIVE, Tails
from helion_kernels import OPS
from helion_kernels.accuracy import expect, fresh_outputs
from helion_kernels.fp8 import FP8
from helion_kernels.qwen3 import calls
from helion_kernels.sample import POISON

CPU = torch.device("cpu")
CASES = list(dict.fromkeys(calls(realistic.TINY, block=False) + calls(realistic.TINY, block=True)))


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view(torch.uint8)


def test_both_formats_and_parts(tmp_path: Path, capsys):
    out = tmp_path / "out.json"
    assert realistic.main(["--model", "tiny", "--out", str(out), "--seed", "3"]) == 0
    document = json.loads(out.read_text())
    assert document["problems"] == [] and document["environment"]["torch"]
    ops = document["ops"]
    assert {(row["op"], tuple(row["dims"])) for row in ops} == {
        (name, tuple(int(x) for x in dims)) for name, dims in CASES
    }
    assert {row["arm"] for row in ops} == {"rounding", "ours"}
    assert {row["launcher"] for row in ops if row["arm"] == "ours"} == {"interpreter"}
    pairs = zip(ops[::2], ops[1::2], strict=True)
    for forced, ours in pairs:
        for name, error in ours["errors"].items():
            least = forced["errors"][name]
            # Attention rounds its weights besides, as FlashAttention does.
            rounded = 2 if ours["op"] == "fused_qk_norm_rope_paged_attention" else 1
            assert 0 < error["rms"] < 1.01 * rounded * least["rms"] < 0.1
            assert 0 < error["max"] < 1.2 * rounded * least["max"] < 0.1
    stack = document["stack"]
    assert [(row["format"], row["layer"]) for row in stack] == [
        (form, layer) for form in ("token", "block") for layer in range(3)
    ]
    assert all(row["errors"]["ours"]["cosine"] > 0.99 for row in stack)
    printed = capsys.readouterr().out
    assert "stock arms skipped" in printed and "0 problems" in printed


def test_real_sizes_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert realistic.main(["--model", "8b"]) == 2
    assert "--model tiny" in capsys.readouterr().out


def arms(block: bool) -> stack_errors.Launch:
    return stack_errors.ours(step.prepare(realistic.TINY, block, 64, CPU))


def first_row(launch: stack_errors.Launch, block: bool, chunks: list[int]) -> dict:
    rows = stack_errors.rows({"ours": launch}, realistic.TINY, 1, block, chunks, CPU, 0)
    return next(iter(rows))


def off_by_a_percent(call: str, launch: stack_errors.Launch) -> stack_errors.Launch:
    """The same kernels, one of whose outputs is 2 % too large."""

    def wrong(name: str, *args) -> None:
        launch(name, *args)
        if name == call:
            scaled = (
                args[3] if name == "norm" else args[2] if name in ("quant", "silu") else args[0]
            )
            scaled.mul_(1.02)

    return wrong


@pytest.mark.parametrize("block", [False, True], ids=["token", "block"])
@pytest.mark.parametrize("call", stack_errors.CALLS)
def test_one_op_that_is_off_shows_in_the_stream(call, block):
    """By 2 %: after one layer, in what the tokens' streams are off by on the average."""
    launch = arms(block)
    # Attention is the arm's in decode steps alone.
    chunks = [2, 22] if call == "attention" else [64, 8]
    right = first_row(launch, block, chunks)
    wrong = first_row(off_by_a_percent(call, launch), block, chunks)
    assert realistic.verdicts({"stack": [{"format": "", **right}]}, realistic.LIMIT) == []
    assert wrong["errors"]["ours"]["rms"] > 1.1 * right["errors"]["ours"]["rms"]


def test_verdicts():
    def row(ours: float) -> dict:
        errors = {"rounding": {"rms": 1e-2}, "ours": {"rms": ours}}
        return {"format": "token", "layer": 4, "errors": errors}

    assert realistic.verdicts({"stack": [row(1.2e-2)]}, 1.25) == []
    for bad in (1.3e-2, float("nan")):
        (text,) = realistic.verdicts({"stack": [row(bad)]}, 1.25)
        assert "layer 4" in text
    ops = [{"format": "block", "num_tokens": 8, "problems": ["x is wrong"]}]
    assert realistic.verdicts({"ops": ops}, 1.25) == ["block 8 tokens: x is wrong"]


@pytest.mark.parametrize("block", [False, True], ids=["token", "block"])
def test_chunks_change_nothing_but_who_shares_a_step(block):
    """The cache: decoded tokens see those before them, and none after."""
    layer = stack_errors.make_layer(Tails("cpu", 0), realistic.TINY, block)
    stream = Tails("cpu", 1).stream(24, realistic.TINY.hidden_size).to(torch.bfloat16)
    launch = arms(block)
    whole, together, apart = (
        stack_errors.Served(launch, realistic.TINY, block, stream, chunks).layer(layer).double()
        for chunks in ([24], [17, 7], [17, 1, 6])
    )
    # An op interpreted adds in another order where a batch is larger.
    assert op_errors.error(together, apart).rms < 1e-3
    # PyTorch's attention of the first chunk is in float32, the op's of the others is not.
    assert op_errors.error(whole, apart).rms < 3e-3
    with pytest.raises(ValueError, match="chunks of 7 tokens"):
        stack_errors.Served(launch, realistic.TINY, block, stream, [7])


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_inputs_are_heavy_and_outputs_poisoned(name, dims):
    op = OPS[name]
    args = op_errors.arguments(op, dims, 7, CPU, seed=1)
    named = {argument.name: value for argument, value in zip(op.arguments, args, strict=True)}
    again = op_errors.arguments(op, dims, 7, CPU, seed=1)
    for value, same in zip(args, again, strict=True):
        if isinstance(value, torch.Tensor):
            assert torch.equal(bits(value), bits(same))
    stream = named.get("residual")
    if stream is None and "norm" in name and "residual" in named:
        stream = named["input"]
    if stream is not None:
        assert float(stream[0].abs().max()) == float(torch.tensor(MASSIVE[0]).bfloat16())
    if "scale_a" in named:
        a = named["a"].double().unflatten(1, (named["scale_a"].shape[1], -1))
        # Each scale is its block's: the largest value is FP8's.
        assert (a.abs().amax(-1) == 448).all()
    for i in op.outputs:
        written = args[i]
        if op.arguments[i].name == "residual" or written is None:
            continue
        if "block_table" in named and op.arguments[i].name == "kv_cache":
            slots, block_size = named["slot_mapping"], written.shape[2]
            written = written[slots // block_size, :, slots % block_size]
        assert (bits(written) == POISON).all()


def test_errors_are_relative_to_the_token():
    exact = torch.tensor([[3.0, -4.0], [300.0, 400.0]]).double()
    got = exact + torch.tensor([[0.3, 0.0], [0.0, -4.0]])
    error = op_errors.error(exact, got)
    assert error.max == pytest.approx(0.3 / 4)
    assert error.rms == pytest.approx((((0.3 / 5) ** 2 + (4 / 500) ** 2) / 2) ** 0.5)
    assert error != op_errors.error(exact, exact) == (0, 0)


def test_values_are_what_outputs_mean():
    """Float8 times its scale is what the op's formula says, to float8's own rounding."""
    op = OPS["silu_and_mul_per_block_quant"]
    args = op_errors.arguments(op, (512,), 5, CPU, seed=2)
    expected = expect(op, args)
    gate, up = args[1].double().chunk(2, dim=-1)
    formula = gate * torch.sigmoid(gate) * up
    assert torch.allclose(op_errors.values(op, expected.args)["out"], formula, rtol=1e-6)
    rounded = op_errors.values(op, expected.args, rounded=True)["out"]
    assert 1e-3 < op_errors.error(formula, rounded).rms < 2.0**-4
    unwritten = op_errors.values(op, fresh_outputs(op, args))["out"]
    assert not op_errors.error(formula, unwritten).rms < 1


def test_stock_rotates_in_place():
    """What such a kernel leaves in qkv is read from there, and the inputs stay."""
    op = OPS["fused_qk_norm_rope"]
    args = op_errors.arguments(op, (4, 2, 64), 5, CPU, seed=2)
    before = args[2].clone()

    def arm(q_out, k_out, qkv, *rest):
        return lambda: qkv.mul_(2)

    q, k, *_ = op_errors.run_stock(op, arm, args)
    assert torch.equal(q, before[:, :256] * 2)
    assert torch.equal(k, before[:, 256:384] * 2)
    assert torch.equal(args[2], before)


def in_place(name: str, dims: tuple) -> dict:
    """Our kernels as stock's arms: what rotates leaves its queries in qkv and q_out alone."""
    op = getattr(torch.ops.helion_kernels, name)

    def rope(q_out, cache, slots, qkv, *rest):
        def run() -> None:
            op(rotated := torch.empty_like(q_out), cache, slots, qkv, *rest)
            qkv[:, : q_out.shape[1]] = rotated

        return run

    rotates = name == "fused_qk_norm_rope_kv_write"
    return {"csrc": rope if rotates else lambda *args: lambda: op(*args)}


@pytest.mark.parametrize("block", [False, True], ids=["token", "block"])
def test_stocks_calls_are_the_layers(block, monkeypatch):
    monkeypatch.setattr(stock, "arms", in_place)
    both = {"ours": arms(block), "stock": stack_errors.upstreams(realistic.TINY, block)}
    for row in stack_errors.rows(both, realistic.TINY, 2, block, [9, 4], CPU, 0):
        assert row["errors"]["ours"] == row["errors"]["stock"]


@pytest.mark.parametrize("edges", [(1, 512), (1, 128), (128, 128)])
def test_quantise(edges):
    x = Tails("cpu", 0).weight(256, 512)
    values, scale = op_errors.quantise(x, *edges)
    assert values.dtype == FP8 and scale.shape == (256 // edges[0], 512 // edges[1])
    wide = scale.repeat_interleave(edges[0], 0).repeat_interleave(edges[1], 1)
    assert ((values.float() * wide - x).abs() <= 2.0**-4 * x.abs() + 2.0**-10 * wide).all()


def test_the_rotary_table_is_the_references():
    tensors: dict[str, torch.Tensor] = {}
    model = reference.Decoder(tensors, 1, 1, 64, torch.float64, reference.SERVED)
    x = torch.randn(9, 3, 64).double()
    cos, sin = op_errors.cos_sin(9, 64, CPU).double().unsqueeze(1).chunk(2, dim=-1)
    first, second = x.chunk(2, dim=-1)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    assert torch.equal(model.rotate(x), rotated)
