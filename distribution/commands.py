# SPDX-License-Identifier: Apache-2.0
"""The commands that setuptools runs for pip, in our terms. They take the options that
``setuptools.build_meta`` passes, and no more."""

from pathlib import Path
from typing import ClassVar

from setuptools import Command
from setuptools.command.egg_info import egg_info

from .build import ROOT, build_wheel, configured
from .editable import build_editable, scratch
from .tree import write


def project_version() -> str:
    """The version for ``setup()``, of the variant that would be built here."""
    return configured().version


class BdistWheel(Command):
    """Build the wheel."""

    description = "build the patched wheel"
    user_options: ClassVar = [("dist-dir=", "d", "where to"), ("dist-info-dir=", None, "not used")]

    def initialize_options(self) -> None:
        self.dist_dir = "dist"
        self.dist_info_dir = None

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        build_wheel(configured(), Path(self.dist_dir))


class EditableWheel(BdistWheel):
    """Unpack the tree that an editable installation runs from, and build its small wheel."""

    description = "build an editable wheel"

    def run(self) -> None:
        build_editable(configured(), Path(self.dist_dir))


class DistInfo(Command):
    """Write the wheel's metadata ahead of the wheel."""

    description = "write the dist-info"
    user_options: ClassVar = [
        ("output-dir=", "o", "where to"),
        ("keep-egg-info", None, "leave an egg-info too"),
    ]

    def initialize_options(self) -> None:
        self.output_dir = "."
        self.keep_egg_info = False

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        build = configured()
        for name, member in build.dist_info(build.foundation()).items():
            path = Path(self.output_dir) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, member)
        if self.keep_egg_info:  # build_meta looks for one, and for nothing in it
            Path(self.output_dir, "vllm.egg-info").mkdir(exist_ok=True)


class EggInfo(egg_info):
    """What setuptools asks for before all else; kept out of the source tree."""

    def finalize_options(self) -> None:
        self.egg_base = str(scratch(ROOT))
        super().finalize_options()


COMMANDS = {
    "bdist_wheel": BdistWheel,
    "editable_wheel": EditableWheel,
    "dist_info": DistInfo,
    "egg_info": EggInfo,
}
