# SPDX-License-Identifier: Apache-2.0
"""Greedy steps take the largest logit of a row, and draw nothing.

Upstream's Gumbel kernel serves them, too: each of its 149 programs for a row of 151936 logits asks
host memory for the row's temperature, over PCIe, to learn that no noise is wanted. On an H100 that
takes 19 us of a step of one sequence and 38 of one of 32, and 7 more to join the programs' results;
one `torch.argmax` takes 10 and 19 (docs/performance-log.md). Temperatures are known to the host.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vllm.v1.worker.gpu.sample.states import SamplingStates

_serves = False


def use(serves: bool) -> None:
    """Whether greedy steps of this process are ours: where its model's layers are."""
    global _serves
    _serves = serves


def every(states: "SamplingStates", requests: np.ndarray) -> bool:
    """Whether each request of a step has a temperature of 0; ``requests`` [num_reqs] indexes the
    states. Bias, penalties, bad words and min_p have changed the logits before this is asked."""
    return _serves and not states.temperature.np[requests].any()
