# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs for decode steps of their own, so that those run our attention.

Under cudagraph mode FULL upstream captures one graph for each number of tokens, which serves a
decode step and any mixture of prompts alike; our attention knows steps only in which every sequence
has as many tokens: one, and where guesses are checked those, too. Modes with a decode routine of
their own leave out mixed steps, or need torch.compile.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from vllm.config.compilation import CUDAGraphMode

if TYPE_CHECKING:
    from vllm.helion.layer import HelionDecoderLayer
    from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor, CudaGraphManager

_query_len = 0
"""Tokens of each sequence in a decode step; 0: no layer runs our attention."""
_decode = False
_warming_up = False
_alone = False
"""Whether no attention but ours runs in decode graphs."""
_scheduled = True
"""Whether upstream's attention may run in this step."""


def use(query_len: int) -> None:
    """A layer of this process runs our attention, for so many tokens of each sequence."""
    global _query_len
    _query_len = query_len


def separate_decode(manager: "CudaGraphManager") -> bool:
    """Whether decode steps get graphs besides those of mode FULL."""
    full = manager.cudagraph_mode == CUDAGraphMode.FULL
    # A draft model has managers of its own, one of which knows as many tokens.
    from vllm.v1.worker.gpu.cudagraph_utils import ModelCudaGraphManager

    ours = isinstance(manager, ModelCudaGraphManager)
    return ours and full and manager.decode_query_len == _query_len


def capturing(graph: "BatchExecutionDescriptor") -> None:
    """What is captured from now on, after a run to warm up."""
    global _decode, _warming_up, _scheduled
    _decode, _warming_up = graph.uniform_token_count == _query_len, True
    _scheduled = True


def prepare(model: torch.nn.Module, layers: "Sequence[HelionDecoderLayer]") -> None:
    """Decode steps of this model, whose layers that are ours these are, need no schedule of
    FlashAttention's where all attention in them is ours."""
    global _alone
    from vllm.model_executor.layers.attention import Attention

    ours = {id(layer.attn) for layer in layers if layer.attends}
    # With guesses a draft's attention follows, which is upstream's and may share the metadata.
    _alone = _query_len == 1 and ours == {
        id(module) for module in model.modules() if isinstance(module, Attention)
    }


def upstream_attends() -> None:
    """A layer of ours has left a decode step's attention to upstream."""
    global _alone
    _alone = False


def starting(graph: "BatchExecutionDescriptor") -> None:
    """The next step; graph: what it replays, if that is one."""
    global _scheduled
    decode = graph.cg_mode == CUDAGraphMode.FULL and graph.uniform_token_count == _query_len
    _scheduled = not (_alone and decode)


def needs_schedule() -> bool:
    """Whether FlashAttention 3 needs its schedule of the step at hand: a kernel and two copies, and
    the host's time for them."""
    return _scheduled


def is_decode(metadata: Any) -> bool:
    """Whether every sequence of this step has as many tokens as was said, in every replay too.

    metadata: of FlashAttention. What a graph is captured with says nothing: a mixed step is
    captured with as many tokens a sequence as well. The run ahead of a capture is to run the same
    kernels: upstream's, too, are loaded when they are first launched. Without a graph the metadata
    knows the most tokens of a sequence, which says it all of one token alone.
    """
    global _warming_up
    if torch.cuda.is_current_stream_capturing():
        _warming_up = False
        return _decode
    # Of more tokens never, whatever was announced and not captured.
    decode = _decode if _warming_up else _query_len == 1
    return decode and metadata.max_query_len == _query_len
