# SPDX-License-Identifier: Apache-2.0
"""What is tuned, in which order, and how a model is named."""

import json
from itertools import groupby

import pytest

from helion_kernels import OPS, qwen3
from helion_kernels.tune import cli
from helion_kernels.tune.cases import TIERS, TOKENS, cases


def names(todo):
    return [(case.op.name, tuple(case.dims)) for case in todo]


@pytest.mark.parametrize("model", qwen3.MODELS)
@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize("tp", [1, 2])
def test_every_call_of_the_layer_at_every_num_tokens(model, block, tp):
    calls = qwen3.calls(qwen3.MODELS[model], block, tp)
    todo = cases(calls)
    assert set(names(todo)) == {(name, tuple(dims)) for name, dims in calls}
    assert len(todo) == sum(
        n <= (OPS[name].most_tokens or n) for name, _ in set(calls) for n in TOKENS
    )
    assert all(case.weight > 0 for case in todo)


def test_decoding_comes_first_and_in_it_the_largest_gemm():
    todo = cases(qwen3.calls(qwen3.MODELS["8b"], False))
    rare = {("fused_qk_norm_rope", 128), ("rms_norm_dynamic_per_token_quant", False)}
    usual = [c for c in todo if (c.op.name, c.dims[-1]) not in rare]
    assert (
        max(c.num_tokens for c in todo if c.op.name == "fused_qk_norm_rope_paged_attention") == 512
    )
    assert todo[: len(usual)] == usual
    tokens = [case.num_tokens for case in usual]
    decode = sum(n <= TIERS[0][0] for n in tokens)
    assert max(tokens[:decode]) == TIERS[0][0] < min(tokens[decode:])
    assert str(todo[0]) == "scaled_mm 24576x4096 at 1"
    attention = {(32, 8, 128, 16, quantised, 1) for quantised in (False, True)}
    first = {tuple(case.dims) for case in usual[: 5 * 7 + 4]}  # scaled_mm_groupwise is for 1 to 8
    assert first == {(24576, 4096), (4096, 12288), (6144, 4096)} | attention
    gemms = [case for case in usual[:decode] if case.op.name == "scaled_mm"]
    dims = [dims for dims, _ in groupby(tuple(case.dims) for case in gemms)]
    assert dims == [(24576, 4096), (4096, 12288), (6144, 4096), (4096, 4096)]


@pytest.mark.parametrize(("model", "most"), [("8b", 8), ("0.6b", 1)])
def test_what_few_tokens_do_without_comes_last(model, most):
    sizes = qwen3.MODELS[model]
    calls = qwen3.calls(sizes, False)
    few = calls[-4:]
    replaced = qwen3.replaced(sizes, False)
    assert set(replaced.values()) == {most}
    assert {name for name, _ in replaced} == {
        "fused_qk_norm_rope_paged_attention",
        "dynamic_per_token_scaled_fp8_quant",
        "silu_and_mul_dynamic_per_token_quant",
        "scaled_mm",
    }
    products = {dims for name, dims in few if name == "scaled_mm_groupwise"}
    assert {dims for name, dims in replaced if name == "scaled_mm"} == products
    assert not set(replaced) & set(few)
    todo = cases(calls, TOKENS, replaced)
    assert sorted(map(str, todo)) == sorted(map(str, cases(calls)))
    gone = [(c.op.name, tuple(c.dims)) in replaced and c.num_tokens <= most for c in todo]
    assert sum(gone) == len(replaced) * sum(n <= most for n in TOKENS)
    last = len(todo) - 2 * len(TOKENS) - sum(gone)  # the first norm and the other rope kernel, too
    assert not any(gone[:last])
    for n in TOKENS:
        importance = next(weight for largest, weight in TIERS if n <= largest)
        assert sum(c.weight for c in todo if c.num_tokens == n) == pytest.approx(importance)


def test_nothing_is_replaced_where_nothing_is_few():
    assert qwen3.replaced(qwen3.MODELS["8b"], True) == {}
    assert qwen3.replaced(qwen3.MODELS["14b"], False, num_speculative_tokens=3) == {}


def test_what_another_model_makes_is_no_rare_call(capsys):
    def weight(*models):
        arguments = ["--format", "per-token", "--tokens", "8"]
        _, out = dry_run("--model", *models, *arguments, capsys=capsys)
        weights = {
            case: float(w) for w, case in (line.split(maxsplit=1) for line in out.splitlines())
        }
        return weights["dynamic_per_token_scaled_fp8_quant 2048 at 8"]

    assert weight("0.6b", "1.7b") > 8 * weight("1.7b"), "0.6B has groups for one token alone"


