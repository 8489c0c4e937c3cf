# SPDX-License-Identifier: Apache-2.0
"""What is installed, `vllm helion status`, and stock behind VLLM_HELION=0."""

import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from export import export
from greedy import assert_greedy
from server import VLLM, Server, environment

from benchmarks.reference import Qwen3
from benchmarks.verdicts import logprobs

ROOT = Path(__file__).resolve().parents[2]


def status(folder: Path, **env: str) -> str:
    command = [str(VLLM), "helion", "status", "--model", str(folder)]
    result = subprocess.run(
        command,
        cwd=folder,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("name", ["helion_kernels", "vllm/helion"])
def test_the_installed_code_is_this_repositorys(name: str) -> None:
    """Other tests import the one, users run the other."""
    spec = find_spec("vllm")
    assert spec is not None and spec.origin is not None
    installed = Path(spec.origin).parents[1] / name
    assert installed != ROOT / name
    for source in (ROOT / name).rglob("*.py"):
        path = source.relative_to(ROOT / name)
        assert (installed / path).read_bytes() == source.read_bytes(), f"{path}: install it again"


def test_status_lists_every_op_with_its_launcher(workplace: Path) -> None:
    text = status(export(workplace, "fp8-block"))
    for word in ("scaled_mm_blockwise", "rms_norm_per_block_quant", "interpreter", "config source"):
        assert word in text


def test_status_says_that_the_switch_is_off(workplace: Path) -> None:
    assert "runs stock: VLLM_HELION=0" in status(export(workplace, "fp8-token"), VLLM_HELION="0")


def greedy(server: Server, **more: Any) -> dict[str, Any]:
    """The choice of a greedy completion, with its tokens."""
    request = {"prompt": "NumPy: argsort", "max_tokens": 8, "temperature": 0} | more
    choice: dict[str, Any] = server.post("/v1/completions", return_token_ids=True, **request)[
        "choices"
    ][0]
    return choice


def test_the_switch_gives_stock(workplace: Path) -> None:
    """Per-token FP8 only: upstream has no block FP8 for a CPU without AMX."""
    folder = export(workplace, "fp8-token")
    with Server(folder, workplace / "stock.log", VLLM_HELION="0") as server:
        choice = greedy(server)
        assert "Helion: serving" not in server.log()
    assert_greedy(Qwen3(folder), choice["prompt_token_ids"], choice["token_ids"])


def test_an_lm_head_in_fp8(workplace: Path) -> None:
    folder = export(workplace, "fp8-token")
    with Server(folder, workplace / "lm-head.log", VLLM_HELION_FP8_LM_HEAD="1") as server:
        answer = greedy(server, logprobs=1)
        assert "Helion: lm_head in FP8" in server.log()
        # vocab_size, hidden_size: a product that no layer has
        assert "n=4096, k=256" in server.log()
    reference = Qwen3(folder, fp8_lm_head=True)
    prompt, tokens = answer["prompt_token_ids"], answer["token_ids"]
    assert_greedy(reference, prompt, tokens)
    (exact,) = logprobs(reference, [prompt + tokens])
    served = torch.tensor(answer["logprobs"]["token_logprobs"])
    assert float((served - exact[-len(tokens) :]).abs().mean()) < 0.2
