# SPDX-License-Identifier: Apache-2.0
"""What upstream makes anew in each step although it is known.

Around its graph a decode step of vLLM 0.26 launches some sixteen small kernels and copies, each of
which the next waits for. Where every sequence has one token, these need not be: numbers that never
change, the places of tokens that are all sampled from, how many tokens were sampled (one each), and
which requests there are, when they are those of the step before.

With FlashAttention's schedule (`graphs.needs_schedule`) that is 31, 38 and 15 us of a step of
Qwen3-8B at 1, 8 and 32 sequences and, as its host is what it waits for, 128, 53 and 51 us of
Qwen3-1.7B's 1374, 1490 and 1924 (H200).
"""

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from vllm.v1.worker.gpu.input_batch import InputBatch

LENGTH = 1024
"""Of known numbers, at least: vLLM's default for the sequences of a step."""

_serves = False
_requests: "Copied | None" = None


class Known(NamedTuple):
    """int32, to be read only."""

    numbers: torch.Tensor
    zeros: torch.Tensor
    ones: torch.Tensor


class Copied(NamedTuple):
    values: bytes
    device: torch.device
    tensor: torch.Tensor


def use(serves: bool) -> None:
    """Whether this process spares its steps that: where its model's layers are ours."""
    global _serves, _requests
    _serves, _requests = serves, None


@cache
def _known(device: torch.device, length: int) -> Known:
    make = {"dtype": torch.int32, "device": device}
    with torch.inference_mode(False):
        return Known(
            torch.arange(length, **make), torch.zeros(length, **make), torch.ones(length, **make)
        )


def _longer(count: int, device: torch.device) -> Known:
    """As many of each, or more."""
    return _known(device, max(LENGTH, 1 << (count - 1).bit_length()))


def numbers(count: int, device: torch.device) -> torch.Tensor:
    """0 ... count - 1."""
    if not _serves:
        return torch.arange(count, dtype=torch.int32, device=device)
    return _longer(count, device).numbers[:count]


def zeros(count: int, device: torch.device) -> torch.Tensor:
    if not _serves:
        return torch.zeros(count, dtype=torch.int32, device=device)
    return _longer(count, device).zeros[:count]


def requests(index: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy of `index` [num_reqs] int32, the requests of a step."""
    global _requests
    values = index.tobytes()
    if _serves and _requests is not None and _requests[:2] == (values, device):
        return _requests.tensor
    from vllm.v1.worker.gpu.buffer_utils import async_copy_to_gpu

    _requests = Copied(values, device, async_copy_to_gpu(index, device=device))
    return _requests.tensor


def sampled_from(indices: torch.Tensor, num_tokens: int, num_guesses: int) -> torch.Tensor | slice:
    """indices: of the tokens of a step, num_tokens, that logits are made of, ascending. As a slice
    where they are all, which indexes without a copy."""
    every = len(indices) == num_tokens and num_guesses == 0
    return slice(num_tokens) if _serves and every else indices


def sampled(batch: "InputBatch") -> tuple[torch.Tensor, torch.Tensor] | None:
    """How many tokens each request has got, and how many guesses it has lost, if that is known."""
    if not _serves or batch.num_draft_tokens or batch.is_prefilling_np.any():
        return None
    made = _longer(batch.num_reqs, batch.seq_lens.device)
    return made.ones[: batch.num_reqs], made.zeros[: batch.num_reqs]
