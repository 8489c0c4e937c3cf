# SPDX-License-Identifier: Apache-2.0
"""Sampling parameters that kernels read lie in device memory.

Upstream leaves them in host memory, and each program of its sampling kernels asks for its row's
over PCIe, the 149 of a row of Qwen3's logits in one kernel: on an H200 sampling takes 22, 25, 44
and 69 us at 1, 8, 32 and 128 sequences, and 7, 9, 14 and 35 with temperatures and seeds beside the
logits (docs/performance-log.md). They change when requests come, so most steps copy nothing.
"""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from vllm.v1.worker.gpu.buffer_utils import UvaBackedTensor
    from vllm.v1.worker.gpu.sample.states import SamplingStates

PARAMETERS = ("temperature", "min_p", "seeds")
"""Which kernels read once a program; top_k and top_p are gathered once a step."""

_serves = False


def use(serves: bool) -> None:
    """Whether this process keeps copies: where its model's layers are ours."""
    global _serves
    _serves = serves


def to_device(states: "SamplingStates") -> None:
    """Let kernels read copies. To be called where upstream has renewed what they read, in the
    stream that they run in: steps ahead have read theirs before a copy is written."""
    if not _serves or not states.temperature.gpu.is_cuda:
        return
    for name in PARAMETERS:
        parameter = getattr(states, name)
        if not hasattr(parameter, "helion"):
            parameter.helion = Copy(parameter)
        parameter.helion.serve(parameter)


class Copy:
    """A parameter's values, [max_num_reqs], in device memory."""

    def __init__(self, parameter: "UvaBackedTensor") -> None:
        with torch.inference_mode(False):  # Else it could not be written outside of that mode.
            self.tensor = torch.empty_like(parameter.cpu, device=parameter.gpu.device)
        self.values: bytes | None = None

    def serve(self, parameter: "UvaBackedTensor") -> None:
        values = parameter.np.tobytes()  # In each step: a tenth of what np.array_equal takes.
        if values != self.values:
            self.values = values
            self.tensor.copy_(parameter.gpu, non_blocking=True)
        parameter.gpu = self.tensor
