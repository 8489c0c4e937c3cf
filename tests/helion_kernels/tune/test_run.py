# SPDX-License-Identifier: Apache-2.0
"""Whole tunings on a device without a GPU: quality, budget, kills, and what is written."""

import json
import math
from bisect import bisect_left
from dataclasses import replace
from pathlib import Path
from statistics import geometric_mean

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helion_kernels import OPS, config_file, deep_gemm, qwen3, select
from helion_kernels.op import Config
from helion_kernels.tune import entries
from helion_kernels.tune.cases import Case, cases
from helion_kernels.tune.device import DeviceLostError, key
from helion_kernels.tune.journal import Record
from helion_kernels.tune.run import Tuning
from helion_kernels.tune.seeds import today
from tests.helion_kernels.tune.fake import Fake, Killed, cost_us, gemm_us, rough

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "benchmarks/results/nvidia_h100/earlier/kernels-sweep-gemm-8b.json"
FEW = cases(
    [("scaled_mm", (6144, 4096)), ("dynamic_per_token_scaled_fp8_quant", (4096,))], [1, 2, 16, 512]
)


@pytest.fixture
def out(tmp_path, monkeypatch, no_plans):
    """An empty folder of configs that select reads, and nothing shipped."""
    folder = tmp_path / "configs"
    monkeypatch.setenv("HELION_KERNELS_CONFIG_DIR", str(folder))
    monkeypatch.setattr(select, "SHIPPED", tmp_path / "shipped")
    return folder


def tune(out, todo=FEW, device=None, minutes=1.0, **options):
    config_file.load.cache_clear()
    device = device or Fake()
    outcome = Tuning(todo, device, out, minutes, **options).run()
    config_file.load.cache_clear()
    return device, outcome


def chosen(case, device, stock=frozenset(OPS)):
    """The config that serves a case, or None for stock."""
    choices = select.choose(case.op, case.dims, 8192, device.gpu, stock)
    choice = choices[bisect_left([c.upto for c in choices], case.num_tokens)]
    return choice, None if choice.config is None else dict(choice.config)


def losses(todo, device):
    """How much slower than the best of the whole space each case's config is."""
    found = {}
    for case in todo:
        space = [case.op.default_config(case.dims, case.num_tokens)]
        space += case.op.space(case.dims, case.num_tokens)
        best = min(device.cost(case, dict(config)) for config in space)
        found[str(case)] = device.cost(case, chosen(case, device)[1]) / best
    return found


def written(out):
    return {
        path.stem: json.loads(path.read_text())["entries"]
        for path in (out / "nvidia_h100").glob("*.json")
    }


# -- quality and budget


def test_the_likeliest_of_a_librarys_are_looked_at_first_and_all_of_them(out):
    class Libraries(Fake):
        def libraries(self, case):
            return [dict(config) for config in case.op.space(case.dims, case.num_tokens)[-5:]]

    (case,) = cases([("scaled_mm", (6144, 4096))], [512])
    device, _ = tune(out, [case], Libraries())
    looked = [config for _, config in device.looked]
    likeliest = [key(config) for config in device.libraries(case)]
    assert looked[:3] == likeliest[:3]
    assert set(likeliest) <= set(looked)
    assert len(looked) == len(set(looked))


def test_the_cost_model_is_near_what_was_measured():
    with open(RESULTS) as file:
        rows = [r for r in json.load(file)["rows"] if r["op"] == "scaled_mm"]
    ratios = []
    for row in rows:
        op = OPS[row["op"]]
        case = Case(op, op.dims(**row["dims"]), row["num_tokens"], 1.0)
        space = [dict(c) for c in op.space(case.dims, case.num_tokens)]
        ratios.append(min(gemm_us(case, config) for config in space) / row["best"]["us"])
    assert len(ratios) == 16
    assert max(ratios) < 1.3
    assert min(ratios) > 0.75


def wide(op):
    """The op with a space of a dozen times as many configs."""

    def space(dims, num_tokens):
        return [
            Config(**{**config, "l2_groupings": [group], "pid_type": kind})
            for config in op.space(dims, num_tokens)
            for group in (1, 4, 8, 16)
            for kind in ("flat", "persistent_blocked", "persistent_interleaved")
        ]

    return replace(op, space=space)