def test_shares_of_a_step_add_up_to_the_importance():
    todo = cases(qwen3.calls(qwen3.MODELS["32b"], True))
    for n in TOKENS:
        importance = next(weight for largest, weight in TIERS if n <= largest)
        assert sum(c.weight for c in todo if c.num_tokens == n) == pytest.approx(importance)


def test_a_call_that_several_models_make_is_tuned_once_and_counts_twice():
    one = qwen3.calls(qwen3.MODELS["14b"], False)
    both = cases([*one, *qwen3.calls(qwen3.MODELS["32b"], False)], [16])
    assert len(names(both)) == len(set(names(both)))
    weights = {(c.op.name, tuple(c.dims)): c.weight for c in both}
    norm = weights["rms_norm_dynamic_per_token_quant", (5120, True)]
    silu = weights["silu_and_mul_dynamic_per_token_quant", (17408,)]
    assert norm > 1.5 * silu > 0


# -- the command line


def dry_run(*arguments, capsys):
    status = cli.main([*arguments, "--dry-run", "--out", "out"])
    return status, capsys.readouterr().out


def test_dry_run_lists_the_cases(capsys):
    status, out = dry_run("--model", "8b", "--format", "block", "--tokens", "1", capsys=capsys)
    assert status == 0
    assert len(out.splitlines()) == 11
    assert "scaled_mm_blockwise 24576x4096 at 1" in out


def test_ops_and_shards(capsys):
    arguments = ("--model", "8b", "-tp", "1", "2", "--ops", "scaled_mm", "--tokens", "8")
    _, out = dry_run(*arguments, capsys=capsys)
    assert len(out.splitlines()) == 8
    assert "scaled_mm 3072x4096 at 8" in out


def test_attention_of_guesses_where_it_is_ours(capsys):
    arguments = ("--model", "8b", "14b", "--format", "block", "--tokens", "4")
    name = "fused_qk_norm_rope_paged_attention"
    _, out = dry_run(*arguments, "--num-speculative-tokens", "3", capsys=capsys)
    found = [line.split(maxsplit=1)[1] for line in out.splitlines() if name in line]
    assert found == [f"{name} 32x8x128x16x1x4 at 4"]
    _, out = dry_run(*arguments, "--num-speculative-tokens", "2", capsys=capsys)
    assert name not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "8b", "-tp", "3"], "not divisible"),
        (["--model", "8b", "--tokens", "0"], "--tokens 0"),
        (["--model", "8b", "--gpu-minutes", "0"], "--gpu-minutes 0"),
        (["--model", "8b", "--gpu-minutes", "nan"], "--gpu-minutes nan"),
        (["--model", "8b", "--num-speculative-tokens", "-1"], "-1 speculative tokens"),
        (["--model", "8b", "--format", "block", "--ops", "scaled_mm"], "none of: scaled_mm"),
        (["--model", "no/such/folder"], "no such file; name a checkpoint folder"),
    ],
)
def test_what_cannot_be_tuned_is_said_in_a_line(arguments, words, capsys):
    status, out = dry_run(*arguments, capsys=capsys)
    assert status == 1
    assert words in out
    assert len(out.splitlines()) == 1


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(cli.torch.cuda, "is_available", lambda: False)
    assert cli.main(["--model", "8b", "--out", "out"]) == 1
    assert "a GPU is needed" in capsys.readouterr().out


CONFIG = {
    "model_type": "qwen3",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 151936,
    "quantization_config": {"weight_block_size": [128, 128]},
}


def test_a_checkpoint_gives_sizes_and_format(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert qwen3.read(tmp_path) == (qwen3.MODELS["8b"], True)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": None}))
    assert qwen3.read(tmp_path) == (qwen3.MODELS["8b"], False)
    _, out = dry_run("--model", str(tmp_path), "--tokens", "1", capsys=capsys)
    assert len(out.splitlines()) == 15  # four of them for few tokens


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "config.json: "),
        ("[]", "config.json: "),
        ("{}", "has no 'model_type'"),
        (json.dumps({**CONFIG, "model_type": "llama"}), "llama"),
        (json.dumps({k: v for k, v in CONFIG.items() if k != "hidden_size"}), "'hidden_size'"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_is_named(tmp_path, text, words):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json") as caught:
        qwen3.read(tmp_path)
    assert words in str(caught.value)


def test_every_op_has_a_name_that_the_command_line_knows():
    assert set(OPS) == {name for m in qwen3.MODELS.values() for b in (0, 1)
                        for name, _ in qwen3.calls(m, bool(b))}  # fmt: skip
