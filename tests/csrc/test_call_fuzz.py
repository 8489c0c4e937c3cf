# SPDX-License-Identifier: Apache-2.0
"""No call crashes, whatever it is given: in a process of its own, which a crash would end."""

import ast
import os
import subprocess
import sys


def test_wrong_calls_are_exceptions_that_name_op_and_argument(built, pack_path):
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "fuzz_calls", str(built), str(pack_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = ast.literal_eval(done.stdout)
    assert outcomes["refused"] > outcomes["launched"] > 0
