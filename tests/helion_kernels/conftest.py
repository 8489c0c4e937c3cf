# SPDX-License-Identifier: Apache-2.0
"""Fixtures: every launcher planned is forgotten after a test that asks for `no_plans`."""

from collections.abc import Iterator

import pytest

import helion_kernels  # noqa: F401
from helion_kernels import plan, select


@pytest.fixture
def no_plans(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plans, stock functions and config files as in a fresh process."""
    monkeypatch.setattr(plan, "PLANS", [])
    monkeypatch.setattr(plan, "_ids", {})
    monkeypatch.setattr(plan, "_stock", {})
    select._load.cache_clear()
    yield
    select._load.cache_clear()