@pytest.mark.parametrize(
    ("block", "minutes", "widened"), [(False, 15.0, True), (False, 4.0, False), (True, 3.0, False)]
)
def test_8b_within_the_budget_is_within_3_percent_of_exhaustive_search(
    out, block, minutes, widened
):
    todo = cases(qwen3.calls(qwen3.MODELS["8b"], block))
    if widened:
        todo = [
            replace(case, op=wide(case.op)) if case.op.name.startswith("scaled_mm") else case
            for case in todo
        ]
    device, outcome = tune(out, todo, minutes=minutes)
    assert outcome.tuned == outcome.total == len(todo)
    assert device.now <= 1.02 * 60.0 * minutes
    found = losses(todo, device)
    assert geometric_mean(found.values()) <= 1.03
    assert geometric_mean(v for k, v in found.items() if k.startswith("scaled_mm")) <= 1.03
    assert max(found.values()) <= 1.2
    # Without merging there would be an entry for each case.
    assert sum(map(len, written(out).values())) <= 0.6 * len(todo)


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.floats(0.5, 4.0))
def test_the_budget_is_used_and_kept(out, minutes):
    """Spaces are large: no run ends early."""
    todo = [replace(case, op=wide(case.op)) for case in cases([("scaled_mm", (6144, 4096))])]
    device, _ = tune(out, todo, minutes=minutes)
    assert 0.9 * minutes <= device.now / 60.0 <= 1.1 * minutes


def test_a_short_budget_tunes_what_weighs_most(out):
    todo = cases(qwen3.calls(qwen3.MODELS["8b"], False))
    device, outcome = tune(out, todo, minutes=0.2)
    assert 0 < outcome.tuned < outcome.total
    assert not outcome.interrupted
    assert device.opened[0] == str(todo[0])
    # What was not tuned runs the rule, not a config tuned for far fewer tokens.
    case = todo[0]
    choice, config = chosen(replace(case, num_tokens=8192), device)
    assert choice.source == "default"
    assert config == dict(case.op.default_config(case.dims, 8192))


# -- kills


def states(out):
    return {path.name: path.read_text() for path in (out / "nvidia_h100").glob("*.json*")}


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(second=st.floats(0.1, 40.0), cut=st.integers(0, 40))
def test_resume_after_a_kill_redoes_nothing(out, tmp_path_factory, second, cut):
    out = tmp_path_factory.mktemp("configs")
    first = Fake(die_at=second)
    try:
        tune(out, device=first)
    except Killed:
        journal = out / "nvidia_h100" / "journal.jsonl"
        if journal.exists():  # killed while it wrote a line
            text = journal.read_text()
            journal.write_text(text + text[-cut:-1] if cut > 1 else text)
        for path in (out / "nvidia_h100").glob("*.json"):
            path.with_suffix(".partial").write_text("{")  # or while it wrote a file
    finished = set(first.opened[:-1]) if first.die_at == math.inf else set(first.opened)
    searched = {str(case) for case in FEW}
    before = written(out)

    second_device, outcome = tune(out, device=Fake(), resume=True)
    assert outcome.tuned == outcome.total
    looked = {name for name, _ in second_device.looked}
    assert looked.isdisjoint(finished & searched)
    assert set(before) <= set(written(out))
    assert {str(case) for case in FEW} == finished & searched | looked

    third, again = tune(out, device=Fake(), resume=True)
    assert third.looked == []
    assert again.tuned == again.total


def test_files_can_be_read_at_any_moment(out):
    """After each case what is there is whole, and serves."""
    seen = []

    def report(done, total, left_s, note):
        for name, found in written(out).items():
            for entry in found:
                config_file.checked(OPS[name], entry)
        seen.append(done)

    tune(out, report=report)
    assert seen[0] == 0
    assert seen[-1] == len(FEW)
    assert seen == sorted(seen)


def test_ctrl_c_keeps_what_is_there(out):
    _, outcome = tune(out, device=Fake(die_at=20.0, death=KeyboardInterrupt))
    assert outcome.interrupted
    assert 0 < outcome.tuned < outcome.total
    assert written(out)


