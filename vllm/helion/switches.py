# SPDX-License-Identifier: Apache-2.0
"""Environment variables of ours. Each is known to vLLM's own environment check."""

import os
from pathlib import Path

SWITCHES = {
    "VLLM_HELION": (
        "1",
        "0: every layer runs upstream's code, exactly as if this were upstream's wheel",
    ),
    "VLLM_HELION_PDL": (
        "1",
        "0: no kernel starts before the one ahead of it has ended (programmatic dependent launch)",
    ),
    "VLLM_HELION_ATTENTION": (
        "1",
        "0: decode steps keep upstream's attention, as steps with prompts always do",
    ),
    "VLLM_HELION_FP8_LM_HEAD": (
        "0",
        "1: the lm_head in FP8, half the bytes; logits change a little",
    ),
    "VLLM_HELION_UE8M0": (
        "0",
        "1: block FP8 weights get scales that are powers of two, as upstream has them for DeepGEMM",
    ),
    "VLLM_HELION_CONFIG_DIR": (
        "",
        "your tuned configs; default: helion/configs in vLLM's cache directory",
    ),
}


def enabled() -> bool:
    """Whether VLLM_HELION allows us to serve anything."""
    return _on("VLLM_HELION")


def pdl() -> bool:
    """Whether kernels that are made for it may start while the one ahead of them still runs."""
    return _on("VLLM_HELION_PDL")


def attention() -> bool:
    """Whether decode steps run our attention."""
    return _on("VLLM_HELION_ATTENTION")


def fp8_lm_head() -> bool:
    """Whether the lm_head is quantised when it is loaded."""
    return _on("VLLM_HELION_FP8_LM_HEAD")


def ue8m0() -> bool:
    """Whether the scales of block FP8 weights are rounded up to powers of two."""
    return _on("VLLM_HELION_UE8M0")


def batch_invariant() -> bool:
    """Upstream's VLLM_BATCH_INVARIANT: a prompt's results may not depend on what runs beside it."""
    from vllm import envs

    return bool(envs.VLLM_BATCH_INVARIANT)


def _on(name: str) -> bool:
    return os.environ.get(name, SWITCHES[name][0]) not in ("0", "false")


def values() -> dict[str, str]:
    """Every switch as it is set now."""
    return {name: os.environ.get(name, default) for name, (default, _) in SWITCHES.items()}


def register() -> None:
    """Tell vLLM about our variables; it warns about VLLM_* names that it does not know."""
    from vllm import envs

    for name, (default, _) in SWITCHES.items():
        envs.environment_variables.setdefault(
            name, lambda name=name, default=default: os.environ.get(name, default)
        )


def cache_folder() -> Path:
    """Where `vllm helion pack` puts packs, and where they are looked for."""
    from vllm import envs

    return Path(envs.VLLM_CACHE_ROOT) / "helion"


def config_dir() -> str:
    """The folder of the user's tuned configs; `vllm helion tune` writes there."""
    from vllm import envs

    own = os.environ.get("VLLM_HELION_CONFIG_DIR")
    return own or os.path.join(envs.VLLM_CACHE_ROOT, "helion", "configs")


def set_config_dir() -> None:
    """Point the kernels at the user's tuned configs."""
    os.environ.setdefault("HELION_KERNELS_CONFIG_DIR", config_dir())
