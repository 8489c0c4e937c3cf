# SPDX-License-Identifier: Apache-2.0
"""What the tests of this folder share: `no_plans`, a fresh process; `triton`, its interpreter."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from interpreter import Interpreter

import helion_kernels  # noqa: F401
from helion_kernels import config_file, plan


@pytest.fixture
def no_plans(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plans, stock functions and config files as in a fresh process."""
    monkeypatch.setattr(plan, "PLANS", [])
    monkeypatch.setattr(plan, "_ids", {})
    monkeypatch.setattr(plan, "_stock", {})
    config_file.load.cache_clear()
    yield
    config_file.load.cache_clear()


@pytest.fixture(scope="session")
def triton() -> Iterator[Interpreter]:
    """Generated Triton code on the CPU."""
    program = Interpreter()
    yield program
    program.close()