def test_other_kernels_or_tools_are_measured_again(out):
    _, first = tune(out)
    device = Fake()
    device.environment = {**device.environment, "torch": "2.12.0"}
    device, outcome = tune(out, device=device, resume=True)
    assert outcome.stale == first.tuned
    assert {name for name, _ in device.looked} == {str(case) for case in FEW}
    # The day is not a reason.
    later = Fake()
    later.environment = {**device.environment, "date": "2026-02-02"}
    assert tune(out, device=later, resume=True)[1].stale == 0
    assert later.looked == []


def test_without_resume_everything_is_measured_again(out):
    tune(out)
    device, outcome = tune(out)
    assert {name for name, _ in device.looked} == {str(case) for case in FEW}
    assert outcome.stale == 0


def test_a_config_that_breaks_the_gpu_is_never_run_again(out):
    case = next(case for case in FEW if case.num_tokens == 16)
    bad = key(dict(case.op.space(case.dims, 16)[5]))

    def lost(other, config):
        return other.op == case.op and key(config) == bad

    with pytest.raises(DeviceLostError, match="--resume") as caught:
        tune(out, device=Fake(lost=lost))
    assert bad in str(caught.value)
    device, outcome = tune(out, device=Fake(lost=lost), resume=True)
    assert outcome.tuned == outcome.total
    assert bad not in {k for _, k in device.looked}


# -- what is written


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 1 << 30), st.floats(0.05, 0.9))
def test_a_config_that_fails_is_never_written(out, tmp_path_factory, seed, share):
    """Wrong ones are the fastest, as those that skip work are."""
    out = tmp_path_factory.mktemp("configs")

    def wrong(case, config):
        bad = rough(f"{seed} {case} {key(config)}", 1.0) < 2 * share
        return "out is wrong" if bad else ""

    def cost(case, config):
        return cost_us(case, config) * (0.5 if wrong(case, config) else 1.0)

    tune(out, device=Fake(cost=cost, wrong=wrong), minutes=0.5)
    for name, found in written(out).items():
        for entry in found:
            for case in FEW:
                if case.op.name == name and case.num_tokens == entry["upto"]:
                    assert wrong(case, entry["config"]) == ""


def test_where_nothing_works_nothing_is_written(out):
    _, outcome = tune(out, device=Fake(wrong=lambda case, config: "out is wrong"))
    assert written(out) == {}
    assert outcome.tuned == outcome.total
    assert chosen(FEW[0], Fake())[0].source == "default"


def test_what_served_before_is_not_lost_for_want_of_time(out):
    """In a tenth of a minute little is tried, and yet no entry is slower than what it replaces."""
    device = Fake()
    found = []
    for case in FEW:
        best = min(case.op.space(case.dims, case.num_tokens), key=lambda c: device.cost(case, c))
        dims = dict(zip(case.op.dims._fields, case.dims, strict=True))
        found.append((case, {"dims": dims, "upto": case.num_tokens, "config": best}))
    folder = select.SHIPPED / select.slug(device.gpu)
    for name in {case.op.name for case, _ in found}:
        entries.write(folder / f"{name}.json", [e for case, e in found if case.op.name == name])
    device, outcome = tune(out, device=device, minutes=0.1)
    tuned = json.loads((out / select.slug(device.gpu) / f"{FEW[0].op.name}.json").read_text())
    assert outcome.tuned > 0
    assert all(not entry["provenance"]["tried"].startswith("0 ") for entry in tuned["entries"])
    for case, entry in found:
        _, config = chosen(case, device)
        before = device.cost(case, entry["config"])
        # Neighbours may have been joined, which gives up to 1 %, and the clock has noise.
        assert config is None or device.cost(case, config) <= 1.02 * before


