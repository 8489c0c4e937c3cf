# SPDX-License-Identifier: Apache-2.0
"""Starts `triton_interpreted.py` and asks it questions."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("triton_interpreted.py")


class Interpreter:
    """The program, while it runs. Importing takes it some seconds: one for all tests."""

    def __init__(self) -> None:
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def ask(self, question: str, *arguments: Any) -> Any:
        """The answer of the program's function of that name. Raises AssertionError if it failed."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps([question, *arguments]), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise AssertionError(self.log.read()[-3000:])
        kind, value = json.loads(line)
        assert kind == "answer", value
        return value

    def close(self) -> None:
        self.process.communicate()
        self.log.close()
