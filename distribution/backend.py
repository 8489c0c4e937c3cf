# SPDX-License-Identifier: Apache-2.0
"""What pip calls: setuptools' backend, with what packs and pruning need where a build has them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403

from . import packs, prune, upstream, variant
from .errors import one_line


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """Build requirements beyond pyproject.toml's."""
    requires = build_meta.get_requires_for_build_wheel(config_settings)
    return requires + _of_cuda("pack", packs.wanted) + _of_cuda("prune", prune.wanted)


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """As for a wheel, less the packs: these are for `python -m distribution compile`."""
    requires = build_meta.get_requires_for_build_editable(config_settings)
    return requires + _of_cuda("prune", prune.wanted)


def _of_cuda(group: str, wanted: Callable[[], object]) -> list[str]:
    with one_line():
        if variant.chosen() != "cuda" or not wanted():
            return []
        return upstream.read(Path(__file__).parents[1]).requires[group]
