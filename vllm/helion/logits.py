# SPDX-License-Identifier: Apache-2.0
"""Logits in float32, as the lm_head's product has them before upstream rounds them to bf16.

Of all that an engine rounds this is what moves log-probabilities most for what it costs: on the
trained tiny Qwen3 a token's is 0.1114 from the quantised model's in float64 instead of 0.1121 on
the average, and what Inductor leaves unrounded in upstream's layers is worth 0.0004
(docs/performance-log.md). The product is upstream's own for an lm_head of `head_dtype` float32.
"""

import torch
from torch import nn

from vllm.config import VllmConfig
from vllm.helion import lm_head, switches
from vllm.logger import init_logger
from vllm.platforms import current_platform

logger = init_logger(__name__)


def keep_float32(model: nn.Module, config: VllmConfig) -> bool:
    """Have a loaded model's logits in float32, where its lm_head is in bf16; the log says so."""
    if not wanted(config) or not _can(model, config):
        return False
    model.logits_processor.head_dtype = torch.float32
    logger.info(
        'Helion: logits in float32 (--hf-overrides \'{"head_dtype": "model"}\' overrides this)'
    )
    return True


def wanted(config: VllmConfig) -> bool:
    """Whether a served model is to have them, as far as its config says."""
    return (
        # A CPU has no such product: upstream would make a float32 copy of the weight in each step.
        current_platform.is_cuda()
        # Whose product is upstream's own, for bf16 results.
        and not switches.batch_invariant()
        # Parts of logits would be gathered, in twice the bytes.
        and config.parallel_config.tensor_parallel_size == 1
        and getattr(config.model_config.hf_config, "head_dtype", None) is None
        and not switches.fp8_lm_head()  # Its product has none.
    )


def _can(model: nn.Module, config: VllmConfig) -> bool:
    return (
        hasattr(model, "logits_processor")
        and lm_head.refusal(getattr(model, "lm_head", None), config) is None
    )