def test_what_serves_today_is_not_what_serves_larger_batches(out):
    """A config that splits ends its table, and a rule for everything larger stands behind it."""
    op = OPS["scaled_mm_blockwise"]
    dims = op.dims(4096, 12288)
    config = op.default_config(dims, 16)
    assert not op.serves(dims, config, select.UNBOUNDED)
    device = Fake()
    row = {"dims": dims._asdict(), "upto": 16, "config": config}
    entries.write(select.SHIPPED / select.slug(device.gpu) / f"{op.name}.json", [row])
    (case,) = (case for case in cases([(op.name, tuple(dims))], [16]))
    assert today(case, device.gpu) == [config]


def test_a_librarys_kernel_that_serves_today_is_a_seed_and_not_lost(out):
    """Though `select` leaves it out where no pack has it: a search compiles its own."""
    dims = OPS["scaled_mm_blockwise"].dims(4096, 4096)
    (case,) = cases([("scaled_mm_blockwise", dims)], [512])
    library = deep_gemm.Tile(128, 96, "b").config
    instead = case.op.default_config(dims, 512)

    def cost(case, config):
        return 1.0 if config == library else 2.0 if config == instead else 3.0

    class Libraries(Fake):
        def libraries(self, case):
            return [deep_gemm.Tile(64, 64).config]

    row = {"dims": dims._asdict(), "upto": 512, "config": library, "instead": instead}
    device = Libraries(cost=cost)
    entries.write(select.SHIPPED / select.slug(device.gpu) / "scaled_mm_blockwise.json", [row])
    assert today(case, device.gpu, libraries=True) == [library, instead]
    assert today(case, device.gpu) == [instead]
    device, _ = tune(out, [case], device, minutes=0.05)
    assert key(library) in [config for _, config in device.looked]
    (entry,) = written(out)["scaled_mm_blockwise"]
    assert (entry["config"], entry["instead"]) == (library, instead)


def test_what_like_sizes_were_tuned_to_is_looked_at_early(out):
    """The GEMV of one size for another: no walk leads from one kernel to it."""
    op = OPS["scaled_mm"]
    like, dims = op.dims(6144, 4096), op.dims(2560, 4096)  # too unlike to serve it
    (case,) = cases([(op.name, tuple(dims))], [1])
    config = {**op.space(dims, 1)[-1]}
    row = {"dims": like._asdict(), "upto": 1, "config": config}
    device = Fake()
    entries.write(select.SHIPPED / select.slug(device.gpu) / "scaled_mm.json", [row])
    assert select.tuned(op, device.gpu) == [tuple(like)]
    device, _ = tune(out, [case], device, minutes=0.05)
    assert key(config) in [looked for _, looked in device.looked[:10]]


def test_stock_where_it_wins_by_more_than_noise(out):
    gemm = [case for case in FEW if case.op.name == "scaled_mm"]
    best = {
        str(case): min(cost_us(case, dict(c)) for c in case.op.space(case.dims, case.num_tokens))
        for case in gemm
    }
    factors = {1: 0.9, 2: 0.999, 16: 1.2, 512: 0.7}

    def stock(case):
        return best[str(case)] * factors[case.num_tokens] if str(case) in best else None

    tune(out, device=Fake(stock=stock, noise=0.001))
    by_upto = {entry["upto"]: entry for entry in written(out)["scaled_mm"]}
    assert by_upto[1]["config"] == by_upto[512]["config"] == "stock"
    assert by_upto[1]["us"] == pytest.approx(stock(gemm[0]), rel=0.01)
    assert all(by_upto[n]["config"] != "stock" for n in (2, 16) if n in by_upto)
    assert all("stock_us" in entry for entry in by_upto.values())
    quant = written(out)["dynamic_per_token_scaled_fp8_quant"]
    assert all("stock_us" not in e and e["config"] != "stock" for e in quant)


def test_entries_say_where_they_come_from(out):
    device, _ = tune(out)
    for found in written(out).values():
        for entry in found:
            assert entry["us"] > entry["floor_us"] > 0
            assert entry["share_of_floor"] == pytest.approx(
                entry["floor_us"] / entry["us"], abs=2e-2
            )
            where = entry["provenance"]
            assert where["gpu"] == device.gpu
            assert where["torch"] == "2.11.0"
            assert where["date"] == "2026-01-01"
            assert "float64 reference" in where["method"]
            assert len(where["kernel"]) == 12


