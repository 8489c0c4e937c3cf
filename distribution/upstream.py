# SPDX-License-Identifier: Apache-2.0
"""upstream.toml: the release that we build on, its wheels, and our requirements."""

import sys
from dataclasses import dataclass
from pathlib import Path

from .errors import BuildError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Wheel:
    """One published wheel: how pip is asked for it, and how we know that it is the one."""

    requirement: str
    file: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Upstream:
    """What upstream.toml says."""

    version: str
    wheels: dict[str, Wheel]
    requires: dict[str, list[str]]


def read(root: Path) -> Upstream:
    """Read ``root``/upstream.toml."""
    path = root / "upstream.toml"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        wheels = {variant: Wheel(**pin) for variant, pin in data["wheels"].items()}
        return Upstream(data["version"], wheels, data["requires"])
    except FileNotFoundError:
        raise BuildError(f"{path} is missing; build from the repository's root") from None
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise BuildError(f"{path} is not as it should be: {error}; mend it") from None
