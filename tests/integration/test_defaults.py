# SPDX-License-Identifier: Apache-2.0
"""Which engine defaults a served model gets, and who keeps upstream's."""

from types import SimpleNamespace

import pytest

pytest.importorskip("vllm.helion")

from vllm.config.compilation import CompilationMode, CUDAGraphMode
from vllm.config.kv_transfer import KVTransferConfig
from vllm.config.vllm import OptimizationLevel
from vllm.helion import defaults, served
from vllm.platforms import current_platform


def by_layer(on):
    """A connector of upstream's that works layer by layer, or not, by its own setting."""
    return KVTransferConfig(
        kv_connector="LMCacheConnectorV1",
        kv_role="kv_both",
        kv_connector_extra_config={"use_layerwise": on},
    )


@pytest.fixture
def configured(monkeypatch):
    """(mode, graphs) of a config after ours has seen it."""
    monkeypatch.setattr(served, "model_refusal", lambda config: None)
    monkeypatch.setattr(type(current_platform), "is_cuda", lambda self: True)

    def make(eager=False, level=OptimizationLevel.O2, transfer=None, **compilation):
        config = SimpleNamespace(
            additional_config={},
            compilation_config=SimpleNamespace(
                **({"mode": None, "cudagraph_mode": None} | compilation)
            ),
            optimization_level=level,
            model_config=SimpleNamespace(enforce_eager=eager),
            kv_transfer_config=transfer,
        )
        defaults.Qwen3Defaults.verify_and_update_config(config)
        assert config.additional_config["helion"]
        return config.compilation_config.mode, config.compilation_config.cudagraph_mode

    return make


@pytest.mark.parametrize("transfer", [None, by_layer(False)], ids=["none", "connector"])
def test_no_compilation_and_full_graphs(transfer, configured):
    assert configured(transfer=transfer) == (CompilationMode.NONE, CUDAGraphMode.FULL)


@pytest.mark.parametrize(
    "choice",
    [
        {"eager": True},
        {"level": OptimizationLevel.O1},
        {"mode": CompilationMode.VLLM_COMPILE},
        {"cudagraph_mode": CUDAGraphMode.PIECEWISE},
    ],
    ids=lambda choice: next(iter(choice)),
)
def test_what_a_user_chose_stays(choice, configured):
    unchanged = choice.get("mode"), choice.get("cudagraph_mode")
    assert configured(**choice) == unchanged


def test_a_connector_that_works_layer_by_layer_keeps_upstreams_pieces(configured):
    """No full graph calls it between layers."""
    assert configured(transfer=by_layer(True)) == (None, None)


def test_a_model_that_is_not_served_is_left_alone(monkeypatch):
    monkeypatch.setattr(served, "model_refusal", lambda config: "a reason")
    defaults.Qwen3Defaults.verify_and_update_config(SimpleNamespace())
