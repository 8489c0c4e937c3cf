# SPDX-License-Identifier: Apache-2.0
"""What upstream's registry wants to know of Qwen3 before it loads it, known beforehand.

Upstream imports a model in a process of its own to ask it, and keeps the answers in its cache: 24 s
of a first start on the H100 machine of docs/performance-log.md, half of the whole, and 22 s more
for an EAGLE3 draft. We put the answers there where there are none.
tests/integration/test_model_info.py compares them with the models' own.
"""

from pathlib import Path

from vllm.logger import init_logger

logger = init_logger(__name__)

ARCHITECTURE = "Qwen3ForCausalLM"
_DECODER = {
    "is_text_generation_model": True,
    "is_pooling_model": False,
    "attn_type": "decoder",
    "default_seq_pooling_type": "LAST",
    "default_tok_pooling_type": "ALL",
    "score_type": "bi-encoder",
    "supports_multimodal": False,
    "supports_multimodal_raw_input_only": False,
    "requires_raw_input_tokens": False,
    "supports_multimodal_encoder_tp_data": False,
    "supports_pp": True,
    "has_inner_state": False,
    "is_attention_free": False,
    "is_hybrid": False,
    "has_noops": False,
    "supports_mamba_prefix_caching": False,
    "supports_transcription": False,
    "supports_transcription_only": False,
}
_DRAFT = _DECODER | {"supports_pp": False}
FACTS = {
    ARCHITECTURE: _DECODER | {"architecture": ARCHITECTURE},
    "LlamaForCausalLMEagle3": _DRAFT | {"architecture": "Eagle3LlamaForCausalLM"},
    "Eagle3Qwen3ForCausalLM": _DRAFT | {"architecture": "Eagle3Qwen3ForCausalLM"},
}
"""By architecture; the drafts have other names besides, which are the same classes."""


def seed_cache() -> None:
    """Fill upstream's cache where it has no answers, or those of another version.

    Never fails: without it the first start takes longer.
    """
    try:
        from vllm.model_executor.models import registry

        for architecture, facts in FACTS.items():
            model = registry.ModelRegistry.models[architecture]
            if not isinstance(model, registry._LazyRegisteredModel):
                continue  # somebody registered a class of their own, which needs no asking
            name = f"{model.module_name.rsplit('.', 1)[1]}.py"
            version = model._get_modelinfo_module_hash(Path(registry.__file__).with_name(name))
            if model._load_modelinfo_from_cache(version) is None:
                model._save_modelinfo_to_cache(registry._ModelInfo(**facts), version)
    except Exception as error:
        logger.debug("Helion: upstream's cache of model facts was not filled: %r", error)
