# SPDX-License-Identifier: Apache-2.0
"""A start with sizes that no pack has: one is made, once, and whatever fails costs time alone."""

import logging
import shutil
import subprocess
import threading
import time

import pytest
import torch
from samples import SMALL

from helion_kernels import OPS, plan

first_start = pytest.importorskip("vllm.helion.first_start")

CUDA = torch.device("cuda", 0)
NAME = "dynamic_per_token_scaled_fp8_quant"
CALLS = [(OPS[NAME], OPS[NAME].dims(*SMALL[NAME]))]


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch, tmp_path, mock, unplanned):
    monkeypatch.setattr(first_start.switches, "cache_folder", lambda: tmp_path / "cache")


@pytest.fixture
def made(monkeypatch, pack_path):
    """Puts a pack with all of SMALL where one is asked for; what it was asked for."""
    asked = []

    def make(wanted, gpu, target, folder):
        asked.append(wanted)
        time.sleep(0.2)
        shutil.copy(pack_path, folder / f"{target}.pack")

    monkeypatch.setattr(first_start, "_make", make)
    return asked


@pytest.fixture
def warnings():
    lines = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    first_start.logger.addHandler(handler)
    yield lines
    first_start.logger.removeHandler(handler)


def pack_folder(others=()):
    return first_start.pack_folder(CALLS, 64, CUDA, others)


def test_a_process_of_its_own_makes_what_is_missing(monkeypatch, tmp_path, warnings):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "helion_kernels").mkdir()  # What is here is not what is meant.
    folder = pack_folder()
    assert warnings == []
    (number,) = plan.prepare(CALLS, 64, CUDA, pack_folders=[folder])
    assert set(plan.PLANS[number].kinds) == {"pack"}

    def run(*_, **__):
        raise AssertionError("made twice")

    monkeypatch.setattr(subprocess, "run", run)
    assert pack_folder() == folder


def test_packs_with_everything_leave_nothing_to_make(made, pack_path):
    folder = pack_folder(others=[pack_path.parent])
    assert made == [] and not folder.exists()


def test_ranks_that_start_at_once_make_one(made):
    folders = []
    ranks = [threading.Thread(target=lambda: folders.append(pack_folder())) for _ in range(4)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert len(set(folders)) == 1 and len(folders) == 4
    assert made == [[(NAME, tuple(CALLS[0][1]))]]


def test_other_sizes_and_gpus_have_folders_of_their_own(made, monkeypatch):
    found = {pack_folder()}
    other = [(OPS[NAME], OPS[NAME].dims(SMALL[NAME][0] * 2))]
    found.add(first_start.pack_folder(other, 64, CUDA, []))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA H200")
    found.add(pack_folder())
    assert len(found) == 3


@pytest.mark.parametrize("error", [ChildProcessError("it ended with 2"), OSError("no space left")])
def test_what_cannot_be_made_is_said_and_costs_nothing_else(monkeypatch, warnings, error):
    def make(*_):
        raise error

    monkeypatch.setattr(first_start, "_make", make)
    folder = pack_folder()
    assert not list(folder.glob("*.pack"))
    (line,) = warnings
    assert str(error) in line and "vllm helion pack" in line and "\n" not in line


def test_a_gpu_that_no_pack_is_for(made, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 9))
    pack_folder()
    assert made == []
