# SPDX-License-Identifier: Apache-2.0
"""The build of vLLM-Helion: upstream's wheel, patched and overlaid by distribution/."""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).parent))

from distribution.commands import COMMANDS, project_version
from distribution.errors import one_line

with one_line():
    setup(version=project_version(), cmdclass=COMMANDS, packages=[], py_modules=[])
