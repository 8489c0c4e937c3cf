# SPDX-License-Identifier: Apache-2.0
"""A build from end to end: what it is of, and the steps in their order."""

import json
from dataclasses import dataclass
from pathlib import Path

from . import (
    metadata,
    native,
    overlay,
    packs,
    patch,
    prune,
    upstream_kernels,
    variant,
    version,
    wheel,
)
from . import upstream as upstream_toml
from .errors import BuildError
from .tree import Data, Tree
from .upstream import Upstream

ROOT = Path(__file__).resolve().parent.parent
BUILD_FILE = "vllm/helion/_build.json"
_VERSION_FILE = "vllm/_version.py"


@dataclass(frozen=True)
class Build:
    """What is built: from which repository and upstream, for which device, as which version."""

    root: Path
    upstream: Upstream
    variant: str
    version: str
    arches: list[str]

    @property
    def tag(self) -> str:
        """The wheel's tag, that of the wheel whose Python tree is used."""
        return wheel.tag(self.upstream.wheels["cuda"].file)

    @property
    def pruned(self) -> bool:
        """Whether this is a wheel for some architectures alone, made as small as it can be."""
        return self.variant == "cuda" and bool(self.arches)

    def foundation(self) -> Tree:
        """Upstream's files, with its dist-info."""
        return variant.foundation(self.upstream, self.variant)

    def compiled(self, foundation: Tree) -> Tree:
        """The dispatcher and, for GPUs, packs of kernels, ours and upstream's; compiled now."""
        tree = native.library(self.root)
        if self.variant == "cuda":
            tree |= packs.make(self.root, foundation, self.arches)
            # Unpatched: no patch touches their files (tests/distribution/test_compiled.py).
            tree |= upstream_kernels.make(self.root, foundation, self.arches)
        return tree

    def files(self, foundation: Tree, compiled: Tree) -> Tree:
        """What is installed beside the dist-info: upstream patched, overlaid, pruned; compiled."""
        tree = wheel.without_dist_info(foundation)
        patches = patch.read_series(self.root / "patches")
        patch.apply(patches, tree)
        overlay.lay(self.root, tree)
        tree.update(compiled)
        if self.pruned:
            prune.prune_tree(tree, self.arches)
        if _VERSION_FILE not in tree:
            raise BuildError(f"upstream has no {_VERSION_FILE}; port distribution/build.py to it")
        module = metadata.version_module(tree[_VERSION_FILE].read().decode(), self.version)
        tree[_VERSION_FILE] = Data(module.encode())
        facts = {
            "version": self.version,
            "variant": self.variant,
            "upstream_version": self.upstream.version,
            "patch_set_sha256": patch.digest(patches),
            "cuda_architectures": (self.arches or None) if self.variant == "cuda" else None,
        }
        tree[BUILD_FILE] = Data((json.dumps(facts, indent=2) + "\n").encode())
        return tree

    def dist_info(self, foundation: Tree) -> Tree:
        """The dist-info, less RECORD."""
        requires = self.upstream.requires[self.variant]
        return wheel.dist_info(foundation, self.root, self.version, requires, self.tag)


def configured(root: Path = ROOT, device: str | None = None) -> Build:
    """The build that upstream.toml, the repository's history and the environment describe."""
    upstream = upstream_toml.read(root)
    device = device or variant.chosen()
    name = version.full(upstream.version, version.ours(root), device)
    return Build(root, upstream, device, name, prune.wanted())


def build_wheel(build: Build, folder: Path) -> Path:
    """Build the wheel into ``folder``."""
    foundation = build.foundation()
    files = build.files(foundation, build.compiled(foundation))
    return wheel.write(folder, files, build.dist_info(foundation), build.tag, build.pruned)
