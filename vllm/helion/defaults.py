# SPDX-License-Identifier: Apache-2.0
"""Engine defaults for a model whose layers we serve."""

from typing import TYPE_CHECKING

from vllm.config.compilation import CompilationMode, CUDAGraphMode
from vllm.config.vllm import OptimizationLevel
from vllm.helion import build, served
from vllm.logger import init_logger
from vllm.model_executor.models.config import VerifyAndUpdateConfig

if TYPE_CHECKING:
    from vllm.config import VllmConfig

logger = init_logger(__name__)


class Qwen3Defaults(VerifyAndUpdateConfig):
    """No torch.compile, FULL CUDA graphs: what is written in the layer is what runs."""

    @staticmethod
    def verify_and_update_config(vllm_config: "VllmConfig") -> None:
        if served.model_refusal(vllm_config) is not None:
            return  # the worker says why, once it knows the layers
        if isinstance(vllm_config.additional_config, dict):
            vllm_config.additional_config.setdefault("helion", build.fingerprint())

        from vllm.platforms import current_platform

        compilation = vllm_config.compilation_config
        # The user's own choice wins: any of these set means that they made one. A KV connector
        # that works layer by layer takes piecewise graphs, and those torch.compile.
        chosen = (
            compilation.mode is not None
            or compilation.cudagraph_mode is not None
            or vllm_config.optimization_level != OptimizationLevel.O2
            or vllm_config.model_config.enforce_eager
            or _transfers_by_layer(vllm_config)
        )
        if chosen:
            return
        # Without torch.compile vLLM drops its default FULL_AND_PIECEWISE to NONE. FULL alone also
        # serves mixed batches under FlashAttention 3, and degrades to decode-only elsewhere.
        compilation.mode = CompilationMode.NONE
        if current_platform.is_cuda():
            compilation.cudagraph_mode = CUDAGraphMode.FULL
        logger.info_once(
            "Helion: torch.compile off%s (--compilation-config overrides this)",
            ", FULL CUDA graphs" if current_platform.is_cuda() else "",
        )


def _transfers_by_layer(vllm_config: "VllmConfig") -> bool:
    """Whether a KV connector must be called between layers, which no full CUDA graph does."""
    transfer = vllm_config.kv_transfer_config
    if transfer is None or not transfer.is_kv_transfer_instance:
        return False
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    connector = KVConnectorFactory.get_connector_class(transfer)
    return connector.requires_piecewise_for_cudagraph(transfer.kv_connector_extra_config)
