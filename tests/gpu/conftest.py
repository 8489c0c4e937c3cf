# SPDX-License-Identifier: Apache-2.0
"""Tests that need a GPU: skipped without one."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.with_name("helion_kernels"))]  # what tests share


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(skip)


@pytest.fixture
def compiled() -> Iterator[list[str]]:
    """Names of the kernels that Triton compiles during the test."""
    from triton import knobs

    names: list[str] = []

    def note(**about: object) -> None:
        names.append(str(about.get("repr")))

    before = knobs.runtime.jit_post_compile_hook
    knobs.runtime.jit_post_compile_hook = note
    yield names
    knobs.runtime.jit_post_compile_hook = before
