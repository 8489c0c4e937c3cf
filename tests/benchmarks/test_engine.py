# SPDX-License-Identifier: Apache-2.0
"""benchmarks.engine with processes whose figures are made up."""

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import arms, breakdown, engine, engine_arm, spread

ROOT = Path(__file__).parents[2]

# As profiles of Qwen3-8B on an H100 have them, ours and stock's.
KERNELS = {
    "_helion_scaled_mm": "gemm",
    "_helion_scaled_mm_blockwise": "gemm",
    "_helion_scaled_mm_groupwise": "gemm",
    "_helion_rms_norm_per_block_quant": "norm+quant",
    "_helion_dynamic_per_token_scaled_fp8_quant": "norm+quant",
    "_helion_silu_and_mul_dynamic_per_token_quant": "norm+quant",
    "_helion_fused_qk_norm_rope_kv_write": "rope+cache",
    "void cutlass::device_kernel<vllm::cutlass_3x_gemm_sm90_fp8<cutlass::float_e4m3_t, "
    "cutlass::bfloat16_t, vllm::c3x::ScaledEpilogue, cute::tuple<cute::C<64>, cute:": "gemm",
    "void deep_gemm::sm90_fp8_gemm_1d2d_impl<(cute::UMMA::Major)0, 0u, 4096u, 4096u>": "gemm",
    "triton_red_fused__to_copy_abs_clamp_cutlass_scaled_mm_div_max_mul_reciprocal_silu_slice_"
    "unsqueeze_2": "norm+quant",
    "triton_red_fused_fused_add_rms_norm_3": "norm+quant",
    "std::enable_if<(((8)>(0)))&&vllm::_typeConvert<c10::BFloat16>::exists, void>::type "
    "vllm::fused_add_rms_norm_kernel<c10::BFloat16, 8, true>(c10::BFloat16*, long,": "norm+quant",
    "void per_token_group_quant_8bit_kernel<c10::BFloat16, c10::Float8_e4m3fn, true>": "norm+quant",
    "triton_red_fused_4": "rope+cache",
    "triton_poi_fused_5": "rope+cache",
    "void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16, __nv_bfloat16, "
    "(vllm::Fp8KVCacheDataType)0>(__nv_bfloat16 const*": "rope+cache",
    "void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<flash::"
    "CollectiveMainloopFwdSm90<2, cute::tuple<cute::C<1>": "attention",
    "void flash::prepare_varlen_num_blocks_kernel<1, false>(int, int, int": "attention",
    "nvjet_sm90_tst_384x8_64x4_2x1_v_bz_TNT": "lm_head",
    "_gumbel_sample_kernel": "sampling",
    "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::ArgMaxOps<"
    "float>, unsigned int, long, 4, 4> >": "sampling",
    "Memcpy HtoD (Pinned -> Device)": "other",
    "_compute_slot_mappings_kernel": "other",
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_are_grouped_by_name(kernel):
    assert breakdown.group(kernel) == KERNELS[kernel]


def profile(**us):
    return [{"kernel": kernel, "count": 1, "us": value} for kernel, value in us.items()]


def run(tpot, startup=60.0, logit=1.0):
    """What engine_arm writes, with a profile of 2 decode steps: 100 and 10 us each, and 800."""
    return {
        "startup_s": startup,
        "rows": [{"batch": 8, "tpot_ms": tpot, "prefill_ms": 10 * tpot}],
        "greedy": [[1, 2], [3, 4]],
        "forced": [[[1, 5.0, logit], [2, 4.0, logit]]],
        "profiled_tokens": 3,
        "profile_8": profile(_helion_scaled_mm=1000.0, nvjet=820.0, Memset=5.0),
        "profile_8_prefill": profile(_helion_scaled_mm=800.0, nvjet=800.0, Memset=6.0),
    }


def test_a_decode_step_is_what_a_prefill_lacks():
    cells = breakdown.cells(run(0.5))
    assert cells["gemm@8"] == 100.0
    assert cells["lm_head@8"] == 10.0
    assert cells["other@8"] == 0.0  # noise does not make a time negative
    assert cells["kernels@8"] == 110.0
    assert cells["not in kernels@8"] == 390.0
    old = run(0.5)
    del old["profile_8_prefill"]
    assert breakdown.cells(old) == {}


def test_long_prompts_are_cells_of_their_own():
    assert engine_arm.cases("1,8x32768,") == [(1, 512), (8, 32768)]
    for wrong in ("x8", "0", "8x0", "8x1k", "8x1x1"):
        with pytest.raises(argparse.ArgumentTypeError, match="write a batch"):
            engine_arm.cases(wrong)
    long = run(0.5)
    long["rows"][:0] = [{"batch": 8, "input": 32768, "tpot_ms": 7.0, "prefill_ms": 70.0}]
    long["rows"][1]["input"] = 512
    cells = engine.cells(long)
    assert (cells["tpot_ms@8x32768"], cells["prefill_ms@8x32768"]) == (7.0, 70.0)
    assert cells["tpot_ms@8"] == 0.5
    assert breakdown.cells(long) == breakdown.cells(run(0.5)), "profiles are of usual prompts"


@pytest.mark.parametrize("caching", [True, False])
def test_tokens_are_timed_behind_cached_prompts_where_there_is_a_cache(caching, monkeypatch):
    class Engine(engine_arm.Arm):
        """A prompt takes 10 s, or 1 s where it is cached, and each further token 0.5 s."""

        def __init__(self) -> None:
            self.llm, self.result = self, {"engine_args": {"enable_prefix_caching": caching}}
            self.cached = False

        def reset_prefix_cache(self) -> None:
            self.cached = False

        def run(self, batch, tokens):
            prompt, self.cached = (1.0 if self.cached else 10.0), caching
            return prompt + 0.5 * (tokens - 1), []

        def save(self) -> None:
            pass

    engine = Engine()
    engine.time([(1, 32)], tokens=4, repeats=3)
    (row,) = engine.result["rows"]
    assert (row["prefill_ms"], row["tpot_ms"]) == (10000, 500)
    assert row["prefill_all_ms"] == [10000] * 3
    assert row["total_all_ms"] == [3000 if caching else 12000] * 3


def test_arms():
    assert arms.parse_arm("ours") == ("ours", {})
    assert arms.parse_arm("a:K=1,PATH=x=y") == ("a", {"K": "1", "PATH": "x=y"})
    for wrong in ("", ":K=1", "a:K", "a:=1"):
        with pytest.raises(argparse.ArgumentTypeError, match="write NAME"):
            arms.parse_arm(wrong)
    assert arms.counts("8,1,8") == [8, 1]
    for wrong in ("", "0", "1,x"):
        with pytest.raises(argparse.ArgumentTypeError):
            arms.counts(wrong)


def test_spreads_and_ratios():
    runs = {"ours": [run(4.0), run(5.0), run(4.4)], "stock": [run(6.6)], "cut off": []}
    table = spread.summary(runs, engine.cells)
    assert table["ours"]["tpot_ms@8"] == (4.4, 4.0, 5.0, 3)
    assert list(table) == ["ours", "stock"]
    assert spread.entry(table, "ours", "tpot_ms@8", "stock") == "4.400 (4.000..5.000) 1.50x"
    rates = {
        name: {"tokens_per_s@1": spread.spread([rate])} for name, rate in (("a", 30), ("b", 20))
    }
    assert spread.entry(rates, "a", "tokens_per_s@1", "b") == "30.00 1.50x"
    assert spread.text(table, "stock").splitlines()[2].split()[-1] == "6.600"


@pytest.fixture
def processes(monkeypatch):
    """engine.run_arm with made-up results; the arms named in `failing` fail."""
    made, failing = [], set()

    def run_arm(environment, arguments, log):
        made.append(environment["NAME"])
        if environment["NAME"] in failing:
            return None
        forced = arguments[arguments.index("--forced") + 1]
        with open(forced, "a") as file:
            if not file.tell():
                file.write("[[1, 2]]")
        return run(4.0 if environment["NAME"] == "ours" else 5.0)

    monkeypatch.setattr(engine, "run_arm", run_arm)
    monkeypatch.setattr(arms, "describe_apart", lambda: {"gpu": "NVIDIA H100"})
    monkeypatch.setattr(arms, "exit_on_signals", lambda: None)
    return argparse.Namespace(made=made, failing=failing)


def arguments(out, rounds, *more):
    named = ["--arm", "ours:NAME=ours", "--arm", "stock:NAME=stock"]
    return [*named, "--model", "8b", "--rounds", str(rounds), "--out", str(out), *more]


def test_processes_take_turns_and_are_not_run_again(processes, tmp_path, capsys):
    out = tmp_path / "out.json"
    processes.failing.add("stock")
    assert engine.main(arguments(out, 1, "--batches", "8")) == 1
    assert "1 processes failed; --resume" in capsys.readouterr().out
    assert json.loads(out.read_text())["runs"]["stock"] == []

    processes.failing.clear()
    processes.made.clear()
    logs = tmp_path / "logs of another machine"
    again = arguments(out, 2, "--batches", "8", "--resume", "--logs", str(logs))
    assert engine.main(again) == 0
    assert processes.made == ["stock", "ours", "stock"]
    assert json.loads((logs / "forced-tokens.json").read_text()) == [[1, 2]]
    document = json.loads(out.read_text())
    assert {name: len(runs) for name, runs in document["runs"].items()} == {"ours": 2, "stock": 2}
    assert document["agreement_with"] == "stock"
    assert document["agreement"]["ours"]["top1_agreement"] == 1.0
    assert document["summary"]["ours"]["tpot_ms@8"]["processes"] == 2
    assert document["decode_step_us"]["ours"]["gemm@8"]["median"] == 100.0
    printed = capsys.readouterr().out
    assert "4.000 (4.000..4.000) 1.25x" in printed
    assert "microseconds of a decode step" in printed


def test_another_run_is_not_continued(processes, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert engine.main(arguments(out, 1)) == 0
    assert engine.main(arguments(out, 1, "--resume", "--batches", "8")) == 2
    assert "whose arguments is []" in capsys.readouterr().out
    assert engine.main([*arguments(out, 1), "--arm", "ours:NAME=x"]) == 2
    assert "two arms of one name" in capsys.readouterr().out


def test_a_process_that_fails_shows_the_end_of_its_log(tmp_path, capsys):
    script = tmp_path / "arm.py"
    script.write_text("import sys; print('no such model'); sys.exit(3)")
    assert engine.run_arm({}, [], tmp_path / "ours-0.log", str(script)) is None
    assert "ours-0 failed (3)" in (error := capsys.readouterr().err)
    assert "no such model" in error


def test_sigterm_unwinds():
    """So that subprocess.run ends its child, and `with` blocks end theirs."""
    code = (
        "import time; from benchmarks import arms\n"
        "arms.exit_on_signals()\n"
        "try:\n  print('ready', flush=True); time.sleep(60)\n"
        "finally:\n  print('unwound', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == "unwound\n"
    assert process.returncode == 128 + signal.SIGTERM
