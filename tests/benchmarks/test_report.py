# SPDX-License-Identifier: Apache-2.0
"""The report on a folder of made-up results whose means are known by hand."""

import json

import pytest

from benchmarks import page, plots, ratios, report

QUANT = "per_token_group_fp8_quant"
GPU = {"gpu": "NVIDIA H100", "driver_version": "580", "torch": "2.11.0", "vllm": None}


def row(op, num_tokens, arm, us, floor_us=1.0, **more):
    dims = {"hidden_size": 4096} if op == QUANT else {"n": 4096, "k": 1024}
    return {
        "op": op,
        "dims": dims,
        "num_tokens": num_tokens,
        "arm": arm,
        "us": us,
        "floor_us": floor_us,
        **more,
    }


def case(op, num_tokens, floor_us, ours, more=None, **arms):
    first = row(op, num_tokens, "ours", ours, floor_us, problems=[], **(more or {}))
    return [first, *(row(op, num_tokens, arm, us, floor_us) for arm, us in arms.items())]


KERNELS = {
    "environment": {**GPU, "date": "2026-12-02"},
    "rows": [
        # over csrc 1.6 and 2.5, mean 2; over Inductor 1 and 2.25, mean 1.5
        *case(QUANT, 1, 0.5, 2.0, csrc=3.2, inductor=2.0),
        *case(QUANT, 4096, 1.8, 2.0, csrc=5.0, inductor=4.5),
        # stock's kernel serves it: 1 over cutlass; deepgemm could not run
        *case("scaled_mm", 16, 6.0, 10.0, more={"config": "stock"}, cutlass=9.0),
        row("scaled_mm", 16, "deepgemm", None, note="no kernel"),
        # the faster of two: 20 / 10, and 12 / 10
        *case("scaled_mm", 512, 5.0, 10.0, cutlass=20.0, deepgemm=24.0),
        *case("scaled_mm", 513, 9.0, 10.0, cutlass=18.0, deepgemm=12.0),
        *case("scaled_mm", 2048, 8.0, 10.0, cutlass=7.5),
    ],
}
ENGINE = {
    "environment": {**GPU, "date": "2026-12-03"},
    "model": "Qwen3-8B",
    "agreement_with": "stock",
    "runs": {
        "ours": [
            {"startup_s": 60.0, "rows": [{"batch": 8, "tpot_ms": tpot, "prefill_ms": 50.0}]}
            for tpot in (4.0, 4.4, 4.1)
        ],
        "stock": [
            {"startup_s": 90.0, "rows": [{"batch": 8, "tpot_ms": 5.125, "prefill_ms": 40.0}]}
        ],
    },
}
SERVER_ROW = {f"p{p}_{metric}_ms": 20.0 for p in (50, 90, 99) for metric in ("ttft", "tpot")}
SERVER = {
    "environment": {**GPU, "date": "2026-12-04"},
    "model": "Qwen3-8B",
    "baseline": "stock",
    "runs": {
        name: [
            {
                "ready_s": [70.0, 60.0],
                "rows": [{"concurrency": 8, "output_throughput": rate, **SERVER_ROW}],
            }
        ]
        for name, rate in (("ours", 900.0), ("stock", 600.0))
    },
}


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results/nvidia_h100"
    folder.mkdir(parents=True)
    old = {"environment": {"date": "2026-12-01"}, "rows": case(QUANT, 1, 0.5, 9.0, csrc=1.0)}
    sweep = {"rows": [{"op": "scaled_mm", "dims": {}, "num_tokens": 1, "best": {}}]}
    for name, document in {
        "kernels-8b": KERNELS,
        "kernels-9-old": old,  # the later of two by date, not by name
        "kernels-sweep": sweep,
        "engine-8b": ENGINE,
        "engine-alone": {"agreement_with": "ours", "runs": {"ours": [{}], "stock": []}},
        "server-8b": SERVER,
        "engine-list": [1],
        "host-cost": {"results": []},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    (folder / "kernels-cut-off.json").write_text('{"rows": [')
    return tmp_path / "results"


def line_of(text, start):
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture
def text(results):
    return report.render({"nvidia_h100": report.load(results / "nvidia_h100", lambda _: None)})


def test_the_readme_gets_the_speed_ups_and_keeps_the_rest(results, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    report.write(results, tmp_path / "docs", readme, lambda _: None)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    # medians 60 and 90 s, 4.1 and 5.125 ms, 50 and 40 ms
    figures = ["1.50x", "1.25x at 8", "0.80x at 8"]
    assert line_of(text, "Qwen3-8B") == ["Qwen3-8B", "H100", *figures]


def test_the_readme_has_each_gpu_and_each_arm(results, tmp_path):
    other = {**ENGINE, "environment": {"gpu": "NVIDIA H200"}, "arms": {"quick": {"FAST": "1"}}}
    other["runs"] = ENGINE["runs"] | {"quick": ENGINE["runs"]["stock"]}
    (results / "nvidia_h200").mkdir()
    (results / "nvidia_h200/engine-8b.json").write_text(json.dumps(other))
    readme = tmp_path / "README.md"
    readme.write_text(f"{page.BEGIN}\n{page.END}\n")
    report.write(results, tmp_path / "docs", readme, lambda _: None)
    lines = [line for line in readme.read_text().splitlines() if "Qwen3-8B" in line]
    starts = [line.strip("| ").split(" | ")[:3] for line in lines]
    assert starts == [
        ["Qwen3-8B", "H100", "1.50x"],
        ["Qwen3-8B", "H200", "1.50x"],
        ["Qwen3-8B, FAST=1", "H200", "1.00x"],
    ]


def test_means_targets_and_the_lowest_ratio(text):
    assert line_of(text, QUANT) == [
        QUANT,
        "2.00x, reaches 1.6",
        "1.50x, reaches 1.5",
        "1.00x inductor: 4096, 1 token",
        "25 %",
        "90 %",
    ]


def test_gemms_are_split_by_tokens_and_compared_with_the_faster_arm(text):
    # up to 512: (1 * 2) ** 0.5; above: (1.2 * 0.75) ** 0.5
    assert line_of(text, "scaled_mm") == [
        "scaled_mm",
        "1.41x, reaches 1.15",
        "0.95x, **below** 1",
        "0.75x cutlass: 4096x1024, 2048 tokens",
        "60 %",
        "80 %",
    ]


def test_engine_has_medians_ranges_and_speed_ups(text):
    assert line_of(text, "tpot_ms@8") == ["tpot_ms@8", "4.100 (4.000..4.400)", "5.125", "1.25x"]
    assert line_of(text, "prefill_ms@8") == [
        "prefill_ms@8",
        "50.00 (50.00..50.00)",
        "40.00",
        "0.80x",
    ]
    assert line_of(text, "startup_s")[3] == "1.50x"
    assert "Processes: ours 3, stock 1." in text
    assert "NVIDIA H100, driver 580, torch 2.11.0, 2026-12-03" in text


def test_servers_rates_are_better_when_higher(text):
    assert line_of(text, "output_tokens_per_s@8")[1:] == ["900.0", "600.0", "1.50x"]
    assert line_of(text, "ttft_ms_p90@8")[1:] == ["20.00", "20.00", "1.00x"]


def test_kernels_of_a_decode_step_are_shown_where_they_were_profiled(text):
    assert "Microseconds of a decode step" not in text
    run = {
        **ENGINE["runs"]["ours"][0],
        "profiled_tokens": 3,
        "profile_8": [{"kernel": "_helion_scaled_mm", "us": 500.0}],
        "profile_8_prefill": [{"kernel": "_helion_scaled_mm", "us": 200.0}],
    }
    document = {**ENGINE, "runs": {"ours": [run], "stock": [run]}}
    text = "\n".join(page.engines({"engine-8b": document}))
    assert line_of(text, "gemm@8") == ["gemm@8", "150.0", "150.0", "1.00x"]


def test_the_floor_is_by_the_rate_of_the_gpus_memory(results):
    def text():
        return report.render({"nvidia_h100": report.load(results / "nvidia_h100", lambda _: None)})

    assert "Share of the floor:" not in text(), "no rate was measured"
    measured = {**KERNELS, "ceilings": {"read_bytes_per_us": 3e6}}
    (results / "nvidia_h100/kernels-8b.json").write_text(json.dumps(measured))
    assert "at 3.00 TB/s" in text()
    # 6.95 GB of weights, 1.24 of lm_head, 0.68 of keys and values: 2.96 ms, ours took 4.1
    (line,) = (line for line in text().splitlines() if " % of 2.957 |" in line)
    assert line == "| tpot_ms@8 | 72 % of 2.957 | 58 % of 2.957 |"


def test_files_of_another_form_are_named(results):
    said = []
    report.load(results / "nvidia_h100", said.append)
    left_out = ["kernels-cut-off", "kernels-sweep", "engine-alone", "engine-list"]
    assert [line.split(".json")[0] for line in said] == left_out
    assert all("left out" in line for line in said)


def test_a_wrong_kernel_has_no_speed_up():
    rows = case(QUANT, 1, 0.5, 1.0, csrc=4.0) + case(QUANT, 2, 0.5, 2.0, csrc=4.0)
    rows[0]["problems"] = ["out is wrong"]
    text = "\n".join(page.kernels("gpu", ratios.cases(rows), [KERNELS]))
    assert line_of(text, QUANT)[1] == "2.00x, reaches 1.6"
    assert f"**Wrong, and left out**: {QUANT} at 4096, 1 token: out is wrong" in text


def test_a_case_that_ours_could_not_run_is_none():
    rows = case(QUANT, 1, 0.5, None, csrc=4.0)
    assert ratios.cases(rows) == []
    assert list(page.kernels("gpu", [], []))[-1].startswith("No results")


def test_summary_on_the_screen():
    text = ratios.text(ratios.cases(KERNELS["rows"]))
    assert f"{QUANT:37} csrc 2.00x   inductor 1.50x" in text
    cutlass = (1 * 2 * 1.8 * 0.75) ** 0.25
    assert f"cutlass {cutlass:.2f}x   deepgemm 1.70x   (1 of 4 are stock's kernel)" in text


def test_the_page_keeps_what_is_around_the_markers():
    page_text = page.replace("# Mine\n", "one\n")
    assert page_text == f"# Mine\n{page.BEGIN}\none\n{page.END}\n"
    again = page.replace(page_text + "More.\n", "two\n")
    assert again == f"# Mine\n{page.BEGIN}\ntwo\n{page.END}\nMore.\n"
    assert page.replace("", "one\n").startswith("# Benchmarks\n")
    for half in (page.BEGIN, page.END):
        with pytest.raises(ValueError, match="marker"):
            page.replace(f"text {half} text", "one\n")


def test_a_second_run_writes_the_same_bytes(results, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    arguments = ["--results", str(results), "--docs", str(tmp_path / "docs")]
    written = []
    for _ in range(2):
        assert report.main(arguments) == 0
        files = [path for path in (tmp_path / "docs").rglob("*") if path.is_file()]
        written.append({path.name: path.read_bytes() for path in files})
    assert written[0] == written[1]
    assert set(written[0]) == {"benchmarks.md", f"{QUANT}.svg", "scaled_mm.svg"}
    plot = written[0]["scaled_mm.svg"].decode()
    for label in ("scaled_mm", "cutlass", "deepgemm", "ours", "num_tokens", "share of the floor"):
        assert f">{label}</text>" in plot
    assert "inductor" not in plot
    assert "wrote" in capsys.readouterr().out


def test_errors_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plots, "unavailable", lambda: None)
    assert report.main(["--results", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().out == f"{tmp_path / 'none'}: no such folder\n"
    monkeypatch.setattr(plots, "unavailable", lambda: "plots need matplotlib: pip install …")
    assert report.main([]) == 2
    assert capsys.readouterr().out.count("\n") == 1
