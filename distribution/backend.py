# SPDX-License-Identifier: Apache-2.0
"""What pip calls: setuptools' backend, with the compiler of packs where a build makes some."""

from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403

from . import packs, upstream, variant
from .errors import one_line


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """Build requirements beyond pyproject.toml's."""
    requires = build_meta.get_requires_for_build_wheel(config_settings)
    with one_line():
        if variant.chosen() == "cuda" and packs.wanted():
            requires += upstream.read(Path(__file__).parents[1]).requires["pack"]
    return requires
