# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs for decode steps of their own, so that those run our attention.

Under cudagraph mode FULL upstream captures one graph for each number of tokens, which serves a
decode step and any mixture of prompts alike; `paged_attention` knows steps of one token a sequence
only. Modes with a decode routine of their own leave out mixed steps, or need torch.compile.
"""

from typing import TYPE_CHECKING, Any

import torch

from vllm.config.compilation import CUDAGraphMode

if TYPE_CHECKING:
    from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor, CudaGraphManager

_used = False
_decode = False


def use() -> None:
    """A layer of this process runs our attention."""
    global _used
    _used = True


def separate_decode(manager: "CudaGraphManager") -> bool:
    """Whether decode steps get graphs besides those of mode FULL."""
    full = manager.cudagraph_mode == CUDAGraphMode.FULL
    return _used and full and manager.decode_query_len == 1


def capturing(graph: "BatchExecutionDescriptor") -> None:
    """What is captured from now on."""
    global _decode
    _decode = graph.uniform_token_count == 1


def is_decode(metadata: Any) -> bool:
    """Whether every sequence of this step has one token, in every replay too.

    metadata: of FlashAttention. What a graph is captured with says nothing: a mixed step is
    captured with one token a sequence as well.
    """
    if torch.cuda.is_current_stream_capturing():
        return _decode
    return metadata.max_query_len == 1
