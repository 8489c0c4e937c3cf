# SPDX-License-Identifier: Apache-2.0
"""Generated Triton code at real tile sizes, on a CPU: Helion's own interpreter ignores tiles.

Sizes are such that tiles overhang in every dimension and that a reduction takes several tiles.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helion_kernels import OPS, split_k

ROOT = Path(__file__).parents[2]
DIMS = {
    "dynamic_per_token_scaled_fp8_quant": (640,),
    "per_token_group_fp8_quant": (640,),
    "rms_norm_dynamic_per_token_quant": (640, True),
    "rms_norm_per_block_quant": (640, False),
    "silu_and_mul_dynamic_per_token_quant": (640,),
    "silu_and_mul_per_block_quant": (640,),
    "fused_qk_norm_rope": (6, 3, 64),
    "fused_qk_norm_rope_kv_write": (6, 3, 64),
    "scaled_mm": (200, 640),
    "scaled_mm_blockwise": (200, 640),
}


def cases(name):
    """The op's own rule at each bucket, and some of its space.

    Few tokens for all but the GEMMs: the interpreter takes 50 ms for a program that reduces.
    """
    op, dims = OPS[name], OPS[name].dims(*DIMS[name])
    most = 130 if name.startswith("scaled_mm") else 5
    for num_tokens in (1, 19, 37, 130):
        yield min(num_tokens, most), op.default_config(dims, num_tokens)
    space = op.space(dims, 19)
    for config in space[:: max(1, len(space) // 3)]:
        yield min(19, most), config
    for config in [c for c in space if split_k.MIN_PART in c["block_sizes"][2:]][:2]:
        yield 19, config


def run(asked):
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("triton_interpreted.py"))],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def wrong():
    """What is wrong, by op: one process for all, since importing takes longest."""
    asked = [
        [name, list(DIMS[name]), num_tokens, dict(config)]
        for name in OPS
        for num_tokens, config in cases(name)
    ]
    found = run(asked)
    return {name: [item for item in found if item[3].startswith(name + ":")] for name in OPS}


@pytest.mark.parametrize("name", OPS)
def test_right_at_every_tile_size(name, wrong):
    assert wrong[name] == []
