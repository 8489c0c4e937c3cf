# SPDX-License-Identifier: Apache-2.0
"""benchmarks.tuning: the sample and its time, and that two searches are compared fairly."""

import importlib.util
import os
from pathlib import Path

import pytest

from benchmarks import tuning
from helion_kernels import qwen3, select
from helion_kernels.tune.cases import TOKENS, cases
from helion_kernels.tune.device import key

FAKE = Path(__file__).parents[1] / "helion_kernels/tune/fake.py"
SPEC = importlib.util.spec_from_file_location("fake_device", FAKE)
fake = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fake)

EVERYTHING = cases(qwen3.calls(qwen3.MODELS["8b"], False))


def test_the_sample_is_the_seeds_and_whole_ops():
    sample = tuning.draw(EVERYTHING, 3, (1, 64), 0)
    assert sample == tuning.draw(EVERYTHING, 3, (1, 64), 0)
    assert sample != tuning.draw(EVERYTHING, 3, (1, 64), 1)
    assert len({(case.op.name, case.dims) for case in sample}) == 3
    assert {case.num_tokens for case in sample} == {1, 64}
    assert len(sample) == 6


def test_shares_of_all_parts_are_the_whole():
    groups = {(case.op.name, case.dims) for case in EVERYTHING}
    parts = [[c for c in EVERYTHING if (c.op.name, c.dims) == group] for group in groups]
    for minutes in (0.1, 15.0):
        shares = [tuning.share(part, EVERYTHING, minutes) for part in parts]
        assert sum(shares) == pytest.approx(minutes)
        assert min(shares) > 0


def test_a_search_starts_from_nothing_and_keeps_its_time(monkeypatch, tmp_path):
    """No config that is shipped or the user's is tried first; both are back afterwards."""
    monkeypatch.setenv("HELION_KERNELS_CONFIG_DIR", str(tmp_path))
    shipped, seen = select.SHIPPED, []

    class Watched(fake.Fake):
        def bench(self, case):
            seen.append((os.environ.get("HELION_KERNELS_CONFIG_DIR"), select.SHIPPED.exists()))
            return super().bench(case)

    device = Watched()
    sample = tuning.draw(EVERYTHING, 2, TOKENS, 0)
    found = tuning.tune(sample, device, 0.5, lambda line: None)
    assert set(found) == {str(case) for case in sample}
    assert set(seen) == {(None, False)}
    assert 15 <= device.now <= 33
    assert (select.SHIPPED, os.environ["HELION_KERNELS_CONFIG_DIR"]) == (shipped, str(tmp_path))


def test_winners_are_timed_side_by_side(capsys):
    sample = tuning.draw(EVERYTHING, 4, (16, 256), 3)
    short, long = (
        tuning.tune(sample, fake.Fake(noise=0.0), minutes, lambda line: None)
        for minutes in (0.05, 5.0)
    )
    device = fake.Fake(noise=0.0)
    rows = tuning.compare(sample, device, short, long)
    assert [row["case"] for row in rows] == [str(case) for case in sample if str(case) in short]
    for case, row in zip((c for c in sample if str(c) in short), rows, strict=True):
        times = [fake.cost_us(case, config) for config in row["configs"]]
        assert [row["short_us"], row["long_us"]] == pytest.approx(times)
        assert row["ratio"] == pytest.approx(times[0] / times[1])
        assert key(row["configs"][1]) == key(long[str(case)].times[0][0])
    assert max(row["ratio"] for row in rows) > 1.0
    *lines, mean = tuning.summary(rows, len(rows))
    assert len(lines) == len(rows)
    assert ("reaches" in mean) == (float(mean.split("x")[0]) <= tuning.TARGET)


def test_ctrl_c_ends_it():
    device = fake.Fake(die_at=3.0, death=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(EVERYTHING[:4], device, 0.5, lambda line: None)


def test_what_one_search_did_not_reach_is_said():
    sample = tuning.draw(EVERYTHING, 2, (16,), 0)
    found = tuning.tune(sample, fake.Fake(), 0.5, lambda line: None)
    assert tuning.compare(sample, fake.Fake(), {}, found) == []
    assert tuning.summary([], 2) == ["no case has a config that works in both"]
    rows = tuning.compare(sample, fake.Fake(), found, found)
    assert [row["ratio"] for row in rows] == [1.0, 1.0]
    assert tuning.summary(rows, 5)[-1].startswith("3 cases left out")


def test_the_dry_run_tells_the_time(capsys):
    assert tuning.main(["--dry-run", "--sample", "1", "--tokens", "1", "--seed", "2"]) == 0
    first, case = capsys.readouterr().out.splitlines()
    assert first.startswith(f"1 of {len(EVERYTHING)} cases; ")
    assert case.endswith(" at 1")
    assert tuning.main(["--tokens", "3"]) == 2
    assert "--tokens [3]: none of 1, 2" in capsys.readouterr().out