def test_retuning_some_tokens_keeps_the_rest(out):
    tune(out)
    path = out / "nvidia_h100" / "scaled_mm.json"
    other = {"dims": {"n": 64, "k": 128}, "upto": 8, "config": "stock", "us": 1.0}
    document = {"provenance": {"date": "2020-01-01"}, **json.loads(path.read_text())}
    document["entries"].append(other)
    above = [e for e in document["entries"] if e["upto"] > 2 and e["dims"]["n"] == 6144]
    path.write_text(json.dumps(document))
    tune(out, [case for case in FEW if case.num_tokens <= 2])
    now = json.loads(path.read_text())["entries"]
    assert all(entry in now for entry in above)
    # Provenance that a file had as a whole is kept with its entries.
    assert {**other, "provenance": {"date": "2020-01-01"}} in now
    assert max(e["upto"] for e in now if e["dims"]["n"] == 6144 and e["upto"] <= 2) == 2


def test_retuning_many_tokens_keeps_what_few_ran(out):
    path = out / "nvidia_h100" / "scaled_mm.json"
    path.parent.mkdir(parents=True)
    config = FEW[0].op.default_config(FEW[0].dims, 64)
    old = {"dims": {"n": 6144, "k": 4096}, "upto": 64, "config": config, "us": 1.0}
    path.write_text(json.dumps({"entries": [old]}))
    todo = cases([("scaled_mm", (6144, 4096))], [16, 32])
    for _ in range(2):  # Files are written again and again.
        tune(out, todo)
        now = json.loads(path.read_text())["entries"]
        assert {**old, "upto": 8} in now
        assert now[0]["upto"] == 8
        assert now[-1] == old
        assert sorted(n for e in now for n in e.get("tokens", [])) == [16, 32]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"entries": 3}', '{"entries": [{}]}', '{"entries": [3]}']
)
def test_a_damaged_file_is_named_and_not_overwritten(out, text):
    path = out / "nvidia_h100" / "scaled_mm.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(ValueError, match=r"scaled_mm\.json.*(mend|remove)"):
        tune(out)
    assert path.read_text() == text


def test_neighbours_are_joined_by_timing_the_winner_of_the_one_at_the_other(out):
    """One config is within half a percent everywhere, but nowhere the best."""
    op = OPS["scaled_mm"]
    todo = cases([("scaled_mm", (6144, 4096))], [1, 2, 4, 8])
    space = [dict(c) for c in op.space(todo[0].dims, 1)]
    same = {key(config): rough(key(config), 0.3) for config in space}
    fastest = dict(zip((1, 2, 4, 8), sorted(same, key=same.__getitem__)[:4], strict=True))

    def cost(case, config):
        if key(config) in fastest.values():
            return 10.0 if fastest[case.num_tokens] == key(config) else 10.05
        return 20.0 * same.get(key(config), 1.0)

    tune(out, todo, device=Fake(cost=cost, noise=0.0), minutes=3.0)
    found = written(out)["scaled_mm"]
    assert len(found) == 1
    assert found[0]["upto"] == 8
    assert key(found[0]["config"]) in fastest.values()


def test_an_entry_without_a_dimension_of_later_is_replaced(tmp_path):
    """Files of before attention knew several new tokens say nothing of query_len."""
    op = OPS["fused_qk_norm_rope_paged_attention"]
    dims = op.dims(32, 8, 128, 16, False)._asdict()
    config = op.default_config(op.dims(**dims), 8)
    path = tmp_path / "attention.json"
    older = {name: size for name, size in dims.items() if name != "query_len"}
    entries.write(path, [{"dims": older, "upto": 8, "tokens": [8], "config": config}])
    record = Record(op.name, dims, 8, [(config, 2.0)], None, 1.0, 1, 1, {"gpu": "a GPU"})
    entries.save(path, op, [record], method="by hand")
    (now,) = (e for e in json.loads(path.read_text())["entries"] if e["upto"] == 8)
    assert (now["us"], now["dims"], now["provenance"]["method"]) == (2.0, dims, "by hand")


def test_entries_of_no_records():
    assert entries.entries([]) == []
