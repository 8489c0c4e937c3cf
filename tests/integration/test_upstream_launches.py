# SPDX-License-Identifier: Apache-2.0
"""Upstream's own modules: the recorded kernels are there, and its launches find them ready."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vllm
from vllm.helion.upstream import kernel, make

PROGRAM = Path(__file__).with_name("upstream_program.py")


def test_every_recorded_kernel_is_upstreams_and_its_launch_finds_it():
    tree = Path(vllm.__file__).parents[1]
    rows = json.loads(_run(str(PROGRAM), str(tree), make.__file__))
    assert len(rows) == len(kernel.read(*kernel.LOGITS)) > 45
    assert [row for row in rows if row[1:] != [True, 1]] == []


CHEAP = ("_min_p_kernel", "_gather_block_tables_kernel", "_topk_log_softmax_kernel")


@pytest.fixture(scope="module")
def launches(tmp_path_factory):
    """Runs upstream_launches.py with a pack: its counts."""
    if (compiler := shutil.which("gcc")) is None:
        pytest.skip("Triton's launchers need gcc")
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("fake_libcuda.c")
    library = folder / "libcuda.so.1"
    command = [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, source]
    subprocess.run(command, check=True)

    def run(packed: Path):
        settings = {
            "LD_LIBRARY_PATH": str(folder),
            "TRITON_LIBCUDA_PATH": str(folder),
            "TRITON_CACHE_DIR": str(folder / packed.stem),
        }
        program = str(Path(__file__).with_name("upstream_launches.py"))
        return json.loads(_run(program, str(packed), *CHEAP, settings=settings).splitlines()[-1])

    return run


def _run(*arguments: str, settings: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | (settings or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_upstream_s_launches_find_what_the_pack_has(launches, tmp_path):
    packed, tree = tmp_path / "packed.tar.xz", Path(vllm.__file__).parents[1]
    _run(make.__file__, "--tree", str(tree), "--out", str(packed), "--only", *CHEAP)
    kernels, launched, before, after = launches(packed)
    assert kernels == launched == 9
    assert before == [0, True, 0, 0]  # launchers compiled, nothing else, and no module loaded
    assert after == [0, False, 9, 9]


def test_upstream_s_launches_find_what_the_threads_compiled(launches, tmp_path):
    kernels, launched, before, after = launches(tmp_path / "none.tar.xz")
    assert (kernels, launched) == (9, 4)
    assert before == [4, True, 0, 0]
    assert after == [0, False, 4, 4]
