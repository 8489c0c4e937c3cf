# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs for decode steps of their own, so that those run our attention.

Under cudagraph mode FULL upstream captures one graph for each number of tokens, which serves a
decode step and any mixture of prompts alike; our attention knows steps of one token a sequence
only. Modes with a decode routine of their own leave out mixed steps, or need torch.compile.
"""

from typing import TYPE_CHECKING, Any

import torch

from vllm.config.compilation import CUDAGraphMode

if TYPE_CHECKING:
    from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor, CudaGraphManager

_used = False
_decode = False
_warming_up = False


def use() -> None:
    """A layer of this process runs our attention."""
    global _used
    _used = True


def separate_decode(manager: "CudaGraphManager") -> bool:
    """Whether decode steps get graphs besides those of mode FULL."""
    full = manager.cudagraph_mode == CUDAGraphMode.FULL
    return _used and full and manager.decode_query_len == 1


def capturing(graph: "BatchExecutionDescriptor") -> None:
    """What is captured from now on, after a run to warm up."""
    global _decode, _warming_up
    _decode, _warming_up = graph.uniform_token_count == 1, True


def is_decode(metadata: Any) -> bool:
    """Whether every sequence of this step has one token, in every replay too.

    metadata: of FlashAttention. What a graph is captured with says nothing: a mixed step is
    captured with one token a sequence as well. The run ahead of a capture is to run the same
    kernels: upstream's, too, are loaded when they are first launched.
    """
    global _warming_up
    if torch.cuda.is_current_stream_capturing():
        _warming_up = False
        return _decode
    # Of more tokens never, whatever was announced and not captured.
    return metadata.max_query_len == 1 and (_decode or not _warming_up)
