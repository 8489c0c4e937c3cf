# SPDX-License-Identifier: Apache-2.0
"""Tests of an installed wheel: one server per FP8 format, shared by all tests of it."""

import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "examples/tiny_qwen3")]

from export import export  # noqa: E402
from server import Server  # noqa: E402

from benchmarks.reference import Qwen3  # noqa: E402

try:
    version("vllm")
except PackageNotFoundError:
    collect_ignore_glob = ["test_*.py"]  # scripts/test installs the wheel and demands that it runs


class Model:
    """A checkpoint, the server that runs it, and the reference that says what is right."""

    def __init__(self, form: str, folder: Path, server: Server) -> None:
        self.form = form
        self.folder = folder
        self.server = server
        self.reference = Qwen3(folder)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("end_to_end")


@pytest.fixture(scope="session", params=["fp8-token", "fp8-block"])
def model(request: pytest.FixtureRequest, workplace: Path) -> Iterator[Model]:
    folder = export(workplace, request.param)
    with Server(folder, workplace / f"{request.param}.log") as server:
        yield Model(request.param, folder, server)
