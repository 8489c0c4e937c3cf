# SPDX-License-Identifier: Apache-2.0
"""Our version: upstream's, then ours from the repository's history as its local part.

``0.26.0+helion.0.1.dev12.gabc1234``: 12 commits after what will be 0.1, at commit abc1234. A tree
with changes that are not committed ends in ``.dirty``, the cpu variant in ``.cpu`` (vLLM picks its
platform by the word ``cpu`` in its version). No date: the same tree gives the same version.
"""

import logging
import re
import warnings
from pathlib import Path
from typing import Any

from .errors import BuildError

NAME = "vllm-helion"
_PRETEND = "SETUPTOOLS_SCM_PRETEND_VERSION_FOR_VLLM_HELION"


def ours(root: Path) -> str:
    """Our part, such as ``0.1.dev12+gabc1234``: setuptools-scm's word on the repository ``root``.

    A source distribution has no history but a PKG-INFO, which holds the version it was made as.
    """
    if (root / "PKG-INFO").exists() and not (root / ".git").exists():
        return _from_pkg_info(root / "PKG-INFO")
    from setuptools_scm import get_version

    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # what it logs and warns of, at length, is our error below
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return get_version(root=str(root), dist_name=NAME, local_scheme=_local_scheme)
    except Exception as error:  # setuptools-scm fails in several ways, all of them this one
        raise BuildError(
            f"no version for {root}: no git history that git can read ({_first_line(error)});"
            f" build from a clone, or set {_PRETEND}=0.1"
        ) from None
    finally:
        logging.disable(level)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _local_scheme(version: Any) -> str:
    """``+g<commit>``, ``.dirty`` added for uncommitted changes; nothing at a clean tag."""
    parts = [] if version.exact else [(version.node or "unborn")[:8]]
    return "+" + ".".join(parts + ["dirty"] * bool(version.dirty)) if parts or version.dirty else ""


def _from_pkg_info(path: Path) -> str:
    match = re.search(r"^Version: \S+\+helion\.(\S+)$", path.read_text("utf-8"), re.MULTILINE)
    if not match:
        raise BuildError(f"{path} has no version of ours; build from a clone instead")
    return match[1].removesuffix(".cpu")


def full(upstream: str, own: str, variant: str) -> str:
    """The version of the distribution, in the normal form of PEP 440."""
    from packaging.version import InvalidVersion, Version

    text = f"{upstream}+helion.{own.replace('+', '.')}" + (".cpu" if variant == "cpu" else "")
    try:
        return str(Version(text))
    except InvalidVersion:
        raise BuildError(f"{text} is no version; set {_PRETEND} to one like 0.1") from None
