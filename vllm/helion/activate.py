# SPDX-License-Identifier: Apache-2.0
"""What we do once in every vLLM process."""

from vllm.helion import build, switches

_active = False


def is_active() -> bool:
    """False where `VLLM_PLUGINS` names others only: then vLLM never calls us."""
    return _active


def activate() -> None:
    """Register switches, defaults and the cpu kernel. Light: no CUDA, no Helion import.

    Raises RuntimeError where this wheel holds no code for the GPU that it would run on.
    """
    global _active
    if _active:
        return
    _active = True
    switches.register()
    build.check_architecture()
    if not switches.enabled():
        return
    switches.set_config_dir()

    from vllm.helion import model_info
    from vllm.helion.defaults import Qwen3Defaults
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    MODELS_CONFIG_MAP.setdefault(model_info.ARCHITECTURE, Qwen3Defaults)
    model_info.seed_cache()

    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        from vllm.helion import cpu

        cpu.register()
